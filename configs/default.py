"""Every field of an experiment with its default; a config file is this plus its difference."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The default experiment: Ho et al.'s (2020) settings, without a data set's own."""
    config = ConfigDict()
    config.seed = 0

    config.data = data = ConfigDict()
    data.name = "digits"  # digits, folder, or the name of a prepared TFDS data set
    data.data_dir = ""  # the folder, or where TFDS data sets are; "" is TFDS's own default
    data.image_size = (32, 32)  # (height, width); larger images are resized and cropped
    data.channels = 3  # 1 or 3
    data.batch_size = 128  # over all devices
    data.flip = False  # mirror half of the training images
    data.train_split = "train"  # TFDS splits
    data.validation_split = "test"
    data.holdout = 0.05  # folder: the share kept for validation
    data.labels_file = ""  # folder: CSV of path,label; "" looks for labels.csv, then subfolders
    data.on_error = "stop"  # stop at a broken image, or skip it
    data.num_threads = 2  # that read and decode images

    config.model = model = ConfigDict()
    model.name = "unet"
    model.channels = 128
    model.channel_multipliers = (1, 2, 2, 2)  # one a level
    model.num_blocks = 2  # a level
    model.attention_resolutions = (16,)  # heights of the levels with self-attention
    model.head_dim = 0  # channels of an attention head; 0 for one head
    model.num_groups = 32  # of GroupNorm
    model.dropout = 0.0
    model.num_classes = 0  # 0 is unconditional
    model.dtype = "float32"  # of the computation: float32 or bfloat16

    config.diffusion = diffusion = ConfigDict()
    diffusion.schedule = "linear"  # linear or cosine
    diffusion.num_steps = 1000  # T
    diffusion.prediction = "eps"  # eps, x0, v, score or posterior_mean
    diffusion.variance = "fixed_large"  # of ancestral sampling: fixed_small or fixed_large
    diffusion.loss = "simple"  # squared error of the prediction
    diffusion.weighting = "none"  # none, or inverse_variance for posterior_mean
    diffusion.label_dropout = 0.0  # share of labels hidden in training, for guidance

    config.optim = optim = ConfigDict()
    optim.name = "adam"  # adam or adamw
    optim.learning_rate = 2e-4
    optim.decay = "constant"  # constant or cosine (to 0 at train.num_steps)
    optim.warmup_steps = 5000
    optim.weight_decay = 0.0  # adamw's
    optim.grad_clip = 1.0  # largest global gradient norm; 0 is off

    config.ema = ema = ConfigDict()
    ema.decay = 0.9999
    ema.warmup = False  # smaller decay in the first steps

    config.train = train = ConfigDict()
    train.num_steps = 800_000
    train.log_every = 100  # in steps, as all of these; 0 is never
    train.checkpoint_every = 5000
    train.keep_checkpoints = 3
    train.sample_every = 10_000
    train.validate_every = 10_000
    train.validate_examples = 2048  # at most, of the held-out data

    config.sample = sample = ConfigDict()
    sample.sampler = "ancestral"  # ancestral or ddim
    sample.num_steps = 1000
    sample.eta = 0.0  # ddim: 0 is deterministic
    sample.clip_x0 = True
    sample.guidance_scale = 1.0  # 0 ignores the label, 1 is unguided, above 1 guided
    sample.batch_size = 64
    sample.grid_size = 64  # images of the grids drawn in training

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices that split the batch; -1 is all
    mesh.fsdp = 1  # devices that split the parameters (and the batch)
    return config.lock()  # a misspelt field in a config file is an error
