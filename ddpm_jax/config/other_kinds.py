"""The default configs of the kinds of runs beside the denoiser, as what differs from its own."""

from collections.abc import Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# What a classifier of x_t has no use for, of the fields of a denoiser.
NOT_OF_A_CLASSIFIER = (
    "data.tokenizer",
    "data.vocabulary",
    "data.context",
    "model.conditions",
    "model.fourier_features",
    "model.patch_size",
    "model.text_tower",
    "model.text_channels",
    "model.text_blocks",
    "model.text_heads",
    "diffusion.prediction",
    "diffusion.prediction_options",
    "diffusion.variance",
    "diffusion.loss",
    "diffusion.loss_options",
    "diffusion.weighting",
    "diffusion.weighting_options",
    "diffusion.label_dropout",
    "diffusion.condition_dropout",
    "diffusion.joint_dropout",
    "diffusion.low_resolution",
    "diffusion.augmentation",
    "train.sample_every",
    "train.evaluate_every",
    "train.evaluate_samples",
    "train.evaluate_metric",
    "train.evaluate_extractor",
    "train.inception_weights",
    "sample",
)
# The same of a causal model of tokens.
NOT_OF_LANGUAGE = (
    "data.dequantise",
    "model.options",
    "model.conditions",
    "model.fourier_features",
    "model.patch_size",
    "model.channel_multipliers",
    "model.attention_resolutions",
    "model.head_dim",
    "model.num_groups",
    "model.scale_shift_norm",
    "model.resample_blocks",
    "model.residual_scale",
    "diffusion",
    "sample.sampler",
    "sample.num_steps",
    "sample.grid",
    "sample.options",
    "sample.grid_options",
    "sample.clip_x0",
    "sample.threshold",
    "sample.guidance_low",
    "sample.guidance_high",
    "sample.guidance_rescale",
    "sample.classifier_scale",
    "sample.augmentation",
)


def classifier(denoiser: ConfigDict) -> ConfigDict:
    """The default classifier of x_t, from the default denoiser."""
    config = without(denoiser, NOT_OF_A_CLASSIFIER)
    config.kind = "classifier"
    config.model.name = "classifier"
    return config


def language(denoiser: ConfigDict) -> ConfigDict:
    """The default causal model of tokens, from the default denoiser."""
    config = without(denoiser, NOT_OF_LANGUAGE)
    config.kind = "language"
    model, sample = config.model, config.sample
    model.name = "transformer"
    model.num_heads = 4  # of attention; 0 for a single one
    model.label_dropout = 0.0  # share of labels hidden in training, for p(x) and for guidance
    sample.temperature = 1.0  # logits are divided by it; 1 draws from the model itself
    sample.top_k = placeholder(int)  # draw among so many most likely tokens; None for all
    return config


def without(denoiser: ConfigDict, fields: Sequence[str]) -> ConfigDict:
    """A copy of a config without some fields, "group.name", and groups."""
    config = ConfigDict(denoiser.to_dict())
    for field in fields:
        group, _, name = field.partition(".")
        if name:
            del config[group][name]
        else:
            del config[group]
    return config
