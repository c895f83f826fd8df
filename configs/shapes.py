"""Drawn shapes, one or two an image, told background, shapes, colours, sizes and positions.

Data: `ddpm_jax.data.shapes` at 16x16, drawn without end; three pairs of colour and shape never are.
Hardware: 2 CPU cores, 43 min as measured beside other work; 8.5 steps a second alone, so 24 min.
Expected, from scripts/evaluate.py on 500 samples: 0.930 show all nine attributes that they were
  told, 0.862 where shape and colour were never seen together.
Command: python scripts/train.py --config=configs/shapes.py --workdir=runs/shapes
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="shapes", image_size=(16, 16), channels=3, batch_size=64)
    held_out = ("red circle", "blue cross", "yellow square")
    config.data.options = {"max_objects": 2, "held_out": held_out}
    config.model.update(name="dit", channels=128, num_blocks=6, num_heads=4, patch_size=4)
    objects = ("shape", "colour", "size", "position")
    config.model.conditions = ("background", *objects, *(f"{name}_2" for name in objects))
    config.diffusion.update(
        schedule="cosine",
        prediction="v",
        condition_dropout=(0.05,) * 9,  # to know parts of a description, which can be composed
        joint_dropout=0.1,  # to know none of it, for guidance
    )
    # A constant rate: a run continued to more steps is then the run that was longer from the start.
    config.optim.update(learning_rate=1e-3, warmup_steps=200)
    config.ema.update(decay=0.999, warmup=True)
    config.train.update(
        num_steps=12_000,
        checkpoint_every=1000,
        sample_every=4000,
        validate_every=4000,
        validate_examples=512,
    )
    config.sample.update(
        sampler="ddim", num_steps=50, guidance_scale=3.0, batch_size=100, grid_size=100
    )
    return config
