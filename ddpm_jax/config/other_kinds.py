"""The default configs of the kinds of runs beside the denoiser, as what differs from its own."""

from collections.abc import Sequence

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Of config.sample, what only a denoiser of images is sampled with.
OF_GUIDED_IMAGES = (
    "sample.clip_x0",
    "sample.threshold",
    "sample.guidance_low",
    "sample.guidance_high",
    "sample.guidance_rescale",
    "sample.classifier_scale",
    "sample.clip_scale",
    "sample.mean_gradient",
    "sample.augmentation",
)
# What is of latents in place of pixels.
OF_LATENTS = ("data.codec", "data.latent_shape", "data.cache_latents")
# Of a denoiser's network: adapters beside its kernels.
OF_ADAPTERS = ("model.lora_rank", "model.lora_alpha", "model.lora_targets")
# Of what reads captions for it.
OF_CAPTIONS_READ = (
    "model.text_tower",
    "model.text_channels",
    "model.text_blocks",
    "model.text_heads",
)
# What draws images, and looks at them while it trains.
OF_WHAT_DRAWS = (
    "train.sample_every",
    "train.evaluate_every",
    "train.evaluate_samples",
    "train.evaluate_metric",
    "train.evaluate_extractor",
    "train.inception_weights",
    "sample",
)
# What a classifier of x_t has no use for, of the fields of a denoiser.
NOT_OF_A_CLASSIFIER = (
    "data.tokenizer",
    "data.vocabulary",
    "data.context",
    "data.clip",
    "data.cache_text",
    "model.conditions",
    "model.control",
    "model.pipeline",
    *OF_ADAPTERS,
    "model.fourier_features",
    "model.patch_size",
    "model.embed_dim",
    *OF_CAPTIONS_READ,
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
    *OF_WHAT_DRAWS,
)
# The same of a causal model of tokens.
NOT_OF_LANGUAGE = (
    "data.dequantise",
    "data.clip",
    "data.cache_text",
    *OF_LATENTS,
    "model.options",
    "model.conditions",
    "model.control",
    "model.pipeline",
    *OF_ADAPTERS,
    "model.fourier_features",
    "model.patch_size",
    "model.channel_multipliers",
    "model.attention_resolutions",
    "model.head_dim",
    "model.num_groups",
    "model.scale_shift_norm",
    "model.resample_blocks",
    "model.residual_scale",
    "model.embed_dim",
    *OF_CAPTIONS_READ,
    "diffusion",
    "sample.sampler",
    "sample.num_steps",
    "sample.grid",
    "sample.options",
    "sample.grid_options",
    *OF_GUIDED_IMAGES,
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


# What a CLIP has no use for, of the fields of a denoiser; its network is another one.
NOT_OF_A_CLIP = (
    "model",
    "diffusion",
    "data.dequantise",
    "data.clip",
    "data.cache_text",
    *OF_LATENTS,
    *OF_WHAT_DRAWS,
)


def clip(denoiser: ConfigDict) -> ConfigDict:
    """The default CLIP (Radford et al. 2021), from the default denoiser."""
    config = without(denoiser, NOT_OF_A_CLIP)
    config.kind = "clip"
    config.data.update(tokenizer="bytes", context=32)

    config.model = model = ConfigDict()
    model.name = "clip"  # two towers; what is not compared with texts has one
    model.image = "vit"  # the images' tower: vit or resnet
    # Its keywords: of vit patch_size, width, depth, num_heads, mlp_width, activation; of resnet
    # layers, width, num_heads, num_groups.
    model.image_options = ConfigDict()
    model.text = "transformer"  # the texts' tower: transformer or bag_of_words
    # Of transformer width, depth, num_heads, mlp_width, activation, causal, pooling; of
    # bag_of_words width.
    model.text_options = ConfigDict()
    model.embed_dim = 512  # of the embeddings that are compared
    # Of pixels in [0, 1], one number or one a channel, taken out and divided by.
    model.image_mean = (0.5,)
    model.image_std = (0.5,)
    model.dtype = "float32"  # of the computation: float32 or bfloat16
    model.remat = "none"  # what the backward pass computes again: none or block

    config.objective = objective = ConfigDict()
    objective.name = "clip"
    objective.options = ConfigDict()  # first_scale, largest_scale, margin, ...

    config.optim.update(name="adamw", learning_rate=5e-4, weight_decay=0.2, warmup_steps=2000)
    config.optim.options = {"beta2": 0.98, "epsilon": 1e-6, "matrices_only": True}
    config.optim.decay = "cosine"
    config.ema.decay = 0.999
    return config


def noised_clip(denoiser: ConfigDict) -> ConfigDict:
    """The default CLIP of noised images, which guides (Nichol et al. 2021), from the default's."""
    config = clip(denoiser)
    config.kind = "noised_clip"
    config.diffusion = classifier(denoiser).diffusion  # the path, and the draw of times
    return config


# What a prior has no use for; its network is another one.
NOT_OF_A_PRIOR = (
    "data.dequantise",
    "data.augment",
    "data.tokenizer",
    "data.cache_text",
    *OF_LATENTS,
    "model",
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
    *(field for field in OF_WHAT_DRAWS if field != "sample"),
    *OF_GUIDED_IMAGES,
    "sample.grid_size",
)


def prior(denoiser: ConfigDict) -> ConfigDict:
    """The default prior of unCLIP (Ramesh et al. 2022), from the default denoiser."""
    config = without(denoiser, NOT_OF_A_PRIOR)
    config.kind = "prior"
    config.model = model = ConfigDict()
    # diffusion, or autoregressive: over an embedding's components, the largest first
    model.name = "diffusion"
    model.embed_dim = 512  # of the CLIP's embeddings, as its own config has it
    model.text_channels = 512  # of its text tower's tokens, likewise; diffusion's own
    model.channels = 512  # of a token
    model.num_blocks = 12
    model.num_heads = 8
    model.dropout = 0.0
    model.text_dropout = 0.1  # share of texts hidden in training, for guidance
    # The autoregressive one's own: components that are kept, bins of each, and how many images of
    # the training split, evenly spaced, both are made of.
    model.num_components = 128
    model.num_values = 256
    model.components_from = 10_000
    model.dtype = "float32"  # of the computation: float32 or bfloat16
    model.remat = "none"  # what the backward pass computes again: none or block

    config.diffusion.update(schedule="cosine", prediction="x0")
    config.optim.update(name="adamw", weight_decay=0.06, warmup_steps=1000)
    config.sample.update(sampler="ddim", num_steps=64)
    config.sample.num_candidates = 2  # of each text; that of the largest dot product is taken
    # The autoregressive one's own, as of a language model.
    config.sample.temperature = 1.0
    config.sample.top_k = placeholder(int)
    return config


def captioner(denoiser: ConfigDict) -> ConfigDict:
    """The default captioner, from the default denoiser."""
    config = without(denoiser, NOT_OF_A_CLIP)
    config.kind = "captioner"
    config.data.update(tokenizer="bytes", context=32)

    config.model = model = ConfigDict()
    model.name = "captioner"  # an images' tower, and a decoder that reads its features
    model.image = "vit"  # the images' tower, which has a feature for each patch
    model.image_options = ConfigDict()  # its keywords, as a CLIP's: patch_size, width, depth, ...
    # Of pixels in [0, 1], one number or one a channel, taken out and divided by.
    model.image_mean = (0.5,)
    model.image_std = (0.5,)
    model.channels = 128  # of the decoder's tokens, whatever the tower's width
    model.num_blocks = 4  # of the decoder
    model.num_heads = 4  # of the decoder's attention; 0 for a single one
    model.dropout = 0.0  # of the decoder
    model.dtype = "float32"  # of the computation: float32 or bfloat16
    model.remat = "none"  # what the backward pass computes again: none or block
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
