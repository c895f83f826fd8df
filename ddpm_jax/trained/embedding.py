"""A trained CLIP, which embeds images and texts."""

import functools
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np

from ddpm_jax.build import coding, contrasting
from ddpm_jax.build.clips import by_batches
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import compiling
from ddpm_jax.trained import noising
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
        return self._of_images("embed_images", x0)

    def features(self, x0: np.ndarray) -> np.ndarray:
        """What the images' tower makes of them before it projects, float32 [N, width].

        Args:
          x0: as of `embed_encoded`.
        """
        return self._of_images("features", x0)

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
        return contrasting.logit_scale(self.experiment.config, self.params)

    def _of_images(self, method: str, x0: np.ndarray) -> np.ndarray:
        return by_batches(self._compiled(method), self.params, x0)

    def _compiled(self, method: str) -> Callable[..., jax.Array]:
        apply = functools.partial(self.model.apply, method=method)
        return kept(
            self.experiment,
            (method, *key_of(self.experiment)),
            lambda: compiling.jit(
                lambda params, rows, **more: apply({"params": params}, rows, **more)
            ),
        )


class LoadedNoisedClip(LoadedClip):
    """A trained CLIP of noised images, which guides: `Task(clip=load(workdir))`.

    Images are taken as clean, unless a time says how much noise they get.
    """

    def embed_images(self, images: np.ndarray, t: float = 0.0, *, seed: int = 0) -> np.ndarray:
        """The embeddings of images at time t, of unit length, float32 [N, D].

        Args:
          images: as of `LoadedClip`.
          t: in [0, 1]; images get noise of this time, of (seed, k) for image k; 0 for none.
          seed: of the noise.

        Raises:
          UserError: as `LoadedClip.embed_images`, or for a t out of range.
        """
        x0 = coding.encoded(self.experiment.codec, self.experiment.image_shape, images)
        xt = np.asarray(noising.noised(self, x0, t, seed=seed))
        return self._of_images("embed_images", xt, t)

    def similarity(
        self, images: np.ndarray, texts: Sequence[str], t: float = 0.0, *, seed: int = 0
    ) -> np.ndarray:
        """The cosine of each image's and each text's embedding, float32 [N, M], in [-1, 1].

        Args:
          images, t, seed: as of `embed_images`.
          texts: as of `embed_texts`.

        Raises:
          UserError: as these two.
        """
        return self.embed_images(images, t, seed=seed) @ self.embed_texts(texts).T

    def _of_images(self, method: str, x0: np.ndarray, t: float = 0.0) -> np.ndarray:
        time = noising.network_time(self, t)
        return by_batches(functools.partial(self._compiled(method), time=time), self.params, x0)
