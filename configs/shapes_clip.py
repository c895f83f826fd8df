"""CLIP on drawn shapes and their captions: which caption says what a picture shows.

Data: `ddpm_jax.data.shapes` at 16x16, drawn without end, one or two an image; three pairs of colour
  and shape never are. Captions of ten templates ("varied"); two others are never seen.
Hardware: 2 CPU cores; 11 to 16 min of CPU time, 6 min on both.
Expected, from scripts/evaluate.py --caption_style=full among 256 held-out pairs: recall@1 of 0.99
  both ways; of the templates never seen 0.92 and 0.88. docs/results.md has more.
Command: python scripts/train.py --config=configs/shapes_clip.py --workdir=runs/shapes_clip
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("clip")
    config.data.update(
        name="shapes", image_size=(16, 16), channels=3, batch_size=128, tokenizer="words"
    )
    config.data.update(vocabulary=64, context=26)  # the longest caption has so many
    held_out = ("red circle", "blue cross", "yellow square")
    config.data.options = {"max_objects": 2, "held_out": held_out, "captions": "varied"}
    config.model.update(embed_dim=128)
    config.model.image_options = {"patch_size": 4, "width": 128, "depth": 4, "num_heads": 4}
    config.model.text_options = {"width": 128, "depth": 2, "num_heads": 4}
    config.optim.update(learning_rate=1e-3, weight_decay=0.1, warmup_steps=200)
    config.ema.update(decay=0.999, warmup=True)
    config.train.update(
        num_steps=1300,
        checkpoint_every=500,
        validate_every=500,
        validate_examples=1024,
    )
    return config
