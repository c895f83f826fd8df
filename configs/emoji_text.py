"""Emoji at 32x32 from their names, by GLIDE's U-Net, smaller.

Data: `data.name=emoji` (docs/text.md): OpenMoji alone comes with pip; noto, twemoji and fluent are
  npm packages that you fetch into --config.data.data_dir, where `styles` below names them too.
  Concepts held out are drawn by no caption in training.
Hardware: one GPU. Not trained yet: neither hours nor a figure are known; --dry_run tells the cost.
Command: python scripts/train.py --config=configs/emoji_text.py --workdir=runs/emoji_text
Then: python scripts/sample.py --workdir=runs/emoji_text --num_samples=16 --out=drawn.png
  --prompt="grinning face with big eyes, openmoji style"

Source: Nichol et al. 2021 (GLIDE); the U-Net is Dhariwal & Nichol's (2021).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="emoji", image_size=(32, 32), channels=3, batch_size=256)
    config.data.options = {"styles": ("openmoji",), "tones": False, "flags": False}
    config.data.update(tokenizer="bytes", vocabulary=4096, context=48)
    config.model.update(
        channels=128,
        channel_multipliers=(1, 2, 3),
        num_blocks=3,
        attention_resolutions=(16, 8),
        head_dim=64,
        scale_shift_norm=True,
        resample_blocks=True,
        dropout=0.1,
        dtype="bfloat16",
        conditions=("text",),
        text_channels=512,
        text_blocks=6,
        text_heads=8,
    )
    config.diffusion.update(schedule="cosine", prediction="v", condition_dropout=(0.2,))
    config.optim.update(name="adamw", learning_rate=2e-4, warmup_steps=1000, weight_decay=0.01)
    config.ema.update(decay=0.9999, warmup=True)
    config.train.update(
        num_steps=200_000, checkpoint_every=5000, sample_every=10_000, validate_every=10_000
    )
    config.sample.update(sampler="dpm_solver_pp", num_steps=25, guidance_scale=3.0)
    return config
