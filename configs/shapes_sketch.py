"""Control by sketch and palette of the model of configs/shapes_plain.py, as ControlNet's.

Data: configs/shapes_plain.py's, with the outline of each image's objects, and a palette: the mean
  colours of its sixteen parts. The model that is controlled is that run's, runs/shapes_plain.
Hardware: 2 CPU cores. Not trained yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_sketch.py --workdir=runs/sketch
Then: python scripts/evaluate.py --workdir=runs/sketch --metrics=controlled

Source: Zhang et al. 2023 (ControlNet).
"""

from ml_collections import ConfigDict

from configs import shapes_plain


def get_config() -> ConfigDict:
    config = shapes_plain.get_config()
    controls = ("outline", "palette")
    config.model.update(conditions=controls, control=controls)
    config.diffusion.condition_dropout = (0.1, 0.1)
    config.train.update(init_from="runs/shapes_plain", num_steps=2000)
    config.optim.frozen = ("!control/*",)
    return config
