"""A user's own parts, one of each: what docs/extending.md says, and no more."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.diffusion import process, schedules, weightings


class Network(nn.Module):
    """A perceptron over the pixels, the time and the label."""

    out_channels: int
    num_classes: int = 0
    width: int = 16

    @nn.compact
    def __call__(self, xt, time, conditions=None, train=False):
        h = nn.Dense(self.width)(xt.reshape(len(xt), -1)) + nn.Dense(self.width)(time[:, None])
        if self.num_classes:
            label = jnp.where(conditions["label"] < 0, self.num_classes, conditions["label"])
            h = h + nn.Embed(self.num_classes + 1, self.width)(label)
        out = nn.Dense(xt[0, ..., 0].size * self.out_channels)(nn.gelu(h))
        return out.reshape(*xt.shape[:-1], self.out_channels)


def huber(network, schedule, x0, t, eps, *, delta: float = 1.0):
    """A robust loss of eps, [B]."""
    xt = process.add_noise(schedule, x0, t, eps)
    error = network(xt, schedule.network_time(t)) - eps
    return optax.losses.huber_loss(error, delta=delta).mean(axis=(1, 2, 3))


def schedule(*, num_steps: int, power: float = 2.0):
    """A discrete schedule with betas that grow as a power of the step."""
    steps = np.arange(1, num_steps + 1) / num_steps
    return schedules.from_betas(0.05 + 0.5 * steps**power)


def weighting(*, scale: float = 1.0):
    """The same weight for all times."""
    return weightings.of_log_snr(lambda log_snr: scale * jnp.ones_like(log_snr))


def optimizer(learning_rate, *, momentum: float = 0.9):
    """Gradient descent with momentum."""
    return optax.sgd(learning_rate, momentum=momentum)


def sampler(denoise, schedule, times, key, x, *, pull: float = 1.0):
    """x_0-hat of the first time, and nothing else."""
    del schedule, key
    return pull * denoise(x, jnp.full(len(x), times[0], x.dtype)).x0


class Stripes:
    """Images of stripes, the class their direction."""

    skipped = 0

    def __init__(self, num, width, info):
        self.info = info
        self._num, self._width = num, width

    def __len__(self):
        return self._num

    def __getitem__(self, index):
        row = (np.arange(8) // self._width + index) % 2 * 255
        image = np.broadcast_to(row[:, None] if index % 2 else row[None], (8, 8))
        return {"image": image[..., None].astype(np.uint8), "label": np.int32(index % 2)}


def stripes(split, *, width: int = 2):
    """A data set of two classes."""
    from ddpm_jax.data import DataInfo

    info = DataInfo((8, 8, 1), 2, 256, ("across", "down"))
    return Stripes(40 if split == "train" else 10, width, info)


def no_network(out_channels: int):
    """What has no init and no apply."""
    return out_channels


class WrongShape(nn.Module):
    """A network whose output has a channel too many."""

    out_channels: int

    @nn.compact
    def __call__(self, xt, time, conditions=None, train=False):
        return nn.Dense(self.out_channels + 1)(xt)


def loss_of_four(network, schedule, x0, t):
    """A loss that is not told the noise."""
    return x0.mean(axis=(1, 2, 3))


def mean_loss(network, schedule, x0, t, eps):
    """A loss that is averaged already."""
    return jnp.mean(network(x0, t) - eps)


def no_schedule():
    """What is no schedule."""
    return jax.numpy.sin


def big_stripes(split):
    """Images that do not fit the config."""
    from ddpm_jax.data import DataInfo

    return Stripes(4, 2, DataInfo((16, 16, 1), 2, 256, ("across", "down")))
