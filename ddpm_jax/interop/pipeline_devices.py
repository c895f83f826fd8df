"""A pipeline's program on all devices: images are split over them, parameters copied to each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.runtime import compiling, sharding


class Placed:
    """Parameters, and their copies on the devices of a mesh."""

    def __init__(self, params: Any):
        """Nothing is copied yet."""
        self._params = params
        self._copies: dict[Mesh, Any] = {}

    def on(self, mesh: Mesh) -> Any:
        """The parameters on every device of a mesh; those of one device stay as they are."""
        if mesh.size == 1:
            return self._params
        if mesh not in self._copies:
            self._copies.clear()  # another mesh is of another number of images: one copy is kept
            self._copies[mesh] = jax.device_put(self._params, sharding.replicated(mesh))
        return self._copies[mesh]


class Program:
    """One compiled program (parameters, numbers, arrays [num, ...]) -> images [num, ...].

    Attributes:
      mesh: the devices that draw.
      compiled: the jitted function of whole rows of devices.
    """

    def __init__(self, draw: Callable[[Any, Any, Any], jax.Array], num: int):
        """Nothing is compiled yet.

        Args:
          draw: the pure function of parameters, numbers and arrays.
          num: images of a call: they lie on as many devices as there are, and no more than images.
        """
        self._num = num
        self.mesh = sharding.make_mesh(min(num, jax.device_count()))
        copies, batch = sharding.replicated(self.mesh), sharding.batch_sharding(self.mesh)
        self.compiled = compiling.jit(
            draw, in_shardings=(copies, copies, batch), out_shardings=batch
        )

    def __call__(self, params: Placed, numbers: dict[str, float], arrays: Any) -> np.ndarray:
        """The images as floats; those that fill the last rows of the devices up are dropped."""
        filled = np.minimum(
            np.arange(-(-self._num // self.mesh.size) * self.mesh.size), self._num - 1
        )
        if len(filled) > self._num:
            arrays = jax.tree.map(lambda x: x[filled], arrays)
        single = {name: jnp.float32(value) for name, value in numbers.items()}
        return np.asarray(self.compiled(params.on(self.mesh), single, arrays))[: self._num]
