"""A CLIP of noised shapes and their captions, to guide a diffusion model of them, as GLIDE's.

Data: as configs/shapes_clip.py. It shares the path of configs/shapes_plain.py, and fits no other.
Hardware: 2 CPU cores, at most 15 min. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_noised_clip.py --workdir=runs/noised_clip
Then: python scripts/sample.py --workdir=runs/shapes_plain --num_samples=16 --out=drawn.npz
  --clip_workdir=runs/noised_clip --clip_scale=2 --prompt="a large red circle"

Source: Nichol et al. 2021 (GLIDE), section 2.4.
"""

from ml_collections import ConfigDict

from configs import default, shapes_clip, shapes_plain


def get_config() -> ConfigDict:
    clip, guided = shapes_clip.get_config(), shapes_plain.get_config()
    config = default.as_kind("noised_clip", clip)
    config.diffusion.update(
        {name: guided.diffusion[name] for name in config.diffusion if name in guided.diffusion}
    )
    config.train.update(num_steps=1500)
    return config
