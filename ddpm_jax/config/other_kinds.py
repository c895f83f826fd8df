"""The default configs of the kinds of runs beside the denoiser, as what differs from its own."""

from collections.abc import Sequence

from ml_collections import ConfigDict

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


def classifier(denoiser: ConfigDict) -> ConfigDict:
    """The default classifier of x_t, from the default denoiser."""
    config = without(denoiser, NOT_OF_A_CLASSIFIER)
    config.kind = "classifier"
    config.model.name = "classifier"
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
