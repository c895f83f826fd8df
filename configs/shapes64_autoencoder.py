"""configs/shapes_autoencoder.py at 64x64: 16x16 latents, with LDM's discriminator of patches.

Data: `ddpm_jax.data.shapes` at 64x64, drawn without end, one or two an image.
Hardware: one GPU. Not trained yet: neither hours nor a figure are known; --dry_run tells the cost.
Command: python scripts/train.py --config=configs/shapes64_autoencoder.py --workdir=runs/codec64
Then: python scripts/train.py --config=configs/shapes64_latent.py --workdir=runs/shapes64_latent

Source: Rombach et al. 2022 (LDM), appendix G.
"""

from ml_collections import ConfigDict

from configs import shapes_autoencoder


def get_config() -> ConfigDict:
    config = shapes_autoencoder.get_config()
    config.data.update(image_size=(64, 64), batch_size=64)
    config.model.update(channels=128, channel_multipliers=(1, 2, 2), num_blocks=2, num_groups=32)
    config.objective.update(adversary_weight=0.5, adversary_start=20_000)
    config.optim.update(learning_rate=2e-4, warmup_steps=1000)
    config.train.update(num_steps=60_000, checkpoint_every=5000, validate_every=5000)
    return config
