"""A VAE of the digits: its bound in bits per pixel beside the diffusion's.

Data: configs/digits.py's, each pixel spread over its cell anew in every step. Unconditional: p(x).
Hardware: 2 CPU cores; 6 min of CPU time.
Expected, over three seeds, on the 360 held-out images: 2.52 bits per pixel by the bound, 2.42 from
  16 draws; docs/results.md has the other figures. With channels=32 and latent_channels=16, four
  times the parameters, a run that was stopped at step 2,492 had 2.36. scikit-learn's
  GaussianMixture reaches 2.60 there.
Command: python scripts/train.py --config=configs/digits_vae.py --workdir=runs/vae
Then: python scripts/evaluate.py --workdir=runs/vae

Source: Kingma & Welling 2014.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("autoencoder")
    config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=64, dequantise=True)
    config.model.update(
        channels=16,
        channel_multipliers=(1, 2, 4, 4),  # down to one vector
        mid_attention=False,
        num_blocks=1,
        num_groups=8,
        dropout=0.1,
        latent_channels=12,
        scale="each",
    )
    config.objective.update(distance="likelihood", kl_weight=1.0)
    config.optim.update(learning_rate=1e-3, warmup_steps=100, decay="cosine")
    config.ema.update(decay=0.998, warmup=True)
    config.train.update(
        num_steps=3000,
        log_every=50,
        checkpoint_every=1000,
        validate_every=500,
        validate_examples=360,
    )
    return config
