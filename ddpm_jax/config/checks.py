"""What a config's values must be, each by itself and together, before anything is built."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config.ranges import AT_LEAST, RANGES
from ddpm_jax.errors import UserError


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) of config.data. Raises UserError for an invalid size."""
    size = tuple(config.data.image_size)
    height, width = size * 2 if len(size) == 1 else size if len(size) == 2 else (0, 0)
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise UserError(f"config.data.image_size={size}: need (height, width), or one of both")
    if config.data.channels not in (1, 3):
        raise UserError(f"config.data.channels={config.data.channels}: need 1 or 3")
    return height, width, config.data.channels


def x0_shape(config: ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) of what a run models: an image, or its latents where config.data.codec makes some.

    Raises:
      UserError: for an invalid size.
    """
    if not config.data.get("codec"):
        return image_shape(config)
    shape = tuple(config.data.latent_shape)
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise UserError(
            f"config.data.latent_shape={shape}: need (h, w, C), of the latents of one image by "
            f"config.data.codec={config.data.codec}"
        )
    height, width, channels = shape
    return height, width, channels


def check_ranges(c: ConfigDict) -> None:
    """Each field by itself, if the kind of run has it.

    Raises:
      UserError: naming the field, its value and what it needs.
    """
    for field, least in AT_LEAST.items():
        _need(c, least.__le__, field, f"need at least {least}")
    for field, (in_range, remedy) in RANGES.items():
        _need(c, in_range, field, remedy)
    if "conditions" in c.model:
        names, rates = c.model.conditions, c.diffusion.condition_dropout
        fits = len(rates) in (0, len(names)) and all(0 <= rate <= 1 for rate in rates)
        remedy = "need a number from 0 to 1 for each of model.conditions, or ()"
        _need(c, lambda _: fits, "diffusion.condition_dropout", remedy)
    if c.model.get("head_dim"):
        remedy = "need 0 beside model.head_dim, which decides it"
        _need(c, lambda value: not value, "model.num_heads", remedy)
    sigma = c.optim.spike_sigma
    _need(
        c,
        lambda window: window is None or (sigma is not None and window >= 2),
        "optim.spike_window",
        "need at least 2, and optim.spike_sigma; or None",
    )
    _need(
        c,
        lambda every: not every or len(c.ema.power_stds) > 0,
        "ema.snapshots_every",
        "snapshots are of power-function averages: set ema.power_stds=(0.05, 0.1), or 0 here",
    )
    if "sample" in c:
        low = c.sample.get("guidance_low") or 0.0
        _need(
            c,
            lambda high: high is None or low < high < math.inf,
            "sample.guidance_high",
            "need a finite number above guidance_low, or None",
        )


def check_fit(c: ConfigDict, devices: int) -> None:
    """How the fields fit each other and the number of devices. Raises UserError as above."""
    _need(
        c,
        lambda size: size % devices == 0,
        "data.batch_size",
        f"not divisible by the {devices} devices of the mesh; take a multiple, or fewer devices "
        "with config.mesh.data",
    )
    size = c.data.batch_size
    _need(
        c,
        lambda count: size % (devices * count) == 0,
        "train.accumulate",
        f"config.data.batch_size={size} does not divide into so many equal parts on each of "
        f"{devices} device(s); take another number, or a batch of a multiple of both",
    )
    if c.mesh.strict:
        _check_strict(c, devices)
    remedy = "a model without classes (config.model.num_classes=0) has no labels to hide; set 0"
    _need(c, lambda rate: not rate or c.model.num_classes > 0, "model.label_dropout", remedy)
    if "conditions" not in c.model:
        return
    unlabelled = c.model.num_classes == 0
    unconditional = unlabelled and not c.model.conditions
    _need(
        c,
        lambda rate: not (unlabelled and rate),
        "diffusion.label_dropout",
        "an unconditional model (config.model.num_classes=0) needs sample.guidance_scale=1 and "
        "diffusion.label_dropout=0",
    )
    _need(
        c,
        lambda rate: not (unconditional and rate),
        "diffusion.joint_dropout",
        "an unconditional model has nothing to hide; set 0",
    )
    moves = [name for name in c.model.conditions if name.startswith("position")]
    remedy = f"a mirrored image has another {moves[:1]}"
    _need(c, lambda flip: not (flip and moves), "data.flip", remedy)
    remedy = f"an image that is moved has another {moves[:1]}"
    _need(c, lambda augment: not (augment and moves), "data.augment", remedy)


def _check_strict(c: ConfigDict, devices: int) -> None:
    """Whether the shards of config.mesh.strict fit batch and devices. Raises UserError."""
    _need(
        c,
        lambda count: c.data.batch_size % count == 0,
        "mesh.strict_shards",
        f"config.data.batch_size={c.data.batch_size} does not divide into so many equal shards; "
        "take a batch of a multiple, or fewer shards",
    )
    _need(
        c,
        lambda count: count % devices == 0,
        "mesh.strict_shards",
        f"does not divide among the {devices} devices of the mesh; take 1, 2, 4, ... devices with "
        "config.mesh.data, or more shards",
    )
    _need(
        c,
        lambda count: count == 1,
        "train.accumulate",
        f"with config.mesh.strict a device sees its part of {c.mesh.strict_shards} shards one "
        "after the other already; set 1, and more config.mesh.strict_shards for less memory",
    )


def check_guidable(c: ConfigDict, field: str) -> None:
    """Conditions were hidden in training, as guidance needs. Raises UserError for what asks it."""
    group = "diffusion" if "diffusion" in c else "model"
    d, conditions = c[group], c.model.get("conditions", ())
    if not c.model.num_classes and not conditions:
        raise UserError(
            f"{field}: an unconditional model (config.model.num_classes=0) has nothing to be "
            "guided towards; set sample.guidance_scale=1, or name a classifier or a weaker model"
        )
    if d.get("joint_dropout", 0) > 0:
        return
    if c.model.num_classes and not d.label_dropout > 0:
        raise UserError(
            f"{field}: guidance needs a model trained with config.{group}.label_dropout above 0; "
            "set 1"
        )
    if conditions and not min(d.condition_dropout, default=0) > 0:
        raise UserError(
            f"{field}: guidance needs a model trained with config.diffusion.joint_dropout, or each "
            "of condition_dropout, above 0; set 1"
        )


def _value(c: ConfigDict, field: str) -> Any:
    """The value of a dotted name."""
    return functools.reduce(operator.getitem, field.split("."), c)


def _need(c: ConfigDict, fits: Callable[[Any], bool], field: str, remedy: str) -> None:
    """Raises UserError for a value that does not fit; a field that the kind has not, fits."""
    if has(c, field) and not fits(value := _value(c, field)):
        raise UserError(f"config.{field}={value!r}: {remedy}")


def has(c: ConfigDict, field: str) -> bool:
    """Whether a config has a dotted field, which not every kind of run has."""
    group, _, name = field.rpartition(".")
    return name in (c.get(group, {}) if group else c)
