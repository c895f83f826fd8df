"""Circles to squares and back, without pairs: CycleGAN's horses and zebras on drawn shapes.

Data: `ddpm_jax.data.shapes` at 16x16, one object an image, circles and squares alone.
Hardware: 2 CPU cores. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_translation.py --workdir=runs/translation
Then: python scripts/evaluate.py --workdir=runs/translation

Source: Zhu et al. 2017 (CycleGAN).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("translator")
    config.data.update(name="shapes", image_size=(16, 16), channels=3, batch_size=16)
    colours = ("red", "green", "blue", "yellow", "purple", "cyan")
    others = tuple(f"{colour} {shape}" for shape in ("triangle", "cross") for colour in colours)
    config.data.options = {"max_objects": 1, "held_out": others}
    config.model.update(channels=32, num_halvings=1, num_blocks=3, discriminator_layers=2)
    config.objective.sorts = (0, 1)  # circles and squares
    config.train.update(
        num_steps=4000,
        checkpoint_every=1000,
        validate_every=1000,
        validate_examples=512,
    )
    return config
