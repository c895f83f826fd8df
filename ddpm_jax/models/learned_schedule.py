"""A learned noise schedule: the monotone network gamma(t) = -log SNR(t) of VDM.

On a fixed pair of end points the variational bound does not depend on gamma's interior, only the
variance of its estimate does. So the interior follows the gradient of the squared loss
(`of_variance` says which leaves those are), the end points and the network that of the bound.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import schedules

ENDS = ("gamma_0", "gamma_1")


class Gamma(nn.Module):
    """gamma_0 + (gamma_1 - gamma_0) m(t), m rising from 0 to 1; all of it learnable.

    Attributes:
      gamma_0, gamma_1: -log SNR at t = 0 and 1 before training, gamma_0 < gamma_1.
      width: of the hidden layer.

    Raises:
      ValueError: unless gamma_0 < gamma_1.

    Source: Kingma et al. 2021 (VDM), appendix H; end points: their section 6.
    """

    gamma_0: float = -13.3
    gamma_1: float = 5.0
    width: int = 1024

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:  # any shape -> the same
        if not self.gamma_0 < self.gamma_1:
            raise ValueError(
                f"need gamma_0 < gamma_1, got gamma_0={self.gamma_0}, gamma_1={self.gamma_1}"
            )
        normal = nn.initializers.normal(1.0)
        layers = {
            "gamma_0": self.param("gamma_0", nn.initializers.constant(self.gamma_0), ()),
            "gamma_1": self.param("gamma_1", nn.initializers.constant(self.gamma_1), ()),
            "linear": self.param("linear", nn.initializers.ones, ()),
            "hidden_kernel": self.param("hidden_kernel", normal, (self.width,)),
            "hidden_bias": self.param("hidden_bias", normal, (self.width,)),
            "output": self.param("output", normal, (self.width,)),
        }
        return gamma(layers, t)


class WithSchedule(nn.Module):
    """A network and the schedule that is learned with it, in one tree {"network", "gamma"}.

    Called as the network is; `schedule_of` reads the schedule from the same parameters.

    Attributes:
      network: (xt, time, conditions, train=) -> output.
      gamma: the schedule's module.
    """

    network: nn.Module
    gamma: Gamma = Gamma()

    def __call__(
        self, xt: jax.Array, time: jax.Array, conditions: Any = None, **options: Any
    ) -> Any:
        """The network's output."""
        if self.is_initializing():
            self.gamma(jnp.zeros(()))
        return self.network(xt, time, conditions, **options)

    def with_attention(self, implementation: str) -> "WithSchedule":
        """The same with an implementation of `attention.attend`, if the network has the choice."""
        return self._with("with_attention", implementation)

    def with_kernel_gradient(self, form: str) -> "WithSchedule":
        """The same with a form of `convolution.convolution`, if the network has the choice."""
        return self._with("with_kernel_gradient", form)

    def _with(self, method: str, choice: str) -> "WithSchedule":
        if not hasattr(self.network, method):
            return self
        return self.clone(network=getattr(self.network, method)(choice))


def gamma(layers: Any, t: jax.Array) -> jax.Array:
    """gamma(t) of the parameters of `Gamma`, t in [0, 1] of any shape; rises strictly with t.

    m is l_1(t) + l_3(sigmoid(l_2(t))) with weights that are absolute values, scaled to 0 at t = 0
    and 1 at t = 1.
    """
    first = _interior(layers, jnp.zeros((), t.dtype))
    last = _interior(layers, jnp.ones((), t.dtype))
    share = (_interior(layers, t) - first) / (last - first)
    # The gap's absolute value: end points that cross in training still make a schedule.
    return layers["gamma_0"] + jnp.abs(layers["gamma_1"] - layers["gamma_0"]) * share


def schedule_of(params: Any) -> schedules.Schedule:
    """The schedule of a `WithSchedule`'s parameters; give it to `step.make_objective`."""
    return schedules.from_gamma(lambda t: gamma(params["gamma"], t))


def of_variance(params: Any) -> Any:
    """A tree of bools like params: true for the interior of gamma.

    Source: Kingma et al. 2021 (VDM), section 5.1 and appendix I.2.
    """

    def interior(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [key.key for key in path]
        return names[0] == "gamma" and names[-1] not in ENDS

    return jax.tree_util.tree_map_with_path(interior, params)


def _interior(layers: Any, t: jax.Array) -> jax.Array:
    """l_1(t) + l_3(sigmoid(l_2(t))), not scaled yet."""

    def row(name: str) -> jax.Array:
        return layers[name].reshape((1,) * t.ndim + (-1,))

    # Centred, so that the hidden units of a new network bend within [0, 1].
    centred = 2 * t[..., None] - 1
    hidden = jax.nn.sigmoid(jnp.abs(row("hidden_kernel")) * centred + row("hidden_bias"))
    return jnp.abs(layers["linear"]) * t + (jnp.abs(row("output")) * hidden).mean(axis=-1)
