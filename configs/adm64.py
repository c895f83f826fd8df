"""ADM on ImageNet 64x64, the experiment of Dhariwal & Nichol (2021): 296 million parameters.

Paper: Diffusion Models Beat GANs on Image Synthesis, Tables 11 and 12. The label is never dropped:
  the paper guides by a classifier.
Data: TFDS imagenet_resized/64x64, prepared once:
  python scripts/prepare_data.py --dataset=imagenet_resized/64x64 --data_dir=DIR
Hardware: many GPUs or TPUs; the paper's 540,000 steps of 2,048 images. --dry_run tells the cost.
Expected: FID 2.07, guided, 250 steps (the authors' repository); not rerun here.
Command: python scripts/train.py --config=configs/adm64.py --workdir=runs/adm64 \
  --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(
        name="imagenet_resized/64x64",
        image_size=(64, 64),
        batch_size=2048,
        flip=True,
        options={"validation_split": "validation"},
    )
    config.model.update(
        channels=192,
        channel_multipliers=(1, 2, 3, 4),
        num_blocks=3,
        attention_resolutions=(32, 16, 8),
        head_dim=64,
        scale_shift_norm=True,
        resample_blocks=True,
        dropout=0.1,
        num_classes=1000,
    )
    config.diffusion.update(schedule="cosine", variance="learned_range", loss="hybrid")
    config.optim.update(name="adamw", learning_rate=3e-4, warmup_steps=0, grad_clip=0.0)
    config.train.num_steps = 540_000
    config.sample.update(num_steps=250, grid="linspace")
    return config
