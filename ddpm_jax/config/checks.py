"""What a config's values must be, each by itself and together, before anything is built."""

import functools
import math
import operator
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.errors import UserError

# The least value of whole-number fields.
AT_LEAST = {
    "data.batch_size": 1,
    "data.num_threads": 0,
    "model.channels": 1,
    "model.num_blocks": 1,
    "model.num_groups": 1,
    "model.head_dim": 0,
    "model.num_heads": 0,
    "model.num_classes": 0,
    "train.num_steps": 1,
    "train.keep_checkpoints": 1,
    "train.validate_examples": 1,
    "train.log_every": 0,
    "train.checkpoint_every": 0,
    "train.sample_every": 0,
    "train.validate_every": 0,
    "train.evaluate_every": 0,
    "train.evaluate_samples": 2,
    "train.max_skipped": 0,
    "sample.batch_size": 1,
    "sample.grid_size": 1,
}


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) of config.data. Raises UserError for a size that is none."""
    size = tuple(config.data.image_size)
    height, width = size * 2 if len(size) == 1 else size if len(size) == 2 else (0, 0)
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise UserError(f"config.data.image_size={size}: need (height, width), or one of both")
    if config.data.channels not in (1, 3):
        raise UserError(f"config.data.channels={config.data.channels}: need 1 or 3")
    return height, width, config.data.channels


def check_ranges(c: ConfigDict) -> None:
    """Each field by itself. Raises UserError naming the field, its value and what it needs."""
    for field, least in AT_LEAST.items():
        _need(c, _value(c, field) >= least, field, f"need at least {least}")
    _need(c, 0 <= c.seed < 2**32, "seed", "need at least 0 and below 2**32")
    m = c.model
    multipliers = m.channel_multipliers
    fits = len(multipliers) > 0 and min(multipliers) >= 1
    _need(c, fits, "model.channel_multipliers", "need one number a level, each at least 1")
    _need(c, 0 <= c.model.dropout < 1, "model.dropout", "need at least 0 and below 1")
    _need(c, 0 <= c.diffusion.label_dropout <= 1, "diffusion.label_dropout", "need 0 to 1")
    _need(c, 0 <= c.diffusion.joint_dropout <= 1, "diffusion.joint_dropout", "need 0 to 1")
    rates, names = c.diffusion.condition_dropout, c.model.conditions
    fits = len(rates) in (0, len(names)) and all(0 <= rate <= 1 for rate in rates)
    remedy = "need a number from 0 to 1 for each of model.conditions, or ()"
    _need(c, fits, "diffusion.condition_dropout", remedy)
    fits = len(set(names)) == len(names) and "label" not in names
    _need(
        c, fits, "model.conditions", "need different names; the label is config.model.num_classes"
    )
    exponents = m.fourier_features
    fits = all(type(n) is int and n >= 1 for n in exponents)
    _need(c, fits, "model.fourier_features", "need whole numbers, each at least 1")
    fits = m.patch_size is None or (m.name == "dit" and m.patch_size >= 1)
    _need(c, fits, "model.patch_size", "need at least 1, and model.name=dit; leave it at None")
    scale = m.residual_scale
    _need(c, 0 < scale <= 1, "model.residual_scale", "need above 0, at most 1")
    fits = not (m.head_dim and m.num_heads)
    _need(c, fits, "model.num_heads", "need 0 beside model.head_dim, which decides it")
    for field in ("optim.learning_rate", "optim.weight_decay", "optim.grad_clip"):
        _need(c, math.isfinite(_value(c, field)), field, "need a finite number")
    for field in ("train.step_deadline", "train.min_free_gb"):
        _need(c, 0 <= _value(c, field) < math.inf, field, "need a finite number, at least 0")
    deadline = c.train.save_deadline
    _need(c, 0 < deadline < math.inf, "train.save_deadline", "need a finite number above 0")
    weights = c.train.inception_weights
    fits = weights == "" or weights.endswith(".safetensors")
    _need(c, fits, "train.inception_weights", "need a file F.safetensors, or nothing")
    sigma, window = c.optim.spike_sigma, c.optim.spike_window
    fits = sigma is None or 0 < sigma < math.inf
    _need(c, fits, "optim.spike_sigma", "need a finite number above 0, or None")
    fits = window is None or (sigma is not None and window >= 2)
    _need(c, fits, "optim.spike_window", "need at least 2, and optim.spike_sigma; or None")
    _need(c, 0 <= c.ema.decay < 1, "ema.decay", "need at least 0 and below 1")
    s = c.sample
    _need(c, math.isfinite(s.guidance_scale), "sample.guidance_scale", "need a finite number")
    fits = s.guidance_rescale is None or 0 <= s.guidance_rescale <= 1
    _need(c, fits, "sample.guidance_rescale", "need 0 to 1, or None")
    fits = s.classifier_scale is None or 0 <= s.classifier_scale < math.inf
    _need(c, fits, "sample.classifier_scale", "need a finite number, at least 0, or None")
    fits = s.guidance_low is None or 0 <= s.guidance_low < math.inf
    _need(c, fits, "sample.guidance_low", "need a finite number, at least 0, or None")
    low = s.guidance_low or 0.0
    fits = s.guidance_high is None or low < s.guidance_high < math.inf
    _need(c, fits, "sample.guidance_high", "need a finite number above guidance_low, or None")


def check_fit(c: ConfigDict, devices: int) -> None:
    """How the fields fit each other and the number of devices. Raises UserError as above."""
    need = functools.partial(_need, c)
    need(
        c.data.batch_size % devices == 0,
        "data.batch_size",
        f"not divisible by the {devices} devices of the mesh; take a multiple, or fewer devices "
        "with config.mesh.data",
    )
    unlabelled = c.model.num_classes == 0
    unconditional = unlabelled and not c.model.conditions
    remedy = (
        "an unconditional model (config.model.num_classes=0) needs sample.guidance_scale=1 and "
        "diffusion.label_dropout=0"
    )
    need(not (unlabelled and c.diffusion.label_dropout), "diffusion.label_dropout", remedy)
    need(
        not (unconditional and c.diffusion.joint_dropout),
        "diffusion.joint_dropout",
        "an unconditional model has nothing to hide; set 0",
    )
    moves = [name for name in c.model.conditions if name.startswith("position")]
    need(not (c.data.flip and moves), "data.flip", f"a mirrored image has another {moves[:1]}")


def check_guidable(c: ConfigDict, field: str) -> None:
    """Conditions were hidden in training, as guidance needs. Raises UserError for what asks it."""
    d = c.diffusion
    if not c.model.num_classes and not c.model.conditions:
        raise UserError(
            f"{field}: an unconditional model (config.model.num_classes=0) has nothing to be "
            "guided towards; set sample.guidance_scale=1, or name a classifier or a weaker model"
        )
    if d.joint_dropout > 0:
        return
    if c.model.num_classes and not d.label_dropout > 0:
        raise UserError(
            f"{field}: guidance needs a model trained with config.diffusion.label_dropout above 0; "
            "set 1"
        )
    if c.model.conditions and not min(d.condition_dropout, default=0) > 0:
        raise UserError(
            f"{field}: guidance needs a model trained with config.diffusion.joint_dropout, or each "
            "of condition_dropout, above 0; set 1"
        )


def _value(c: ConfigDict, field: str) -> Any:
    """The value of a dotted name."""
    return functools.reduce(operator.getitem, field.split("."), c)


def _need(c: ConfigDict, condition: bool, field: str, remedy: str) -> None:
    if not condition:
        raise UserError(f"config.{field}={_value(c, field)!r}: {remedy}")
