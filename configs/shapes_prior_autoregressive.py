"""unCLIP's autoregressive prior on drawn shapes: an embedding's components, the largest first.

Data: configs/shapes_prior.py's.
Hardware: 2 CPU cores, at most 8 minutes. Not trained to its end yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_prior_autoregressive.py
  --workdir=runs/shapes_prior_autoregressive
Then: python scripts/evaluate.py --workdir=runs/shapes_prior_autoregressive

Source: Ramesh et al. 2022 (unCLIP), section 2.2.
"""

from ml_collections import ConfigDict

from configs import shapes_prior


def get_config() -> ConfigDict:
    config = shapes_prior.get_config()
    config.model.name = "autoregressive"
    return config
