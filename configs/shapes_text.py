"""Drawn shapes, one or two an image, told in words by ten templates, as GLIDE is told.

Data: `ddpm_jax.data.shapes` at 16x16, drawn without end; three pairs of colour and shape never are,
  and two templates of captions are never read in training.
Hardware: 2 CPU cores, an hour. Not trained to its end yet. After 6,000 steps (73 min of one core)
  its samples are not readable: 0.03 of those of one object show what they were told.
Command: python scripts/train.py --config=configs/shapes_text.py --workdir=runs/shapes_text
Then: python scripts/sample.py --workdir=runs/shapes_text --num_samples=16 --out=drawn.npz
  --prompt="a large red circle above a small blue square"

Source: Nichol et al. 2021 (GLIDE); the network is Peebles & Xie's (2023).
"""

from ml_collections import ConfigDict

from configs import shapes


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.data.options.captions = "varied"
    config.data.update(tokenizer="bytes", vocabulary=600, context=26)
    config.model.update(conditions=("text",), text_channels=128, text_blocks=3, text_heads=4)
    config.diffusion.update(condition_dropout=(0.2,), joint_dropout=0.0)
    config.optim.update(decay="cosine")
    config.train.update(num_steps=8500)
    return config
