"""From a workdir to a trained model."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import frozen
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError
from ddpm_jax.trained import noising, program
from ddpm_jax.trained.autoencoding import LoadedAutoencoder
from ddpm_jax.trained.captioning import LoadedCaptioner
from ddpm_jax.trained.embedding import LoadedClip, LoadedNoisedClip
from ddpm_jax.trained.from_noise import LoadedFromNoise
from ddpm_jax.trained.language import LoadedLanguage
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.prior import LoadedPrior
from ddpm_jax.trained.translating import LoadedTranslator


class LoadedClassifier(Loaded):
    """A trained classifier of x_t: `load(workdir).log_probs(images)`."""

    def log_probs(self, images: np.ndarray, t: float = 0.0, *, seed: int = 0) -> np.ndarray:
        """log p(class | x_t) of images at time t, [N, classes].

        Args:
          images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.
          t: in [0, 1]; images get noise of this time, of (seed, k) for image k; 0 for none.
          seed: of the noise.

        Raises:
          UserError: for images of another size or type, or a t out of range.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.experiment.image_shape:
            raise UserError(
                f"need uint8 images [N, {', '.join(map(str, self.experiment.image_shape))}], got "
                f"{images.dtype} {list(images.shape)}"
            )
        xt = noising.noised(self, self.experiment.codec.encode(images), t, seed=seed)
        time = jnp.broadcast_to(noising.network_time(self, t), len(xt))
        logits = self.model.apply({"params": self.params}, xt, time)
        return np.asarray(jax.nn.log_softmax(logits))


# What `load` gives of each kind of run, by the name that its record has for it.
FACES: dict[str, type[Loaded]] = {
    "denoiser": Loaded,
    "classifier": LoadedClassifier,
    "language": LoadedLanguage,
    "clip": LoadedClip,
    "noised_clip": LoadedNoisedClip,
    "prior": LoadedPrior,
    "captioner": LoadedCaptioner,
    "autoencoder": LoadedAutoencoder,
    "from_noise": LoadedFromNoise,
    "translator": LoadedTranslator,
}


def load(
    workdir: str | Path,
    *,
    step: int | str | None = None,
    ema: str | float | None = None,
    raw_params: bool = False,
    own: Own = NONE,
    data_dir: str | None = None,
) -> Loaded:
    """The model that was trained in `workdir`, ready to use; nothing found there is executed.

    Args:
      workdir, step, ema, raw_params, own, data_dir: as in `build.frozen.read`.

    Raises:
      UserError: as there.
    """
    trained = frozen.read(
        workdir,
        step=step,
        ema=ema,
        raw_params=raw_params,
        own=own,
        data_dir=data_dir,
        check=program.check,
    )
    return FACES[trained.experiment.kind.face](*trained)
