"""unCLIP's prior on drawn shapes: from a caption to the embedding of an image, by diffusion.

Data: configs/shapes_clip.py's, and the CLIP of its run, runs/shapes_clip.
Hardware: 2 CPU cores; 9 min of CPU time on one of them.
Expected, from scripts/evaluate.py: its embeddings have a cosine of 0.82 with the images', the
  texts' own 0.77.
Command: python scripts/train.py --config=configs/shapes_prior.py --workdir=runs/shapes_prior
Then: python scripts/evaluate.py --workdir=runs/shapes_prior
The autoregressive one: --config.model.name=autoregressive

Source: Ramesh et al. 2022 (unCLIP), section 2.2.
"""

from ml_collections import ConfigDict

from configs import default, shapes_clip


def get_config() -> ConfigDict:
    clip = shapes_clip.get_config()
    config = default.as_kind("prior", clip)
    config.data.update(clip="runs/shapes_clip", batch_size=64)
    config.model.update(embed_dim=clip.model.embed_dim, text_channels=128)
    config.model.update(channels=128, num_blocks=3, num_heads=4)
    config.model.update(num_components=40, num_values=64)
    config.optim = default.get_config("prior").optim
    config.optim.update(learning_rate=1e-3, weight_decay=0.01, warmup_steps=200, decay="cosine")
    config.train.update(num_steps=2000, checkpoint_every=500, validate_every=500)
    config.sample.update(num_steps=32, batch_size=256)
    return config
