"""A density of the digits for its likelihood: VDM's recipe on dequantised pixels.

Data: configs/digits.py's, each pixel spread over its cell anew in every step. Unconditional: p(x).
Hardware: 2 CPU cores, 1,000 steps at 3.7 a second while they were shared.
Expected, from scripts/evaluate.py --metrics=bpd on the 360 held-out images, in bits per pixel:
  discrete VLB 2.03, continuous VLB 2.02, probability-flow ODE 2.07 (standard errors 0.015).
  scikit-learn's GaussianMixture reaches 2.60 there.
Command: python scripts/train.py --config=configs/digits_likelihood.py --workdir=runs/likelihood
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=64, dequantise=True)
    config.model.update(
        channels=32,
        channel_multipliers=(1, 2),
        attention_resolutions=(),
        num_groups=8,
        dropout=0.1,
        fourier_features=(3, 4),
    )
    config.diffusion.update(
        schedule="linear_gamma",
        schedule_options={"gamma_0": -13.3, "gamma_1": 6.0},
        prediction="v",
        loss="continuous_vlb",
        time_draw="stratified",
        time_options={"t_min": 0.0},
    )
    # A constant rate: a run continued to more steps is then the run that was longer from the start.
    config.optim.update(learning_rate=1e-3, warmup_steps=100)
    config.ema.update(decay=0.998, warmup=True)
    config.train.update(
        num_steps=1000,
        log_every=50,
        checkpoint_every=250,
        sample_every=1000,
        validate_every=250,
        validate_examples=360,
    )
    config.sample.update(sampler="ddim", num_steps=50, clip_x0=False, batch_size=100, grid_size=100)
    return config
