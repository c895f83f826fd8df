"""configs/shapes.py at 32x32, by DiT-S/2.

Data: `ddpm_jax.data.shapes`, drawn without end; three pairs of colour and shape never are.
Hardware: one GPU. Not trained yet: neither hours nor a figure are known; --dry_run tells the cost.
Command: python scripts/train.py --config=configs/shapes32.py --workdir=runs/shapes32
"""

from ml_collections import ConfigDict

from configs import shapes


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.data.update(image_size=(32, 32), batch_size=256)
    config.model.update(channels=384, num_blocks=12, num_heads=6, patch_size=2, dtype="bfloat16")
    config.optim.update(learning_rate=2e-4, warmup_steps=1000)
    config.ema.decay = 0.9999
    config.train.update(
        num_steps=100_000, checkpoint_every=5000, sample_every=10_000, validate_every=10_000
    )
    return config
