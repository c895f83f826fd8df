"""From a workdir to a trained model."""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.config import config_files
from ddpm_jax.config.code import NONE, Own
from ddpm_jax.diffusion import process
from ddpm_jax.errors import UserError
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.program import build
from ddpm_jax.training import checkpoints


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
FACES: dict[str, type[Loaded]] = {"denoiser": Loaded, "classifier": LoadedClassifier}


def load(
    workdir: str | Path,
    *,
    step: int | str | None = None,
    raw_params: bool = False,
    own: Own = NONE,
    data_dir: str | None = None,
) -> Loaded:
    """The model that was trained in `workdir`; nothing found there is executed.

    Args:
      workdir: of a run.
      step: of the checkpoint; "best" for that of the least validation loss; None for the latest.
      raw_params: take the parameters themselves instead of their moving average.
      own: the parts that are the user's own, {"package.module:name": part}: a workdir imports
        nothing, whatever its config.json names.
      data_dir: where its data lie now; None for where they lay.

    Raises:
      UserError: if there is no such run or checkpoint, or for an own part that is not handed over.
    """
    config = config_files.read(workdir)
    if config is None:
        raise UserError(
            f"no checkpoint in {workdir}: it has no config.json; train one there, or "
            "name another --workdir"
        )
    # All devices of this machine, whatever trained it; batches of data are filled up to them.
    devices = jax.device_count()
    try:
        batch_size = -(-config.data.batch_size // devices) * devices
        elsewhere = {} if data_dir is None else {"data_dir": os.path.abspath(data_dir)}
        here = {
            "mesh": {"data": devices, "fsdp": 1},
            "data": {"batch_size": batch_size, **elsewhere},
        }
        experiment = build(config_files.override(config, here), own=own)
        shapes = experiment.state_shapes()
    except (AttributeError, KeyError) as error:
        reason = str(error).strip("\"'").splitlines()[0]
        raise UserError(
            f"{workdir}/config.json has no field {reason}: another version wrote it"
        ) from error
    except UserError:
        raise
    except Exception as error:  # fields of another type fail wherever they are first used
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{workdir}/config.json describes nothing that can be built ({reason}): another "
            "version wrote it, or it is damaged; name another --workdir"
        ) from error
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        step = saved.newest_whole(_say) if step is None else _numbered(saved, step)
        params = saved.restore_params(step, "raw" if raw_params else "default", shapes.params)
        checkpoint = saved.records()[step].state_sha256
    sha256 = config_files.sha256(config.to_dict())
    face = FACES[experiment.kind.face]
    return face(experiment, params, step, checkpoint, sha256, "raw" if raw_params else "ema")


def _numbered(saved: checkpoints.Checkpoints, step: int | str) -> int:
    """The number of the step that is asked for. Raises UserError if there is no such checkpoint."""
    if str(step).isdecimal():
        return saved.check(int(step))
    if step != "best":
        raise UserError(f"step={step}: need the number of a checkpoint, or best")
    saved.check(None)
    if (best := saved.best()) is None:
        raise UserError(
            f"step=best: no checkpoint in {saved.directory} has a validation loss; train with "
            "config.train.validate_every at the steps of checkpoint_every, or name another step"
        )
    return best


def _say(line: str) -> None:
    print(line, file=sys.stderr)
