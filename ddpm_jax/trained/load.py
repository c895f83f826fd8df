"""From a workdir to a trained model."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import frozen
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import process
from ddpm_jax.errors import UserError
from ddpm_jax.trained import program
from ddpm_jax.trained.captioning import LoadedCaptioner
from ddpm_jax.trained.embedding import LoadedClip
from ddpm_jax.trained.language import LoadedLanguage
from ddpm_jax.trained.loaded import Loaded


class LoadedClassifier(Loaded):
    """A trained classifier of x_t: `load(workdir).log_probs(images)`."""

    def log_probs(self, images: np.ndarray, t: float = 0.0, *, seed: int = 0) -> np.ndarray:
        """log p(class | x_t) of images at time t, [N, classes].

        Args:
          images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.
          t: in [0, 1]; images get noise of this time, of (seed, k) for image k; 0 for none.
          seed: of the noise.

        Raises:
          UserError: for images of another size or type.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.experiment.image_shape:
            raise UserError(
                f"need uint8 images [N, {', '.join(map(str, self.experiment.image_shape))}], got "
                f"{images.dtype} {list(images.shape)}"
            )
        schedule = self.experiment.schedule_of(self.params)
        x0 = jnp.asarray(self.experiment.codec.encode(images))
        times = jnp.full(len(x0), t, x0.dtype)
        if t > 0:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(len(x0)))
            eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:], x0.dtype))(keys)
            x0 = process.add_noise(schedule, x0, times, eps)
        logits = self.model.apply({"params": self.params}, x0, schedule.network_time(times))
        return np.asarray(jax.nn.log_softmax(logits))


# What `load` gives of each kind of run, by the name that its record has for it.
FACES: dict[str, type[Loaded]] = {
    "denoiser": Loaded,
    "classifier": LoadedClassifier,
    "language": LoadedLanguage,
    "clip": LoadedClip,
    "captioner": LoadedCaptioner,
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
