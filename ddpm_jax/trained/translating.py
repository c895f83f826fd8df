"""A trained translator: images of one sort as images of another."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ddpm_jax.build import coding, translating
from ddpm_jax.build.clips import by_batches
from ddpm_jax.errors import UserError
from ddpm_jax.models.translation import TO_A, TO_B
from ddpm_jax.runtime import compiling
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.loaded import Loaded

BATCH_SIZE = 64


class LoadedTranslator(Loaded):
    """A trained translator: `load(workdir).translate(images, to=1)`."""

    def translate(self, images: np.ndarray, to: int) -> np.ndarray:
        """Images as images of a sort, uint8 [N, H, W, C].

        Args:
          images: uint8 [N, H, W, C], 0 to 255, of the other sort.
          to: the label of the sort.

        Raises:
          UserError: for images of another size or type, none of them, or a label of neither sort.
        """
        experiment = self.experiment
        x0 = coding.encoded(experiment.codec, experiment.image_shape, images)
        return experiment.codec.decode(self._by_batches(self._method(to), x0))

    def _method(self, to: int) -> str:
        """The generator to a sort."""
        labels = translating.sorts(self.experiment.config)
        if to not in labels:
            raise UserError(f"to={to}: this run translates between the classes {labels}")
        return (TO_A, TO_B)[labels.index(to)]

    def _by_batches(self, method: str, rows: np.ndarray) -> np.ndarray:
        apply: Callable[..., Any] = self.model.apply

        def made(params: Any, x: jax.Array) -> Any:
            return apply({"params": params}, x, method=method)

        key = ("translator", method, *key_of(self.experiment))
        compiled = kept(self.experiment, key, lambda: compiling.jit(made))
        return by_batches(compiled, self.params, rows, BATCH_SIZE)
