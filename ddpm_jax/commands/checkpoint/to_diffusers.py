"""A run's networks as the folders that diffusers' from_pretrained reads."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.build import autoencoding, begun_latents, coding, latents, tuned_pipelines
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.commands.loading import load
from ddpm_jax.diffusion.latent_codes import Scaling
from ddpm_jax.errors import UserError
from ddpm_jax.interop import autoencoder_config, lora, stable_diffusion, unet_condition
from ddpm_jax.interop.autoencoder import autoencoder_to_diffusers
from ddpm_jax.interop.diffusers import unet_to_diffusers
from ddpm_jax.models import StableDiffusion, UNet
from ddpm_jax.models.adapters import LORA, Adapted, merged
from ddpm_jax.models.autoencoder import Autoencoder
from ddpm_jax.models.stable_diffusion import UNET
from ddpm_jax.runtime import digests
from ddpm_jax.training import step_files

# (the run, its network, parameters, folder) -> None
Write = Callable[[Experiment, Any, Any, Path], None]


def export(
    workdir: Path,
    step: int | None,
    out: Path,
    raw_params: bool,
    code: Sequence[str] = (),
    *,
    ema: str | None = None,
) -> int:
    """Write the network of a step, with a moving average unless raw, as a folder of diffusers.

    Of a run of latents two folders, as a pipeline has them: out/unet, and out/vae, the autoencoder
    that it keeps with the scale of its latents; of a run that tuned a pipeline all of a pipeline.
    Adapters are merged. Of an autoencoder's run the scale is that at which the latents of its
    training images have unit variance. What judges in training is left out.

    Raises:
      UserError: for no such run or checkpoint, a network that diffusers does not have, a folder
        that holds something else or cannot be written, and training images that are gone.
    """
    if out.suffix == ".safetensors":
        raise UserError(f"--out={out}: --format=diffusers writes a folder; name one")
    loaded = load(workdir, code, step=step, ema=ema, raw_params=raw_params)
    built = loaded.experiment
    params = digests.on_host(loaded.params)
    with _named("diffusers", out):
        codec = built.latents
        if codec is None or type(plain(loaded.model)) in WHOLE:
            _write(built, loaded.model, params, out)
        else:
            autoencoder_config.of_network(codec.network, 1.0)  # refuses before anything is written
            _write(built, loaded.model, params, out / "unet")
            scaling = Scaling(**codec.tree[latents.SCALING])
            _autoencoder(codec.network, codec.tree[latents.PARAMS], scaling, out / "vae")
    print(f"step {loaded.step:,}: for diffusers' from_pretrained in {out}", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _named(form: str, out: Path) -> Iterator[None]:
    """A context in which what cannot be written is said by the flag that asks for it."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"--format={form}: {error}") from error
    except OSError as error:
        raise UserError(f"--out={out}: cannot write it ({step_files.reason(error)})") from error


def _write(built: Experiment, network: Any, params: Any, out: Path) -> None:
    write = WRITERS.get(type(network))
    if write is None:
        raise ValueError(
            f"{built.kind.one} with the network {type(network).__name__} is none that is written "
            f"for diffusers; {', '.join(one.__name__ for one in WRITERS)} are"
        )
    write(built, network, params, out)


def export_adapters(
    workdir: Path,
    step: int | None,
    out: Path,
    raw_params: bool,
    code: Sequence[str] = (),
    *,
    ema: str | None = None,
) -> int:
    """Write the adapters of a run that tuned a pipeline, as PEFT and diffusers name them.

    Args as of `export`.

    Raises:
      UserError: for no such run or checkpoint, a run without adapters or of another network,
        adapters of text encoders, and a file that cannot be written.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out={out}: --format=lora writes one file; name F.safetensors")
    loaded = load(workdir, code, step=step, ema=ema, raw_params=raw_params)
    adapted = loaded.model
    network = plain(adapted)
    if not isinstance(adapted, Adapted) or not isinstance(network, StableDiffusion):
        raise UserError(
            f"--format=lora: {workdir} trained no adapters of a pipeline; such a run has "
            "config.model.name=stable_diffusion and a config.model.lora_rank"
        )
    own = dict(digests.on_host(loaded.params)[LORA])
    adapters = own.pop(UNET, {})
    if own:
        raise UserError(
            f"--format=lora: this run's adapters of {', '.join(own)} are written into a whole "
            "pipeline alone; take --format=diffusers"
        )
    with _named("lora", out):
        lora.write(adapters, unet_condition.rows(network.unet), out, alpha=adapted.alpha)
    print(f"step {loaded.step:,}: adapters of rank {adapted.rank} in {out}", file=sys.stderr)
    return 0


def plain(network: Any) -> Any:
    """The network without its adapters."""
    return network.network if isinstance(network, Adapted) else network


def _unet(built: Experiment, network: Any, params: Any, out: Path) -> None:
    height, width, _ = built.codec.shape
    unet_to_diffusers(network, params, out, height if height == width else (height, width))


def _adapted(built: Experiment, network: Any, params: Any, out: Path) -> None:
    """The plain network with the same outputs."""
    _write(built, network.network, merged(params, network.alpha / network.rank), out)


def _trained_autoencoder(built: Experiment, network: Any, params: Any, out: Path) -> None:
    autoencoder_config.of_network(network, 1.0)
    own = {name: tree for name, tree in params.items() if name != autoencoding.DISCRIMINATOR}
    found = latents.of_network(built, network, own, begun_latents.ONE)
    images = coding.scaled(built.config, built.own)
    scaling = begun_latents.unit_scaling(found, built.source("train"), images)
    _autoencoder(network, own, scaling, out)


def _autoencoder(network: Any, params: Any, scaling: Scaling, out: Path) -> None:
    scale, shift = float(scaling.scale), float(scaling.shift)
    autoencoder_to_diffusers(network, params, out, scale, shift_factor=shift)


def _pipeline(built: Experiment, network: Any, params: Any, out: Path) -> None:
    stable_diffusion.save(tuned_pipelines.pipeline_of(built, network, params), out)


WRITERS: dict[type, Write] = {
    UNet: _unet,
    StableDiffusion: _pipeline,
    Autoencoder: _trained_autoencoder,
    Adapted: _adapted,
}
# Of those, what writes its autoencoder itself.
WHOLE = (StableDiffusion,)
