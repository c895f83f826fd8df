"""Every field of an experiment with its default; a config file is this plus its difference.

A run that an earlier version left has no value for a field that came later, and is read with the
default: so a new field's default is what was done before there was a choice.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The default experiment: Ho et al.'s (2020) settings, without a data set's own."""
    config = ConfigDict()
    config.seed = 0

    config.data = data = ConfigDict()
    data.name = "digits"  # digits, shapes, folder, or the name of a prepared TFDS data set
    data.data_dir = ""  # the folder, or where TFDS data sets are; "" is TFDS's own default
    data.image_size = (32, 32)  # (height, width); larger images are resized and cropped
    data.channels = 3  # 1 or 3
    data.class_names = ()  # of the labels 0, 1, ...; a run takes them from its data, leave it
    data.batch_size = 128  # over all devices
    data.flip = False  # mirror half of the training images
    data.dequantise = False  # spread each pixel evenly over its cell: a density, not a lattice
    data.max_objects = placeholder(int)  # shapes: 1 or 2 in an image; 2
    data.held_out = ()  # shapes: what is never drawn, such as "red circle"
    data.train_split = "train"  # TFDS splits
    data.validation_split = "test"
    data.holdout = 0.05  # folder: the share kept for validation
    data.labels_file = ""  # folder: CSV of path,label; "" looks for labels.csv, then subfolders
    data.on_error = "stop"  # stop at a broken image, or skip it
    data.num_threads = 2  # that read and decode images

    config.model = model = ConfigDict()
    model.name = "unet"  # unet, dit, or classifier (of x_t, to guide another model)
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
    # What else the network is told, names of what the data know: of shapes background, shape,
    # colour, size, position, shape_2, colour_2, size_2, position_2, silhouette and outline; and
    # low_resolution, with diffusion.low_resolution.
    model.conditions = ()
    model.dtype = "float32"  # of the computation: float32 or bfloat16

    config.diffusion = diffusion = ConfigDict()
    # linear, scaled_linear, cosine or sigmoid of num_steps steps; vp_continuous,
    # scaled_linear_continuous, cosine_continuous, sigmoid_continuous, sub_vp, ve, edm, flow,
    # linear_gamma; or learned
    diffusion.schedule = "linear"
    diffusion.num_steps = 1000  # T of a discrete schedule, and of every chain that is scored
    # Options of some schedules; None is the schedule's own default.
    for name in ("beta_start", "beta_end", "beta_min", "beta_max", "sigma_min", "sigma_max"):
        diffusion[name] = placeholder(float)
    diffusion.cosine_s = placeholder(float)  # cosine, cosine_continuous: the offset, 0.008
    diffusion.max_beta = placeholder(float)  # cosine: 0.999
    diffusion.shift = placeholder(float)  # flow: of time towards the noise
    diffusion.gamma_0 = placeholder(float)  # linear_gamma, learned: -log SNR at t = 0 (at first)
    diffusion.gamma_1 = placeholder(float)  # and at t = 1
    diffusion.zero_terminal_snr = False  # discrete: rescale to alpha(1) = 0
    diffusion.prediction = "eps"  # eps, x0, v, score, posterior_mean, flow or edm
    diffusion.sigma_data = placeholder(float)  # edm: the data's standard deviation; 0.5
    # Of the reverse step: fixed_small, fixed_large, or learned_range (with loss hybrid or vlb)
    diffusion.variance = "fixed_large"
    # simple (squared error), score_matching, hybrid (simple, and the bound for a learned variance),
    # vlb, continuous_vlb (of a continuous schedule, or a learned one), or cross_entropy (of a
    # classifier)
    diffusion.loss = "simple"
    diffusion.vlb_weight = placeholder(float)  # hybrid: of the bound, 0.001
    # none (the prediction's own units); what multiplies the error of eps: constant, snr, min_snr,
    # p2, sigmoid, edm, truncated_snr or likelihood; or inverse_variance for posterior_mean
    diffusion.weighting = "none"
    # Options of some weightings; None is the weighting's own default.
    diffusion.weighting_gamma = placeholder(float)  # min_snr: 5; p2: 1
    diffusion.weighting_k = placeholder(float)  # p2: 1
    diffusion.weighting_bias = placeholder(float)  # sigmoid: 0
    diffusion.weighting_sigma_data = placeholder(float)  # edm: sigma_data, or 0.5
    diffusion.time_draw = "uniform"  # uniform, stratified, importance, log_normal or logit_normal
    # Options of some draws; None is the draw's own default.
    diffusion.time_mean = placeholder(float)  # log_normal: -1.2; logit_normal: 0
    diffusion.time_std = placeholder(float)  # log_normal: 1.2; logit_normal: 1
    diffusion.time_min = placeholder(float)  # continuous schedules: 1e-5; not of importance
    diffusion.time_history = placeholder(int)  # importance: losses remembered a step, 10
    diffusion.time_uniform_prob = placeholder(float)  # importance: 0.001
    diffusion.label_dropout = 0.0  # share of labels hidden in training, for guidance
    # The same of each of model.conditions, hidden independently; () is 0 for all.
    diffusion.condition_dropout = ()
    diffusion.joint_dropout = 0.0  # on top: share of examples with label and conditions all hidden
    # A model that enlarges, with low_resolution among model.conditions: the height of the smaller
    # images, and the largest level of their noise in training, drawn from 0 to there; 0.5.
    diffusion.low_resolution = placeholder(int)
    diffusion.augmentation = placeholder(float)

    config.optim = optim = ConfigDict()
    optim.name = "adam"  # adam or adamw
    optim.learning_rate = 2e-4
    optim.decay = "constant"  # constant or cosine (to 0 at train.num_steps)
    optim.warmup_steps = 5000
    optim.weight_decay = 0.0  # adamw's
    optim.grad_clip = 1.0  # largest global gradient norm; 0 is off
    # Skip a step whose loss or gradient norm is above mean + spike_sigma standard deviations of
    # the last steps, about spike_window (100) of them; None skips only what is not finite.
    optim.spike_sigma = placeholder(float)
    optim.spike_window = placeholder(int)

    config.ema = ema = ConfigDict()
    ema.decay = 0.9999
    ema.warmup = False  # smaller decay in the first steps

    config.train = train = ConfigDict()
    train.num_steps = 800_000
    train.log_every = 100  # in steps, as all of these; 0 is never
    train.checkpoint_every = 5000
    train.keep_checkpoints = 3  # the latest; the best by validation loss is kept besides
    train.max_skipped = 10  # skipped steps in a row that stop the run; 0 never stops it
    train.sample_every = 10_000
    train.validate_every = 10_000
    train.validate_examples = 2048  # at most, of the held-out data
    # Draw so many samples of the moving average and measure their distance to the training data:
    # fid or kid, in the features of auto (a small classifier for digits and shapes, inception for
    # others), classifier, inception (with its weights as a safetensors file), pca or pixels. The
    # checkpoint of the least one is kept, in place of that of the least validation loss.
    train.evaluate_every = 0
    train.evaluate_samples = 1000
    train.evaluate_metric = "fid"
    train.evaluate_extractor = "auto"
    train.inception_weights = ""
    # Seconds: without a step until the process counts as stuck and ends (exit code 124; validation
    # and samples included; 0 is never), and of one save until it does, which is told.
    train.step_deadline = 3600.0
    train.save_deadline = 600.0
    train.min_free_gb = 1.0  # warn when less is free on the disk

    config.sample = sample = ConfigDict()
    # ancestral, ddim, euler, euler_ancestral, heun, edm_stochastic, dpm_solver_pp, unipc, langevin,
    # predictor_corrector or probability_flow
    sample.sampler = "ancestral"
    sample.num_steps = 1000
    sample.grid = "uniform"  # uniform, leading, linspace, quadratic, karras or log_snr_uniform
    # Options of some samplers (their docstrings say what they do); None is the sampler's default.
    for name in ("eta", "threshold", "S_churn", "S_min", "S_max", "S_noise"):
        sample[name] = placeholder(float)
    for name in ("step_size", "snr", "rtol", "atol", "t_min"):
        sample[name] = placeholder(float)
    for name in ("order", "steps_per_level", "num_corrections", "max_steps"):
        sample[name] = placeholder(int)
    for name in ("method", "form", "variant", "predictor", "solver"):
        sample[name] = placeholder(str)
    for name in ("corrector", "sde", "lower_order_final", "final_denoise"):
        sample[name] = placeholder(bool)
    # Options of some grids.
    for name in ("rho", "sigma_min", "sigma_max", "log_snr_min", "log_snr_max"):
        sample[f"grid_{name}"] = placeholder(float)
    sample.grid_steps_offset = placeholder(int)
    sample.clip_x0 = True
    sample.guidance_scale = 1.0  # 0 ignores the label, 1 is unguided, above 1 guided
    sample.guidance_low = placeholder(float)  # guide at noise levels sigma / alpha from here
    sample.guidance_high = placeholder(float)  # up to here, and not elsewhere
    sample.guidance_rescale = placeholder(float)  # 0 to 1: how far guidance's contrast is undone
    sample.classifier_scale = placeholder(float)  # of a classifier's gradient, where one is named
    # Of a model that enlarges: the level of noise on what it enlarges; half of training's largest.
    sample.augmentation = placeholder(float)
    # Inpainting by the ancestral sampler with RePaint's jumps: how often each stretch is sampled,
    # and its steps (10 and 10).
    sample.num_resamples = placeholder(int)
    sample.jump_length = placeholder(int)
    sample.batch_size = 64
    sample.grid_size = 64  # images of the grids drawn in training

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices that split the batch; -1 is all
    mesh.fsdp = 1  # devices that split the parameters (and the batch)
    return config.lock()  # a misspelt field in a config file is an error
