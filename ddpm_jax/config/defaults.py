"""Every field of an experiment with its default; a config file is this plus its difference.

A run that an earlier version left has no value for a field that came later, and is read with the
default: so a new field's default is what was done before there was a choice.
"""

# Over 300 lines: every field of a config, with its default and its meaning, in one list to read.

from collections.abc import Callable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddpm_jax.config import latent_kinds, other_kinds
from ddpm_jax.errors import UserError

# The dicts of options: keywords of what another field of their group names, checked against its
# signature where it is built.
OPTIONS = (
    ("data", "options"),
    ("model", "options"),
    ("model", "image_options"),
    ("model", "text_options"),
    ("objective", "options"),
    ("diffusion", "schedule_options"),
    ("diffusion", "prediction_options"),
    ("diffusion", "loss_options"),
    ("diffusion", "weighting_options"),
    ("diffusion", "time_options"),
    ("optim", "options"),
    ("optim", "decay_options"),
    ("sample", "options"),
    ("sample", "grid_options"),
)


def get_config(kind: str = "denoiser") -> ConfigDict:
    """The default experiment of a kind of run, with the fields of that kind alone.

    Raises:
      UserError: for a kind that is unknown.
    """
    if kind not in CONFIGS:
        raise UserError(f"config.kind={kind!r}: need one of {', '.join(CONFIGS)}")
    return CONFIGS[kind]()


def as_kind(kind: str, config: ConfigDict) -> ConfigDict:
    """A config of another kind, with the values of the fields that both have: data, schedule, ...

    Args:
      kind: of the config that is returned.
      config: such as a denoiser's, which a classifier is to guide.

    Raises:
      UserError: as `get_config`.
    """
    made = get_config(kind)
    with made.unlocked():
        for group, fields in config.to_dict().items():
            if group == "kind" or group not in made:
                continue
            if not isinstance(fields, dict):
                made[group] = fields
                continue
            for name, value in fields.items():
                if name in made[group] and (group, name) != ("model", "name"):
                    made[group][name] = value
    return _locked(made)


def classifier() -> ConfigDict:
    """The default classifier of x_t."""
    return _locked(other_kinds.classifier(denoiser()))


def language() -> ConfigDict:
    """The default causal model of tokens."""
    return _locked(other_kinds.language(denoiser()))


def clip() -> ConfigDict:
    """The default CLIP."""
    return _locked(other_kinds.clip(denoiser()))


def noised_clip() -> ConfigDict:
    """The default CLIP of noised images."""
    return _locked(other_kinds.noised_clip(denoiser()))


def prior() -> ConfigDict:
    """The default prior of unCLIP."""
    return _locked(other_kinds.prior(denoiser()))


def captioner() -> ConfigDict:
    """The default captioner."""
    return _locked(other_kinds.captioner(denoiser()))


def autoencoder() -> ConfigDict:
    """The default autoencoder."""
    return _locked(latent_kinds.autoencoder(denoiser()))


def gan() -> ConfigDict:
    """The default game of a generator and a discriminator."""
    return _locked(latent_kinds.gan(denoiser()))


def translator() -> ConfigDict:
    """The default translator between two sorts of images."""
    return _locked(latent_kinds.translator(denoiser()))


def denoiser() -> ConfigDict:
    """The default diffusion model: Ho et al.'s (2020) settings, without a data set's own."""
    config = ConfigDict()
    # or classifier, of x_t, to guide a diffusion model; language, a causal model of tokens; clip;
    # noised_clip, of x_t, to guide; prior, of a CLIP's embeddings of images given texts; captioner,
    # of captions given their images; autoencoder, of images through latents; gan, a generator
    # against a discriminator; translator, between two sorts of images
    config.kind = "denoiser"
    config.seed = 0

    config.data = data = ConfigDict()
    # digits, shapes, folder, captions, idx, emoji, the name of a prepared TFDS data set, or
    # package.module:name
    data.name = "digits"
    data.data_dir = ""  # the folder, or where TFDS data sets are; "" is TFDS's own default
    data.image_size = (32, 32)  # (height, width); larger images are resized and cropped
    data.channels = 3  # 1 or 3
    data.class_names = ()  # of the labels 0, 1, ...; a run takes them from its data, leave it
    data.batch_size = 128  # over all devices
    data.flip = False  # mirror half of the training images, where they are read
    # How training images are moved in the step, on the device: flip, as above, and shift, by up to
    # an eighth of their size.
    data.augment = ()
    data.dequantise = False  # spread each pixel evenly over its cell: a density, not a lattice
    data.num_threads = 2  # that read and decode images
    # What makes tokens of captions, for a kind of run that reads text: bytes or words, learned from
    # the training split and kept in the workdir, or the path of CLIP's own files.
    data.tokenizer = ""
    data.vocabulary = 1024  # tokens at most that are learned; the number of CLIP's own is 49408
    data.context = 77  # tokens of a text, with its beginning and end
    # The workdir of a CLIP, for model.conditions=("image_embedding",); the run keeps a copy.
    data.clip = ""
    # Model latents: the workdir of an autoencoder, or diffusers' folder of one, whose latents the
    # run has in place of pixels, and keeps a copy of it; "" for pixels. The shape of the latents of
    # one image, (h, w, C).
    data.codec = ""
    data.latent_shape = ()
    # Make the latents of all training images once and keep them in the user's cache.
    data.cache_latents = False
    # Make what a frozen tower of texts (model.text_tower=clip, optim.frozen) says of the captions
    # once and keep it in the user's cache: then no step runs the tower.
    data.cache_text = False
    data.options = ConfigDict()  # keywords of what `name` builds: holdout, max_objects, ...

    config.model = model = ConfigDict()
    model.name = "unet"  # unet, dit, stable_diffusion, or package.module:name
    model.options = ConfigDict()  # keywords of a network of one's own
    model.channels = 128  # of the U-Net's first level, or of a transformer's token
    model.num_blocks = 2  # a level, or a transformer's depth
    model.num_heads = 0  # of attention; 0 for what head_dim says, and for a single head
    model.dropout = 0.0
    # The U-Net's own.
    model.channel_multipliers = (1, 2, 2, 2)  # one a level
    model.attention_resolutions = (16,)  # heights of the levels with self-attention
    model.head_dim = 0  # channels of an attention head; 0 for what num_heads says
    model.num_groups = 32  # of GroupNorm
    model.scale_shift_norm = False  # the embedding scales and shifts (ADM), else it is added
    model.resample_blocks = False  # residual blocks halve and double (BigGAN, ADM), else a conv
    model.residual_scale = 1.0  # of every residual connection's sum
    model.fourier_features = ()  # show the network sin and cos of 2^n pi x too, for these n
    # The transformer's own.
    model.patch_size = placeholder(int)  # height and width of a token's pixels; 2
    model.num_classes = 0  # 0 for no label
    # Conditions beside the label, names of what the data know: of shapes background, shape,
    # colour, size, position, shape_2, colour_2, size_2, position_2, silhouette, outline, palette;
    # text, the captions, with data.tokenizer; low_resolution, with diffusion.low_resolution; and
    # image_embedding, the embedding of an image by data.clip.
    model.conditions = ()
    # Those of them that a branch of control reads: images, which a copy of the U-Net's way down
    # makes changes of its skips of (ControlNet). Its weights begin as those of the way down, with
    # train.init_from; optim.frozen=("!control/*",) trains it alone.
    model.control = ()
    # Of stable_diffusion: what its networks, words and scheduler are. A run takes it from the
    # pipeline that train.init_from names; leave it, and the fields of data and diffusion that the
    # pipeline decides.
    model.pipeline = ConfigDict()
    # Adapters (LoRA) on the layers whose names fit these patterns: so many channels between their
    # two halves, 0 for none, and what their product counts over that; None for once. The network
    # begins with train.init_from, and optim.frozen=("!lora/*",) keeps it.
    model.lora_rank = 0
    model.lora_alpha = placeholder(float)
    model.lora_targets = ("*/query", "*/key", "*/value", "*/out")
    # The transformer that reads "text": glide, trained with the network, or clip, which can
    # begin with a CLIP's weights (train.init_from) and keep them (optim.frozen); the channels of
    # its tokens, its depth, its heads.
    model.text_tower = "glide"
    model.text_channels = 512
    model.text_blocks = 16
    model.text_heads = 8
    model.embed_dim = 512  # of data.clip's embeddings, for image_embedding
    model.dtype = "float32"  # of the computation: float32 or bfloat16
    # What the backward pass computes again instead of keeping it: none, block or full.
    model.remat = "none"

    config.diffusion = diffusion = ConfigDict()
    # linear, scaled_linear, cosine or sigmoid of num_steps steps; vp_continuous,
    # scaled_linear_continuous, cosine_continuous, sigmoid_continuous, sub_vp, ve, edm, flow,
    # linear_gamma; or learned; of a pipeline "", as its prediction, for its own
    diffusion.schedule = "linear"
    diffusion.schedule_options = ConfigDict()  # beta_start, s, sigma_max, shift, gamma_0, ...
    diffusion.num_steps = 1000  # T of a discrete schedule, and of every chain that is scored
    diffusion.zero_terminal_snr = False  # discrete: rescale to alpha(1) = 0
    diffusion.prediction = "eps"  # eps, x0, v, score, posterior_mean, flow or edm
    diffusion.prediction_options = ConfigDict()  # edm: sigma_data
    # Of the reverse step: fixed_small, fixed_large, or learned_range (with loss hybrid or vlb)
    diffusion.variance = "fixed_large"
    # simple (squared error), score_matching, hybrid (simple, and the bound for a learned variance),
    # vlb, or continuous_vlb (of a continuous schedule, or a learned one)
    diffusion.loss = "simple"
    diffusion.loss_options = ConfigDict()  # hybrid: vlb_weight
    # none (the prediction's own units); what multiplies the error of eps: constant, snr, min_snr,
    # p2, sigmoid, edm, truncated_snr or likelihood; or inverse_variance for posterior_mean
    diffusion.weighting = "none"
    diffusion.weighting_options = ConfigDict()  # min_snr and p2: gamma; sigmoid: bias; ...
    diffusion.time_draw = "uniform"  # uniform, stratified, importance, log_normal or logit_normal
    diffusion.time_options = ConfigDict()  # mean, std, t_min, history_size, uniform_prob
    diffusion.label_dropout = 0.0  # share of labels hidden in training, for guidance
    # The same of each of model.conditions, hidden independently; () is 0 for all.
    diffusion.condition_dropout = ()
    diffusion.joint_dropout = 0.0  # on top: share of examples with label and conditions all hidden
    # A model that enlarges, with low_resolution among model.conditions: the height of the smaller
    # images, and the largest level of their noise in training, drawn from 0 to there; 0.5.
    diffusion.low_resolution = placeholder(int)
    diffusion.augmentation = placeholder(float)

    config.optim = optim = ConfigDict()
    # adam, adamw, lion, muon, adafactor, sgd, or package.module:name
    optim.name = "adam"
    optim.options = ConfigDict()  # beta1, beta2, epsilon, momentum, nesterov, ...
    optim.learning_rate = 2e-4  # the peak
    # constant; cosine, linear or wsd (down to `end`, 0, at train.num_steps); inverse_sqrt; edm2
    optim.decay = "constant"
    optim.decay_options = ConfigDict()  # end, share, t_ref
    optim.warmup_steps = 5000
    optim.weight_decay = 0.0  # of all optimisers but adam and sgd
    # Parameters that stay as they are: patterns on their whole names, ("down_*", "*/bias"); a *
    # stands for any characters, / too; ("!control/*",) is all but those.
    optim.frozen = ()
    optim.grad_clip = 1.0  # largest global gradient norm; 0 is off
    # Skip a step whose loss or gradient norm is above mean + spike_sigma standard deviations of
    # the last steps, about spike_window (100) of them; None skips only what is not finite.
    optim.spike_sigma = placeholder(float)
    optim.spike_window = placeholder(int)

    config.ema = ema = ConfigDict()
    ema.decay = 0.9999  # of the first average, which validates and draws
    ema.warmup = False  # smaller decay in the first steps
    # Averages kept beside it: of other decays, (0.999, 0.99995); and power-function averages, whose
    # profile has this standard deviation over its length, (0.05, 0.1) (Karras et al. 2024).
    ema.decays = ()
    ema.power_stds = ()
    # Steps between snapshots of the power averages in DIR/averages, all of which are kept: of them
    # averages of other widths are made after training; 0 is never.
    ema.snapshots_every = 0

    config.train = train = ConfigDict()
    train.num_steps = 800_000
    # Weights to begin with: F.safetensors, named as `checkpoint.py export` names them, the workdir
    # of a run, or of stable_diffusion a pipeline's folder. Not strict: parameters that they do not
    # fit begin as without them.
    train.init_from = ""
    train.init_strict = True
    # Runs in one program: the seeds from `seed` on, each in DIR/replicas/seed=S.
    train.replicas = 1
    # Parts that a step shows its batch in, one after the other: memory for one, the same update.
    train.accumulate = 1
    train.log_every = 100  # in steps, as all of these; 0 is never
    # What shows the metrics beside metrics.jsonl: tensorboard, and wandb of the extra [wandb]; ()
    train.writers = ("tensorboard",)
    train.checkpoint_every = 5000
    train.keep_checkpoints = 3  # the latest; the best by validation loss is kept besides
    train.max_skipped = 10  # skipped steps in a row that stop the run; 0 never stops it
    train.sample_every = 10_000
    train.validate_every = 10_000
    train.validate_examples = 2048  # at most, of the held-out data
    # Draw so many samples of the moving average and measure their distance to the training data:
    # fid or kid, in the features of auto (a small classifier for digits and shapes, inception for
    # others), classifier, inception (with its weights as a safetensors file), pca or pixels. The
    # checkpoint with the smallest is kept, instead of that with the smallest validation loss.
    train.evaluate_every = 0
    train.evaluate_samples = 1000
    train.evaluate_metric = "fid"
    train.evaluate_extractor = "auto"
    train.inception_weights = ""
    # Seconds: without a step until the process counts as stuck and ends (exit code 124; validation
    # and samples included; 0 is never), and of one save until it does, which is reported.
    train.step_deadline = 3600.0
    train.save_deadline = 600.0
    train.min_free_gb = 1.0  # warn when less is free on the disk

    config.sample = sample = ConfigDict()
    # ancestral, ddim, euler, euler_ancestral, heun, edm_stochastic, dpm_solver_pp, unipc, pndm,
    # langevin, predictor_corrector or probability_flow; repaint, which inpaints
    sample.sampler = "ancestral"
    sample.num_steps = 1000
    sample.grid = "uniform"  # uniform, leading, linspace, quadratic, karras or log_snr_uniform
    sample.options = ConfigDict()  # keywords of the sampler: eta, order, S_churn, snr, rtol, ...
    sample.grid_options = ConfigDict()  # of the grid: rho, sigma_min, log_snr_max, ...
    sample.clip_x0 = True
    # The quantile of dynamic thresholding instead, with clip_x0=False.
    sample.threshold = placeholder(float)
    sample.guidance_scale = 1.0  # 0 ignores the label, 1 is unguided, above 1 guided
    sample.guidance_low = placeholder(float)  # guide at noise levels sigma / alpha from here
    sample.guidance_high = placeholder(float)  # up to here, and not elsewhere
    sample.guidance_rescale = placeholder(float)  # 0 to 1: how far guidance's contrast is undone
    sample.classifier_scale = placeholder(float)  # of a classifier's gradient, where one is named
    sample.clip_scale = placeholder(float)  # of a CLIP's; 1
    # Shift the mean of each step of ancestral by these gradients, in place of bending eps.
    sample.mean_gradient = placeholder(bool)
    # Of a model that enlarges: the level of noise on what it enlarges; half of training's largest.
    sample.augmentation = placeholder(float)
    sample.batch_size = 64
    sample.grid_size = 64  # images of the grids drawn in training

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices that split the batch; -1 is all
    mesh.fsdp = 1  # devices that split the parameters (and the batch)
    # The same bits on 1, 2, 4, ... devices, up to the number of shards: each step sees its batch in
    # so many equal shards (a power of two), whose gradients are added in one order.
    mesh.strict = False
    mesh.strict_shards = 8
    return _locked(config)


def _locked(config: ConfigDict) -> ConfigDict:
    """A misspelt field in a config file is an error; options are named where they are taken."""
    config.lock()
    for group, field in OPTIONS:
        if field in config.get(group, {}):
            config[group][field].unlock()
    return config


# The default config of each kind of run; what else is known of one stands in build/kinds.py.
CONFIGS: dict[str, Callable[[], ConfigDict]] = {
    "denoiser": denoiser,
    "classifier": classifier,
    "language": language,
    "clip": clip,
    "noised_clip": noised_clip,
    "prior": prior,
    "captioner": captioner,
    "autoencoder": autoencoder,
    "gan": gan,
    "translator": translator,
}
