"""unCLIP's decoder on drawn shapes: an image from the embedding of an image.

Data: configs/shapes_clip.py's, and the CLIP of its run, runs/shapes_clip.
Hardware: 2 CPU cores, at most 25 minutes. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_unclip.py --workdir=runs/shapes_unclip
Then: python scripts/sample.py --prior_workdir=runs/shapes_prior --workdir=runs/shapes_unclip
  --prompt="a large red circle" --num_samples=16 --out=drawn.npz

Source: Ramesh et al. 2022 (unCLIP), section 2.1; the network is Peebles & Xie's (2023).
"""

from ml_collections import ConfigDict

from configs import shapes, shapes_clip


def get_config() -> ConfigDict:
    config, clip = shapes.get_config(), shapes_clip.get_config()
    config.data.options = clip.data.options
    config.data.clip = "runs/shapes_clip"
    config.model.update(conditions=("image_embedding",), embed_dim=clip.model.embed_dim)
    config.diffusion.update(condition_dropout=(0.1,), joint_dropout=0.0)
    config.train.update(num_steps=8000)
    return config
