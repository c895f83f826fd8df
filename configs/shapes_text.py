"""Drawn shapes, one or two an image, told in words by ten templates, as GLIDE is told.

Data: `ddpm_jax.data.shapes` at 16x16, drawn without end; three pairs of colour and shape never are,
  and two templates of captions are never read in training.
Hardware: 2 CPU cores, an hour. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_text.py --workdir=runs/shapes_text
Then: python scripts/sample.py --workdir=runs/shapes_text --num_samples=16 --out=drawn.npz
  --prompt="a large red circle above a small blue square"

Source: Nichol et al. 2021 (GLIDE); the U-Net is Dhariwal & Nichol's (2021), smaller.
"""

from ml_collections import ConfigDict

from configs import shapes


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.data.options.captions = "varied"
    config.data.update(batch_size=32, tokenizer="bytes", vocabulary=600, context=26)
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
        conditions=("text",),
        text_channels=128,
        text_blocks=2,
        text_heads=4,
    )
    config.model.patch_size = None
    # Of a few large, even surfaces all is decided at high noise, where a cosine hardly ever is.
    config.diffusion.update(schedule="flow", prediction="flow", schedule_options={"shift": 5.0})
    config.diffusion.update(condition_dropout=(0.2,), joint_dropout=0.0)
    config.optim.update(decay="cosine")
    config.train.update(num_steps=16_000, validate_every=2000, checkpoint_every=2000)
    return config
