"""A data set of one's own, by a config: discs, whose class is their size."""

import tempfile

import numpy as np

from ddpm_jax import experiment
from ddpm_jax.data import DataInfo
from ddpm_jax.default_config import get_config


class Discs:
    def __init__(self, size, num, seed):
        self.info = DataInfo((size, size, 1), 2, 256, ("small", "large"))
        self.num, self.seed = num, seed

    def __len__(self):
        return self.num

    def __getitem__(self, k):  # a pure function of k: then a run resumes to the same bits
        centre = np.random.default_rng((self.seed, k)).uniform(0.3, 0.7, 2)
        place = (np.indices(self.info.image_shape[:2]) + 0.5) / self.info.image_shape[0]
        inside = np.hypot(*(place - centre[:, None, None])) < (0.15, 0.3)[k % 2]
        return {"image": 255 * inside[..., None].astype(np.uint8), "label": np.int32(k % 2)}


def discs(split, *, image_size, num: int = 200):
    return Discs(image_size[0], num, seed=["train", "validation"].index(split))


config = get_config()
config.data.update(name="own_dataset:discs", image_size=(8, 8), channels=1, options={"num": 100})
config.data.batch_size, config.optim.warmup_steps, config.diffusion.label_dropout = 32, 0, 0.1
config.model.update(name="dit", channels=32, num_heads=2, patch_size=2, num_classes=2)
config.sample.update(sampler="ddim", num_steps=10)
config.train.update(num_steps=30, sample_every=0, validate_every=30, checkpoint_every=30)
own = {"own_dataset:discs": discs}  # train.py imports what such a name says
with tempfile.TemporaryDirectory() as workdir:
    assert experiment.train(experiment.build(config, own=own), workdir) == 0
    print("drawn:", experiment.load(workdir, own=own).sample(4, labels=["large"]).shape)
