"""A trained CLIP, which embeds images and texts."""

import functools
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np

from ddpm_jax.build import coding
from ddpm_jax.build.clips import by_batches
from ddpm_jax.diffusion.losses.contrastive import LARGEST_SCALE
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import compiling
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.loaded import Loaded


class LoadedClip(Loaded):
    """A trained CLIP: `load(workdir).similarity(images, ["a red circle"])`."""

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """The embeddings of images, of unit length, float32 [N, D].

        Args:
          images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.

        Raises:
          UserError: for images of another size or type.
        """
        return self.embed_encoded(
            coding.encoded(self.experiment.codec, self.experiment.image_shape, images)
        )

    def embed_encoded(self, x0: np.ndarray) -> np.ndarray:
        """The same of images as the network sees them, float32 [N, H, W, C] in [-1, 1]."""
        return by_batches(self._compiled("embed_images"), self.params, x0)

    def features(self, x0: np.ndarray) -> np.ndarray:
        """What the images' tower makes of them before it projects, float32 [N, width].

        Args:
          x0: as of `embed_encoded`.
        """
        return by_batches(self._compiled("features"), self.params, x0)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings of texts, of unit length, float32 [N, D].

        What is cut off since it does not fit, and what words are unknown, is said in one line.

        Args:
          texts: any; an empty one is a text without words.

        Raises:
          UserError: for what are no texts, or a run that reads none.
        """
        tokenizer = self.experiment.tokenizer
        if tokenizer is None:
            raise UserError(
                f"this run reads no text (config.objective.name="
                f"{self.experiment.config.objective.name}): embed images alone"
            )
        rows, notes = tokenizer.rows(texts, self.experiment.config.data.context)
        if notes:
            more = f" (and {len(notes) - 1} more such texts)" if notes[1:] else ""
            print(f"{notes[0]}{more}", file=sys.stderr)
        return by_batches(self._compiled("embed_texts"), self.params, rows)

    def similarity(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """The cosine of each image's and each text's embedding, float32 [N, M], in [-1, 1].

        Raises:
          UserError: as `embed_images` and `embed_texts`.
        """
        return self.embed_images(images) @ self.embed_texts(texts).T

    @property
    def logit_scale(self) -> float:
        """What the cosines are multiplied by before the softmax over texts, or over images.

        Raises:
          UserError: for a run that compares images with no texts.
        """
        if "log_scale" not in self.params:
            raise UserError("this run compares images with no texts, and has no scale")
        limit = self.experiment.config.objective.options.get("largest_scale", LARGEST_SCALE)
        return float(min(np.exp(self.params["log_scale"]), limit))

    def _compiled(self, method: str) -> Callable[..., jax.Array]:
        apply = functools.partial(self.model.apply, method=method)
        return kept(
            self.experiment,
            (method, *key_of(self.experiment)),
            lambda: compiling.jit(lambda params, rows: apply({"params": params}, rows)),
        )
