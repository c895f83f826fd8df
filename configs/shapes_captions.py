"""A causal transformer over the captions of drawn shapes, character by character.

Data: the captions of `ddpm_jax.data.shapes`, varied templates of one or two objects, without end.
Hardware: 2 CPU cores.
Expected, from scripts/evaluate.py on 2,000 held-out captions: a bigram model that is counted on
  20,000 training captions has 2.36 bits per character; this config's figure is not measured yet.
Command: python scripts/train.py --config=configs/shapes_captions.py --workdir=runs/captions
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("language")
    config.data.update(name="shapes", image_size=(16, 16), channels=3, batch_size=32)
    config.data.options = {"max_objects": 2, "captions": "varied"}
    # 515 tokens are the bytes, in a word and at its end, and what begins, ends and pads.
    config.data.update(tokenizer="bytes", vocabulary=515, context=112)
    config.model.update(channels=64, num_blocks=4)
    config.optim.update(name="adamw", learning_rate=2e-3, warmup_steps=100, decay="cosine")
    config.ema.update(decay=0.99, warmup=True)
    config.train.update(
        num_steps=1000,
        log_every=50,
        checkpoint_every=500,
        sample_every=0,  # it draws no images
        validate_every=250,
        validate_examples=512,
    )
    config.sample.update(batch_size=100)
    return config
