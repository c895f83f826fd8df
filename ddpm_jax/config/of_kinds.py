"""What the configs of other kinds of runs lack of a denoiser's, and what they have of their own."""

from collections.abc import Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# What a classifier of x_t has no use for, of the fields of a denoiser.
NOT_OF_A_CLASSIFIER = (
    "model.conditions",
    "model.fourier_features",
    "model.patch_size",
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


def classifier(config: ConfigDict) -> ConfigDict:
    """A denoiser's config, which is changed, as a classifier's of x_t."""
    config.kind = "classifier"
    config.model.name = "classifier"
    return _without(config, NOT_OF_A_CLASSIFIER)


def language(config: ConfigDict) -> ConfigDict:
    """A denoiser's config, which is changed, as a causal model's of tokens."""
    config.kind = "language"
    _without(config, NOT_OF_LANGUAGE)
    model, sample = config.model, config.sample
    model.name = "transformer"
    model.num_heads = 4  # of attention; 0 for a single one
    model.label_dropout = 0.0  # share of labels hidden in training, for p(x) and for guidance
    sample.temperature = 1.0  # logits are divided by it; 1 draws from the model itself
    sample.top_k = placeholder(int)  # draw among so many most likely tokens; None for all
    return config


def _without(config: ConfigDict, fields: Sequence[str]) -> ConfigDict:
    for field in fields:
        group, _, name = field.partition(".")
        if name:
            del config[group][name]
        else:
            del config[group]
    return config
