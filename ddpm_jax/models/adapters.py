"""Low-rank adapters (LoRA): kernels that move by a product of two thin ones, beside what is frozen.

A network of flax takes its kernels from its parameters, so an adapter is no layer: parameters with
adapters are the network's own and one more entry, "lora", and `merged` makes the network's own of
both. Merging them and applying them are one computation.
"""

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

LORA = "lora"
DOWN, UP = "down", "up"
_KERNEL = "kernel"


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A network whose kernels are W + (alpha / rank) down up, called as the network is.

    Attributes:
      network: a module of flax, or what is like one.
      rank: of down and up, at least 1.
      alpha: what the product counts, over the rank.
      targets: patterns, as of `fnmatch`, on the names of the layers that have adapters, "*/query"
        for all queries. Layers are dense, or convolutions.

    Raises:
      ValueError: when it is initialised, for a rank below 1, and for a pattern that fits no layer.

    Source: Hu et al. 2021 (LoRA), equation 3; convolutions as `peft` has them.
    """

    network: Any
    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def captions(self) -> Any:
        """What the network reads captions by; AttributeError where it has no such field."""
        return self.network.captions

    @property
    def reader(self) -> Any:
        """What reads the network's captions alone; AttributeError where it has no such property."""
        return self.network.reader

    def init(self, key: jax.Array, *args: Any, **options: Any) -> dict[str, Any]:
        """{"params": the network's, with the adapters under "lora"}, which change nothing yet."""
        params = self.network.init(key, *args, **options)["params"]
        return {"params": params | {LORA: initial(key, params, self.rank, self.targets)}}

    def init_with_output(self, key: jax.Array, *args: Any, **options: Any) -> tuple[Any, Any]:
        """(the network's output, what `init` gives)."""
        variables = self.init(key, *args, **options)
        return self.apply(variables, *args, **options), variables

    def apply(self, variables: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """The network's output with its adapters."""
        params = merged(variables["params"], self.alpha / self.rank)
        return self.network.apply({**variables, "params": params}, *args, **options)

    def with_attention(self, implementation: str) -> "Adapted":
        """The same with an implementation of `attention.attend`, if the network has the choice."""
        return self._with("with_attention", implementation)

    def with_kernel_gradient(self, form: str) -> "Adapted":
        """The same with a form of `convolution.convolution`, if the network has the choice."""
        return self._with("with_kernel_gradient", form)

    def _with(self, method: str, choice: str) -> "Adapted":
        if not hasattr(self.network, method):
            return self
        return dataclasses.replace(self, network=getattr(self.network, method)(choice))


def initial(key: jax.Array, params: Any, rank: int, targets: Sequence[str]) -> dict[str, Any]:
    """New adapters of the layers that fit: down as a layer's kernel, up zeros.

    Args:
      key: of the draws.
      params: the network's; a layer is a dict with a kernel [in, out] or [height, width, in, out].
      rank: at least 1.
      targets: as of `Adapted`.

    Returns:
      The layers' dicts with {"down": [in, rank] or [height, width, in, rank], "up": [rank, out]}.

    Raises:
      ValueError: for a rank below 1, or a pattern that fits no layer.
    """
    if rank < 1:
        raise ValueError(f"need a rank of at least 1, got {rank=}")
    kernels = _kernels(params)
    fitting: set[str] = set()
    for pattern in targets:
        found = [name for name in kernels if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            (nearest,) = difflib.get_close_matches(pattern, kernels, n=1, cutoff=0.0)
            raise ValueError(
                f"targets: {pattern!r} fits no layer with a kernel; the nearest is {nearest}"
            )
        fitting |= {*found}
    adapters: dict[str, Any] = {}
    for k, name in enumerate(sorted(fitting)):
        kernel = kernels[name]
        *window, _, features = kernel.shape
        fan_in = kernel.size // features
        # As torch's layers begin, uniform with a deviation of 1 / sqrt(3 fan_in).
        shape = (*window, kernel.shape[-2], rank)
        bound = fan_in**-0.5
        down = jax.random.uniform(
            jax.random.fold_in(key, k), shape, jnp.float32, minval=-bound, maxval=bound
        )
        tree = adapters
        for part in name.split("/"):
            tree = tree.setdefault(part, {})
        tree |= {DOWN: down, UP: jnp.zeros((rank, features))}
    return adapters


def merged(params: Mapping[str, Any], scale: Any = 1.0) -> dict[str, Any]:
    """The network's own parameters: each adapted kernel with `scale` times its product.

    Args:
      params: with adapters under "lora"; without them nothing changes.
      scale: a number, alpha / rank.
    """
    own = {name: tree for name, tree in params.items() if name != LORA}
    return _added(own, params.get(LORA, {}), scale)


def product(adapter: Mapping[str, jax.Array]) -> jax.Array:
    """What an adapter adds to its kernel at scale 1."""
    return adapter[DOWN] @ adapter[UP]


def is_adapter(tree: Any) -> bool:
    """Whether a node of the adapters' tree is one of them."""
    return isinstance(tree, Mapping) and set(tree) == {DOWN, UP}


def _added(params: Any, adapters: Mapping[str, Any], scale: Any) -> Any:
    if is_adapter(adapters):
        kernel = params[_KERNEL]
        moved = kernel + (scale * product(adapters)).astype(kernel.dtype)
        return {**params, _KERNEL: moved}
    changed = {name: _added(params[name], tree, scale) for name, tree in adapters.items()}
    return {**params, **changed}


def _kernels(params: Mapping[str, Any], at: tuple[str, ...] = ()) -> dict[str, Any]:
    """Kernels of dense layers and convolutions by the names of their layers."""
    kernels: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            kernels |= _kernels(value, (*at, name))
        elif name == _KERNEL and value.ndim in (2, 4):
            kernels["/".join(at)] = value
    return kernels
