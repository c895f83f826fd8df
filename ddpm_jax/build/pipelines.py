"""model.name=stable_diffusion: a run that goes on training a pipeline of Stable Diffusion.

The pipeline of config.train.init_from decides what its networks are, its noise, its latents and its
words. All of that becomes part of the run's config when it begins, so that nothing asks for the
pipeline's folder later; the config that a user writes leaves these fields unset.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import adapters
from ddpm_jax.build.precision import dtype, remat
from ddpm_jax.config import config_files, defaults
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.own_code import Own
from ddpm_jax.data.captions import TEXT
from ddpm_jax.errors import UserError
from ddpm_jax.interop import pipeline_config, pipeline_networks, text_encoders
from ddpm_jax.interop.pipeline_config import CONTROLNET, TOKENIZER, VAE
from ddpm_jax.interop.pipeline_networks import PipelineNetworks
from ddpm_jax.interop.scheduler import Scheduler
from ddpm_jax.interop.unet_condition import unet_condition_from_diffusers
from ddpm_jax.models import StableDiffusion, UNet2DCondition, stable_diffusion
from ddpm_jax.models.stable_diffusion import Words
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.runtime import leaves

NAME = "stable_diffusion"
# Of config.model.pipeline.
UNET, TEXTS, WORDS, SCHEDULER = "unet", "texts", "words", "scheduler"
# What a pipeline decides, and the value that leaves it to the pipeline.
LEFT: dict[str, dict[str, Any]] = {
    "data": {"codec": "", "latent_shape": (), "tokenizer": "", "vocabulary": 1024, "context": 77},
    "diffusion": {
        "schedule": "",
        "schedule_options": {},
        "num_steps": 1000,
        "zero_terminal_snr": False,
        "prediction": "",
    },
    "model": {"pipeline": {}},
}
CHOSEN = "codec"  # the one of them that may be another than the pipeline's own
# Of a module's fields, those that say how it computes and not what.
_HOW = ("parent", "name", "dtype", "remat", "attention", "kernel_gradient")
# Of config.model, what is of the other networks.
_OF_OTHERS = [
    name
    for name in config_files.BUILT_IN_NETWORKS
    if not name.startswith("lora_") and name != "pipeline"
]
# The tables of noise that diffusers has, by our names.
_SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}


def filled(c: ConfigDict, saved: ConfigDict | None = None) -> ConfigDict:
    """The config with what its pipeline decides; any other config, and one that has it, as it is.

    Args:
      c: the config.
      saved: that of the run which goes on, where this is a resume: then the folder is not read.

    Raises:
      UserError: for an init_from that is no pipeline that can be trained, and a field that is set
        to something else than the pipeline decides.
    """
    if c.model.get("name") != NAME:
        if c.model.get("pipeline"):
            raise UserError(f"config.model.pipeline: applies only to model.name={NAME}; set {{}}")
        return c
    c = _with_frozen(c)
    if c.model.pipeline:
        return c
    decided = None if saved is None else _of_saved(c, saved)
    if decided is None:
        decided = _of_folder(c)
    given: dict[str, dict[str, Any]] = {}
    for group, fields in LEFT.items():
        given[group] = dict(decided[group])
        for name, left in fields.items():
            value = c[group][name]
            value = value.to_dict() if isinstance(value, ConfigDict) else value
            if name == CHOSEN and value != left:
                given[group][name] = value
            elif value not in (left, decided[group][name]):
                raise UserError(
                    f"config.{group}.{name}={value!r}: config.train.init_from={c.train.init_from} "
                    f"decides it, {decided[group][name]!r}; set {left!r}"
                )
    return config_files.override(c, given)


def network(c: ConfigDict, own: Own) -> StableDiffusion:
    """The network of config.model.pipeline.

    Raises:
      UserError: for fields of other networks, and conditions beside a text.
    """
    m, usual = c.model, defaults.denoiser().model
    for name in _OF_OTHERS:
        if m[name] != usual[name]:
            raise UserError(
                f"config.model.{name}={m[name]}: the pipeline says what its network is; set "
                f"{usual[name]!r}"
            )
    if tuple(m.conditions) != (TEXT,) or m.num_classes or m.control:
        raise UserError(
            f"config.model.conditions={tuple(m.conditions)}, num_classes={m.num_classes}, "
            f"control={tuple(m.control)}: {NAME} reads a text alone; set {(TEXT,)}, 0 and ()"
        )
    described = m.pipeline.to_dict()
    how = {"dtype": dtype(c), "remat": remat(c)}
    # Texts are read in float32, as by a pipeline.
    texts = [TextTransformer(**fields, remat=how["remat"]) for fields in described[TEXTS].values()]
    return StableDiffusion(
        unet=UNet2DCondition(**described[UNET], **how),
        text=texts[0],
        text_2=texts[1] if len(texts) > 1 else None,
        words=Words(**described[WORDS]),
        context=c.data.context,
        empty_is_zero=described["empty_is_zero"],
        factor=described["factor"],
    )


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """The parameters of a pipeline's U-Net and text encoders, by the names that a run's have.

    Raises:
      ValueError: as their readers in `interop`.
    """
    _, unet = unet_condition_from_diffusers(folder / pipeline_config.UNET)
    texts = text_encoders.read(folder).params
    whole = {stable_diffusion.UNET: unet}
    whole |= dict(zip(stable_diffusion.TEXTS, texts.values(), strict=False))
    return {name: np.asarray(leaf) for name, leaf in leaves.named(whole).items()}


def _with_frozen(c: ConfigDict) -> ConfigDict:
    """With adapters everything else stays as it is."""
    if not c.model.lora_rank or adapters.ALONE in c.optim.frozen:
        return c
    return config_files.override(c, {"optim": {"frozen": (*c.optim.frozen, adapters.ALONE)}})


def _of_saved(c: ConfigDict, saved: ConfigDict) -> dict[str, dict[str, Any]] | None:
    """What a run's pipeline decided; None of a run that began with something else."""
    if not saved.model.get("pipeline") or saved.train.init_from != c.train.init_from:
        return None
    kept = saved.to_dict()
    return {group: {name: kept[group][name] for name in fields} for group, fields in LEFT.items()}


def _of_folder(c: ConfigDict) -> dict[str, dict[str, Any]]:
    """What the pipeline of config.train.init_from decides."""
    named = c.train.init_from
    if not named:
        raise UserError(
            f"config.model.name={NAME}: it goes on training a pipeline; name its folder, "
            "config.train.init_from=DIR"
        )
    folder = Path(os.path.abspath(named))
    try:
        if folder.is_file():
            raise ValueError(
                "a file does not say what its networks are; write it as a pipeline's folder, "
                "interop.stable_diffusion.load(F, config=DIR) and save"
            )
        found = pipeline_networks.read(folder)
        _check(found)
        noise = _noise(found.scheduler)
        words = _words(found)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"config.train.init_from={named}: {reason}") from error
    factor = 2 ** (len(found.autoencoder.block_channels) - 1)
    size = image_shape(c)[:2]
    if any(pixels % factor for pixels in size):
        raise UserError(
            f"config.data.image_size={size}: one of the latents of config.train.init_from={named} "
            f"is of {factor} x {factor} pixels; take multiples of {factor}"
        )
    first = next(iter(found.tokenizers.values()))
    return {
        "data": {
            "codec": str(folder / VAE),
            "latent_shape": (*(n // factor for n in size), found.autoencoder.latent_channels),
            "tokenizer": str(folder / TOKENIZER),
            "vocabulary": first.tokenizer.size,
            "context": first.context,
        },
        "diffusion": noise,
        "model": {
            "pipeline": {
                "name": found.described.name,
                "empty_is_zero": found.described.empty_is_zero,
                "factor": factor,
                UNET: _fields_of(found.unet),
                TEXTS: {name: _fields_of(text) for name, text in found.texts.items()},
                WORDS: words._asdict(),
                SCHEDULER: {"class_name": found.scheduler.name, **_stated(found.scheduler)},
            }
        },
    }


def _check(found: PipelineNetworks) -> None:
    """Raises ValueError for a pipeline whose U-Net reads more than latents and texts."""
    unet, channels = found.unet, found.autoencoder.latent_channels
    if CONTROLNET in found.described.parts:
        raise ValueError(
            f"a {found.described.name} has a ControlNet, which is not trained here; save the "
            "pipeline without it"
        )
    if found.described.family.pools and len(found.texts) < 2:
        raise ValueError(
            "it has one of XL's two text encoders, as its refiner has, which is not trained here; "
            "give a pipeline with both"
        )
    if unet.in_channels != channels:
        raise ValueError(
            f"its U-Net reads {unet.in_channels} channels, of which {channels} are latents: it "
            "completes images, which is not trained here; give a pipeline that draws whole ones"
        )
    for field in ("label", "guidance_channels"):
        if value := getattr(unet, field):
            raise ValueError(f"its U-Net is told more than texts ({field}={value!r})")


def _words(found: PipelineNetworks) -> Words:
    """The numbers of beginning, end and padding; tokenizers that differ in more are refused."""
    first, *others = found.tokenizers.values()
    for other in others:
        same = (
            _without_padding(first.tokenizer.content) == _without_padding(other.tokenizer.content)
            and first.context == other.context
        )
        if not same:
            raise ValueError(
                "its two tokenizers differ in more than their padding, and a run's captions are "
                "made tokens once"
            )
    own = first.tokenizer
    pad_2 = others[0].tokenizer.pad if others else own.pad
    return Words(own.bos, own.eos, own.pad, pad_2)


def _without_padding(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "pad"}


def _noise(scheduler: Scheduler) -> dict[str, Any]:
    """The fields of config.diffusion that a scheduler decides."""
    fields = scheduler.config
    if fields["trained_betas"] is not None:
        raise ValueError("its scheduler lists trained_betas; need one of a beta_schedule by name")
    name = _SCHEDULES[fields["beta_schedule"]]
    ends = {end: float(fields[end]) for end in ("beta_start", "beta_end")}
    return {
        "schedule": name,
        "schedule_options": {} if name == "cosine" else ends,
        "num_steps": fields["num_train_timesteps"],
        "zero_terminal_snr": bool(fields.get("rescale_betas_zero_snr")),
        "prediction": scheduler.prediction,
    }


def _stated(scheduler: Scheduler) -> dict[str, Any]:
    """What its file states, as a config holds it: no infinity, whose absence means the same."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in scheduler.stated.items()
        if value != -math.inf
    }


def _fields_of(module: Any) -> dict[str, Any]:
    """What makes a network the function that it is."""
    names = [field.name for field in dataclasses.fields(module) if field.name not in _HOW]
    return {name: getattr(module, name) for name in names}
