"""CLIP on named emoji: which name a picture has, concepts held out.

Data: OpenMoji's pictures at 32x32 (the extra [emoji], no download) and their names, without skin
  tones and flags; other styles as docs/text.md says, then
  --config.data.data_dir=npm --config.data.options.styles='("openmoji", "noto")'.
Hardware: 2 CPU cores, about an hour.
Command: python scripts/train.py --config=configs/emoji_clip.py --workdir=runs/emoji_clip
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config("clip")
    config.data.update(name="emoji", image_size=(32, 32), channels=3, batch_size=128)
    config.data.update(augment=("shift",), tokenizer="bytes", vocabulary=2048, context=24)
    config.data.options = {"tones": False, "flags": False}
    config.model.update(embed_dim=128)
    config.model.image_options = {"patch_size": 4, "width": 128, "depth": 4, "num_heads": 4}
    config.model.text_options = {"width": 128, "depth": 2, "num_heads": 4}
    config.optim.update(learning_rate=1e-3, weight_decay=0.2, warmup_steps=200)
    config.ema.update(decay=0.999, warmup=True)
    config.train.update(
        num_steps=4000,
        checkpoint_every=500,
        validate_every=500,
        validate_examples=1024,
    )
    return config
