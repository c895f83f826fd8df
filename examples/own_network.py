"""A network of one's own, by a config: trained, loaded and sampled in a folder that goes away."""

import tempfile

import flax.linen as nn

from ddpm_jax import experiment
from ddpm_jax.default_config import get_config


class Perceptron(nn.Module):
    """xt [B, H, W, C] and the label, -1 where it is hidden, to eps of the same shape."""

    out_channels: int
    num_classes: int
    width: int = 128

    @nn.compact
    def __call__(self, xt, time, conditions=None, train=False):
        label = conditions["label"] % (self.num_classes + 1)
        h = nn.Dense(self.width)(xt.reshape(len(xt), -1))
        h = h + nn.Dense(self.width)(time[:, None] / 1000)
        h = nn.gelu(h + nn.Embed(self.num_classes + 1, self.width)(label))
        h = nn.Dense(xt[0, ..., 0].size * self.out_channels)(h)
        return h.reshape(*xt.shape[:-1], self.out_channels)


config = get_config()
config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=64)
config.model.update(name="own_network:Perceptron", options={"width": 64}, num_classes=10)
config.diffusion.label_dropout = 0.1
config.optim.warmup_steps = 0
config.sample.update(sampler="ddim", num_steps=10, guidance_scale=2.0)
config.train.update(num_steps=50, sample_every=0, validate_every=0, checkpoint_every=50)
own = {"own_network:Perceptron": Perceptron}  # train.py imports what such a name says
with tempfile.TemporaryDirectory() as workdir:
    assert experiment.train(experiment.build(config, own=own), workdir) == 0
    images = experiment.load(workdir, own=own).sample(4, labels=[3])
print("drawn:", images.shape, images.dtype)
