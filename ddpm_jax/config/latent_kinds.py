"""The default configs of the kinds of runs that make latents."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddpm_jax.config import other_kinds

# What only the samplers of a path have, of config.sample.
OF_A_SAMPLER = (
    "sample.sampler",
    "sample.num_steps",
    "sample.grid",
    "sample.options",
    "sample.grid_options",
    *other_kinds.OF_GUIDED_IMAGES,
)
# What an autoencoder has no use for, of the fields of a denoiser.
NOT_OF_AN_AUTOENCODER = (
    "data.tokenizer",
    "data.vocabulary",
    "data.context",
    "data.clip",
    "data.cache_text",
    *other_kinds.OF_LATENTS,
    "model.options",
    "model.conditions",
    "model.control",
    "model.pipeline",
    *other_kinds.OF_ADAPTERS,
    "model.fourier_features",
    "model.patch_size",
    "model.embed_dim",
    "model.scale_shift_norm",
    "model.resample_blocks",
    "model.residual_scale",
    *other_kinds.OF_CAPTIONS_READ,
    "diffusion",
    *OF_A_SAMPLER,
)
# The same of a game.
NOT_OF_A_GAN = (
    *NOT_OF_AN_AUTOENCODER,
    "model.channel_multipliers",
    "model.attention_resolutions",
    "model.num_blocks",
    "model.num_heads",
    "model.head_dim",
    "model.dropout",
    "model.remat",
)


def autoencoder(denoiser: ConfigDict) -> ConfigDict:
    """The default autoencoder: LDM's of 32x32 images (Rombach et al. 2022), 4 times smaller."""
    config = other_kinds.without(denoiser, NOT_OF_AN_AUTOENCODER)
    config.kind = "autoencoder"
    model = config.model
    model.name = "autoencoder"
    # What stands between encoder and decoder: plain, nothing; normal, a law of latents (a VAE,
    # AutoencoderKL); quantised, a codebook (VQ).
    model.bottleneck = "normal"
    model.update(channels=64, channel_multipliers=(1, 2, 4), attention_resolutions=())
    model.mid_attention = True  # at the lowest resolution
    model.latent_channels = 4
    model.num_codes = 0  # of a quantised bottleneck
    model.code_channels = placeholder(int)  # of a code; None for latent_channels
    model.projected = True  # a 1x1 convolution on either side of the bottleneck
    # model.num_classes: of the label that the decoder is told; 0 for none.
    # Where the variance of a pixel comes from, of objective.distance=likelihood: none, it is 1;
    # shared, one number that is learned; each, the decoder says it of each pixel.
    model.scale = "none"

    config.objective = objective = ConfigDict()
    objective.distance = "l1"  # of an image from its reconstruction: l1, l2 or likelihood
    objective.kl_weight = 1e-6  # of a normal bottleneck's divergence; 1 is a VAE's bound
    # Of a quantised one: of its loss; the factor of commitment, and whether it stands on the other
    # term, as in VQGAN's code.
    objective.code_weight = 1.0
    objective.commitment = 0.25
    objective.legacy = True
    # Codes that are moving averages of what became them, with this decay; None: a gradient's.
    objective.code_decay = placeholder(float)
    # How images look beside the distance: the file of LPIPS's weights, F.safetensors, or the
    # workdir of a classifier, for its features (docs/latents.md); of which the run keeps a copy;
    # and how much it counts.
    objective.perceptual = ""
    objective.perceptual_weight = 1.0
    # Of a discriminator of patches, LDM's: 0.5; 0 is none. The step from which it takes part; its
    # game (hinge, ...); its channels, and its convolutions of stride 2.
    objective.adversary_weight = 0.0
    objective.adversary_start = 0
    objective.game = "hinge"
    objective.adversary_channels = 64
    objective.adversary_layers = 3

    config.optim.update(learning_rate=4.5e-4, warmup_steps=200)
    config.ema.update(decay=0.999, warmup=True)
    config.sample.temperature = 1.0  # of a normal bottleneck: the deviation of its latents
    return config


def gan(denoiser: ConfigDict) -> ConfigDict:
    """The default game: DCGAN's networks (Radford et al. 2015), R1 (Mescheder et al. 2018)."""
    config = other_kinds.without(denoiser, NOT_OF_A_GAN)
    config.kind = "gan"
    model = config.model
    model.name = "gan"
    # Of each network's level at the images' own size; smaller levels have more.
    model.update(channels=64, num_groups=8)
    model.discriminator_channels = placeholder(int)  # None for channels
    model.latent_size = 128  # of the noise

    config.objective = objective = ConfigDict()
    objective.game = "non_saturating"  # or hinge, minimax, least_squares
    objective.gradient_penalty = 1.0  # gamma of R1, of real images; 0 for none
    objective.discriminator_steps = 1  # for each of the generator's

    config.optim.update(warmup_steps=0, options={"beta1": 0.0, "beta2": 0.99}, grad_clip=0.0)
    config.optim.discriminator_learning_rate = placeholder(float)  # None for learning_rate
    config.ema.update(decay=0.999, warmup=True)
    config.sample.temperature = 1.0  # the deviation of the noise
    return config


# The same of a translator, which draws nothing.
NOT_OF_A_TRANSLATOR = (
    *(field for field in NOT_OF_A_GAN if field not in ("model.num_blocks", *OF_A_SAMPLER)),
    "model.num_classes",
    *other_kinds.OF_WHAT_DRAWS,
)


def translator(denoiser: ConfigDict) -> ConfigDict:
    """The default translator between two sorts of images: CycleGAN (Zhu et al. 2017)."""
    config = other_kinds.without(denoiser, NOT_OF_A_TRANSLATOR)
    config.kind = "translator"
    model = config.model
    model.name = "cycle_gan"
    model.update(channels=64, num_blocks=6, num_groups=8)  # of both generators
    model.num_halvings = 2
    model.discriminator_channels = placeholder(int)  # None for channels
    model.discriminator_layers = 3  # convolutions of stride 2

    config.objective = objective = ConfigDict()
    objective.sorts = (0, 1)  # the labels of the two; images of others count nothing
    objective.game = "least_squares"  # or non_saturating, hinge, minimax
    objective.cycle_weight = 10.0
    objective.identity_weight = 5.0

    config.optim.update(warmup_steps=0, options={"beta1": 0.5}, grad_clip=0.0)
    config.ema.update(decay=0.999, warmup=True)
    return config
