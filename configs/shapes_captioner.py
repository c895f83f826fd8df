"""A captioner of drawn shapes: what a picture shows, in words.

Data: `ddpm_jax.data.shapes` at 16x16, drawn without end, one or two an image, with captions that
  tell everything ("full"), so that it can judge samples: every attribute is in its words.
Hardware: 2 CPU cores; 11 min of CPU time on one of them.
Expected, from scripts/evaluate.py on 1,000 held-out images: every caption is true of its image.
Command: python scripts/train.py --config=configs/shapes_captioner.py --workdir=runs/captioner
  As a judge: python scripts/evaluate.py --workdir=runs/shapes_text --metrics=captioned
  --captioner_workdir=runs/captioner
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("captioner")
    config.data.update(name="shapes", image_size=(16, 16), channels=3, batch_size=64)
    config.data.options = {"max_objects": 2, "captions": "full"}
    config.data.update(tokenizer="words", vocabulary=64, context=26)
    config.model.image_options = {"patch_size": 4, "width": 64, "depth": 3, "num_heads": 4}
    config.model.update(channels=96, num_blocks=2)
    config.optim.update(name="adamw", learning_rate=1e-3, warmup_steps=100, decay="cosine")
    config.ema.update(decay=0.99, warmup=True)
    config.train.update(
        num_steps=3000,
        checkpoint_every=1000,
        validate_every=1000,
        validate_examples=1024,
    )
    return config
