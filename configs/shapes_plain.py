"""Drawn shapes of which the model is told nothing: for a CLIP to guide, or a sketch to control.

Data: `ddpm_jax.data.shapes` at 16x16, drawn without end; three pairs of colour and shape never are.
Hardware: 2 CPU cores. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_plain.py --workdir=runs/shapes_plain
Then: configs/shapes_noised_clip.py, or configs/shapes_sketch.py

Source: the U-Net is Dhariwal & Nichol's (2021), smaller.
"""

from ml_collections import ConfigDict

from configs import shapes


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.data.batch_size = 32
    config.model.update(
        name="unet",
        channels=32,
        channel_multipliers=(1, 2, 2),
        attention_resolutions=(8, 4),
        num_blocks=1,
        num_heads=0,
        head_dim=32,
        num_groups=8,
        scale_shift_norm=True,
        conditions=(),
    )
    config.model.patch_size = None
    # Of a few large, even surfaces all is decided at high noise, where a cosine hardly ever is.
    config.diffusion.update(schedule="flow", prediction="flow", schedule_options={"shift": 5.0})
    config.diffusion.update(condition_dropout=(), joint_dropout=0.0)
    config.optim.update(decay="cosine")
    config.train.update(num_steps=4000)
    config.sample.update(guidance_scale=1.0)
    return config
