"""unCLIP's decoder on drawn shapes: an image from the embedding of an image.

Data: configs/shapes_clip.py's, and the CLIP of its run, runs/shapes_clip.
Hardware: 2 CPU cores; 28 min on one of them.
Expected, from scripts/evaluate.py: at guidance_scale 3 variations of an image of one object keep
  its shape and colour in 0.88; by the prior, 0.57 of the samples of one object show all they were
  told, docs/results.md.
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
    # Of a few large, even surfaces all is decided at high noise, where a cosine hardly ever is.
    config.diffusion.update(schedule="flow", prediction="flow", schedule_options={"shift": 5.0})
    config.diffusion.update(condition_dropout=(0.1,), joint_dropout=0.0)
    config.optim.update(decay="cosine")
    config.train.update(num_steps=6000)
    return config
