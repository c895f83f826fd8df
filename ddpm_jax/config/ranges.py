"""What each of a config's values must be by itself."""

import math
from collections.abc import Callable
from typing import Any

# The least value of whole-number fields.
AT_LEAST = {
    "data.batch_size": 1,
    "data.num_threads": 0,
    "data.vocabulary": 5,
    "data.context": 2,
    "model.channels": 1,
    "model.num_blocks": 1,
    "model.num_groups": 1,
    "model.head_dim": 0,
    "model.num_heads": 0,
    "model.num_classes": 0,
    "model.text_channels": 1,
    "model.text_blocks": 1,
    "model.text_heads": 1,
    "model.num_components": 1,
    "model.latent_channels": 1,
    "model.num_codes": 0,
    "model.num_values": 2,
    "model.components_from": 2,
    "sample.num_candidates": 1,
    "train.num_steps": 1,
    "train.replicas": 1,
    "train.accumulate": 1,
    "train.keep_checkpoints": 1,
    "train.validate_examples": 1,
    "train.log_every": 0,
    "train.checkpoint_every": 0,
    "train.sample_every": 0,
    "train.validate_every": 0,
    "train.evaluate_every": 0,
    "train.evaluate_samples": 2,
    "train.max_skipped": 0,
    "ema.snapshots_every": 0,
    "sample.batch_size": 1,
    "sample.grid_size": 1,
}


# Of a power-function average's profile: the uniform one's, which none comes to.
LARGEST_STD = 12**-0.5


def _share(value: float) -> bool:
    return 0 <= value <= 1


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _at_least_0(value: float) -> bool:
    return 0 <= value < math.inf


def _different(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether all of a tuple's numbers fit, and none stands there twice."""
    return lambda values: (
        all(type(v) in (int, float) and fits(v) for v in values) and len({*values}) == len(values)
    )


def _unset_or(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


# What values of other fields must be, and how that is said.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**32, "need at least 0 and below 2**32"),
    "model.channel_multipliers": (
        lambda v: len(v) > 0 and min(v) >= 1,
        "need one number a level, each at least 1",
    ),
    "model.embed_dim": (lambda v: v >= 1, "need at least 1"),
    "model.image_mean": (
        lambda v: len(v) >= 1 and all(map(math.isfinite, v)),
        "need a finite number, or one a channel",
    ),
    "model.image_std": (
        lambda v: len(v) >= 1 and all(0 < one < math.inf for one in v),
        "need a finite number above 0, or one a channel",
    ),
    "data.augment": (lambda v: len(set(v)) == len(v), "need different names"),
    "model.dropout": (lambda v: 0 <= v < 1, "need at least 0 and below 1"),
    "diffusion.label_dropout": (_share, "need 0 to 1"),
    "model.label_dropout": (_share, "need 0 to 1"),
    "model.text_dropout": (_share, "need 0 to 1"),
    "diffusion.joint_dropout": (_share, "need 0 to 1"),
    "model.conditions": (
        lambda v: len(set(v)) == len(v) and "label" not in v,
        "need different names; the label is config.model.num_classes",
    ),
    "model.lora_rank": (lambda v: v >= 0, "need at least 0"),
    "model.lora_alpha": (_unset_or(_finite), "need a finite number, or None"),
    "model.lora_targets": (
        lambda v: len(v) >= 1 and all(isinstance(name, str) and name for name in v),
        'need patterns, ("*/query",)',
    ),
    "model.fourier_features": (
        lambda v: all(type(n) is int and n >= 1 for n in v),
        "need whole numbers, each at least 1",
    ),
    "model.patch_size": (_unset_or(lambda v: v >= 1), "need at least 1, or None"),
    "model.code_channels": (_unset_or(lambda v: v >= 1), "need at least 1, or None"),
    "objective.kl_weight": (_at_least_0, "need a finite number, at least 0"),
    "objective.code_weight": (_at_least_0, "need a finite number, at least 0"),
    "objective.commitment": (_at_least_0, "need a finite number, at least 0"),
    "model.latent_size": (lambda v: v >= 1, "need at least 1"),
    "model.discriminator_channels": (_unset_or(lambda v: v >= 1), "need at least 1, or None"),
    "objective.code_decay": (
        _unset_or(lambda v: 0 <= v < 1),
        "need at least 0 and below 1, or None",
    ),
    "objective.perceptual_weight": (_at_least_0, "need a finite number, at least 0"),
    "objective.adversary_weight": (_at_least_0, "need a finite number, at least 0"),
    "objective.adversary_start": (lambda v: v >= 0, "need at least 0"),
    "objective.adversary_channels": (lambda v: v >= 1, "need at least 1"),
    "objective.adversary_layers": (lambda v: v >= 1, "need at least 1"),
    "objective.cycle_weight": (_at_least_0, "need a finite number, at least 0"),
    "objective.identity_weight": (_at_least_0, "need a finite number, at least 0"),
    "model.num_halvings": (lambda v: v >= 0, "need at least 0"),
    "model.discriminator_layers": (lambda v: v >= 1, "need at least 1"),
    "objective.gradient_penalty": (_at_least_0, "need a finite number, at least 0"),
    "objective.discriminator_steps": (lambda v: v >= 1, "need at least 1"),
    "optim.discriminator_learning_rate": (_unset_or(_finite), "need a finite number, or None"),
    "model.residual_scale": (lambda v: 0 < v <= 1, "need above 0, at most 1"),
    "optim.learning_rate": (_finite, "need a finite number"),
    "optim.weight_decay": (_finite, "need a finite number"),
    "optim.grad_clip": (_finite, "need a finite number"),
    "optim.frozen": (
        lambda v: all(isinstance(name, str) and name for name in v),
        'need patterns, ("down_*",)',
    ),
    "optim.spike_sigma": (
        _unset_or(lambda v: 0 < v < math.inf),
        "need a finite number above 0, or None",
    ),
    "mesh.strict_shards": (
        lambda v: v >= 1 and v & (v - 1) == 0,
        "need a power of two: gradients are added in pairs",
    ),
    "train.step_deadline": (_at_least_0, "need a finite number, at least 0"),
    "train.min_free_gb": (_at_least_0, "need a finite number, at least 0"),
    "train.save_deadline": (lambda v: 0 < v < math.inf, "need a finite number above 0"),
    "train.inception_weights": (
        lambda v: v == "" or v.endswith(".safetensors"),
        "need a file F.safetensors, or nothing",
    ),
    "ema.decay": (
        lambda v: v is not None and 0 <= v < 1,
        "need at least 0 and below 1",
    ),
    "ema.decays": (
        _different(lambda v: 0 < v < 1),
        "need numbers above 0 and below 1, each once",
    ),
    "ema.power_stds": (
        _different(lambda v: 0 < v < LARGEST_STD),
        f"need numbers above 0 and below {LARGEST_STD:.4f} (the uniform average's), each once",
    ),
    "sample.guidance_scale": (_finite, "need a finite number"),
    "sample.guidance_rescale": (_unset_or(_share), "need 0 to 1, or None"),
    "sample.classifier_scale": (
        _unset_or(_at_least_0),
        "need a finite number, at least 0, or None",
    ),
    "sample.clip_scale": (
        _unset_or(_at_least_0),
        "need a finite number, at least 0, or None",
    ),
    "sample.temperature": (lambda v: 0 < v < math.inf, "need a finite number above 0"),
    "sample.top_k": (_unset_or(lambda v: v >= 1), "need at least 1, or None"),
    "sample.guidance_low": (_unset_or(_at_least_0), "need a finite number, at least 0, or None"),
}
