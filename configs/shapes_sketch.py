"""Control by sketch and palette of the model of configs/shapes_text.py, as ControlNet's.

Data: configs/shapes_text.py's, with the outline of each image's objects, and a palette: the mean
  colours of its sixteen parts. The model that is controlled is that run's, runs/shapes_text.
Hardware: 2 CPU cores. Not trained yet: no figure is known.
Command: python scripts/train.py --config=configs/shapes_sketch.py --workdir=runs/sketch
Then: python scripts/evaluate.py --workdir=runs/sketch --metrics=controlled --guidance_scale=1

Source: Zhang et al. 2023 (ControlNet).
"""

from ml_collections import ConfigDict

from configs import shapes_text


def get_config() -> ConfigDict:
    config = shapes_text.get_config()
    config.data.update(tokenizer="runs/shapes_text/tokenizer.json")
    controls = ("outline", "palette")
    config.model.update(conditions=("text", *controls), control=controls)
    # Half of the texts are hidden: then what controls has to be read (their section 3.3).
    config.diffusion.update(condition_dropout=(0.5, 0.2, 0.2))
    config.train.update(init_from="runs/shapes_text", num_steps=3000)
    config.optim.frozen = ("!control/*",)
    return config
