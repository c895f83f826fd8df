"""A pipeline of Stable Diffusion 1, 2 or XL that goes on training on captioned images.

Data: a folder of images with captions, `--config.data.data_dir=DIR`, as docs/text.md has it; any
  other captioned data will do, `--config.data.name=emoji`. Latents and the texts' states are made
  once and kept in your cache.
Hardware: one GPU of 24 GB for Stable Diffusion 1 with adapters; not trained here, since no
  published weights are at hand. --dry_run tells what a step takes.
Command: python scripts/train.py --config=configs/stable_diffusion_finetune.py
  --config.train.init_from=stable-diffusion-v1-5 --config.data.data_dir=images --workdir=runs/tuned
  (adapters alone: --config.model.lora_rank=8 --config.optim.learning_rate=1e-4)
Then: python scripts/checkpoint.py export --workdir=runs/tuned --format=diffusers --out=tuned

Source: Rombach et al. 2022; Podell et al. 2023 (SDXL); Hu et al. 2021 (LoRA). The settings are
  those of diffusers' own scripts of fine-tuning, with a caption hidden in a tenth of the images.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.data.update(name="captions", image_size=(512, 512), channels=3, batch_size=4)
    config.data.update(cache_latents=True, cache_text=True)
    config.model.update(name="stable_diffusion", conditions=("text",))
    config.model.update(dtype="bfloat16", remat="block")
    config.model.update(lora_targets=tuple(f"unet/*/{part}" for part in _ATTENTION))
    # The pipeline's own.
    config.diffusion.update(schedule="", prediction="", condition_dropout=(0.1,))
    config.optim.update(name="adamw", learning_rate=1e-5, warmup_steps=500, weight_decay=0.01)
    config.optim.frozen = ("text*",)
    config.ema.update(decay=0.9999, warmup=True)
    config.train.update(num_steps=15_000, checkpoint_every=1000, sample_every=1000)
    config.train.update(validate_every=1000, validate_examples=256)
    config.sample.update(sampler="dpm_solver_pp", num_steps=25, guidance_scale=7.5, clip_x0=False)
    config.sample.update(batch_size=4, grid_size=4)
    return config


_ATTENTION = ("query", "key", "value", "out")
