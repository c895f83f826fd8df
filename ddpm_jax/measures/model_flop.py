"""FLOP that a model's mathematics asks for, counted in its jaxpr: the same on every backend.

A multiplication and an addition are two. Matrix products and convolutions are counted, all else is
not: norms, activations and noise are a percent or two of a U-Net or a transformer. A convolution's
taps that fall on padding, or between the values of a dilated input, are no FLOP of the model. What
is computed again to save memory is not either: the forward pass is counted before that is decided.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.training import inspection
from ddpm_jax.training.objectives.base import Objective

# Of a training step over its forward pass: the gradient of a matrix product is two products of its
# size, with respect to either factor (PaLM, appendix B).
STEP_OVER_FORWARD = 3
# The function of `models.convolution.enlarging`.
ENLARGED = "convolved_enlarged"


def of_step(experiment: Experiment) -> int:
    """Model FLOP of a training step on a whole batch, over all devices: 3 times the forward pass.

    A convention (Chowdhery et al. 2022, "PaLM", appendix B): the backward pass counts as two
    forward passes, rematerialisation as none, and the optimiser and the averages as none. The
    forward pass is that of all that the objective evaluates, a frozen teacher's too. Of players,
    the sum of their objectives', each by how often it moves.
    """
    return round(STEP_OVER_FORWARD * sum(_forwards(experiment)))


def forward(experiment: Experiment) -> int:
    """FLOP of the forward pass of an experiment's objective on a training batch."""
    return _of_objective(experiment, experiment.objective)


def _forwards(experiment: Experiment) -> Iterator[float]:
    if not experiment.players:
        yield forward(experiment)
    for player in experiment.players.values():
        yield _of_objective(experiment, player.objective) / player.every


def _of_objective(experiment: Experiment, objective: Objective) -> int:
    losses, shapes = inspection.loss_to_trace(
        objective, experiment.state_shapes(), experiment.batch_shapes(), experiment.frozen
    )
    return of_function(losses, *shapes)


def of_function(function: Callable[..., Any], *shapes: Any) -> int:
    """FLOP of a function of arrays or ShapeDtypeStructs; traced, not computed."""
    return of_jaxpr(jax.make_jaxpr(function)(*shapes).jaxpr)


def of_jaxpr(jaxpr: Any) -> int:
    """FLOP of a jaxpr: of a loop without a known length one turn, of branches the longest one."""
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    name = equation.primitive.name
    if equation.params.get("name") == ENLARGED:
        return _enlarged(equation)
    if name in PRIMITIVES:
        return PRIMITIVES[name](equation)
    within = [of_jaxpr(inner) for inner in _inner(equation.params.values())]
    if name == "cond":
        return max(within, default=0)
    times = equation.params["length"] if name == "scan" else 1
    if name == "shard_map":
        times = equation.params["mesh"].size  # its jaxpr is of one device's part
    return times * sum(within)


def _inner(values: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in values:
        if isinstance(value, Sequence) and not isinstance(value, str):
            yield from _inner(value)
        elif hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def _dot(equation: Any) -> int:
    """[..., M, K] times [..., K, N]: 2 M N K of each."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs, out = equation.invars[0].aval, equation.outvars[0].aval
    return 2 * math.prod(out.shape) * math.prod(lhs.shape[axis] for axis in contracted)


def _conv(equation: Any) -> int:
    """Of each pair of channels and each tap that falls on a value of the image, 2."""
    params = equation.params
    numbers = params["dimension_numbers"]
    image, kernel, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
    taps = math.prod(
        _taps(
            image[numbers.lhs_spec[axis]],
            kernel[numbers.rhs_spec[axis]],
            out[numbers.out_spec[axis]],
            stride=params["window_strides"][axis - 2],
            low=params["padding"][axis - 2][0],
            image_dilation=params["lhs_dilation"][axis - 2],
            kernel_dilation=params["rhs_dilation"][axis - 2],
        )
        for axis in range(2, len(image))
    )
    # The kernel's own channels in are those of one group.
    pairs = kernel[numbers.rhs_spec[0]] * kernel[numbers.rhs_spec[1]]
    batch = image[numbers.lhs_spec[0]] // params["batch_group_count"]
    return 2 * batch * pairs * taps


def _enlarged(equation: Any) -> int:
    """As a convolution of 3x3 pixels of the image twice as large."""
    (batch, height, width, _), kernel = (v.aval.shape for v in equation.invars)
    taps = math.prod(
        _taps(size, 3, size, stride=1, low=1, image_dilation=1, kernel_dilation=1)
        for size in (2 * height, 2 * width)
    )
    return 2 * batch * math.prod(kernel[2:]) * taps


def _taps(
    image: int,
    kernel: int,
    out: int,
    *,
    stride: int,
    low: int,
    image_dilation: int,
    kernel_dilation: int,
) -> int:
    """Pairs of a place out and a tap along one axis that meet a value of the image."""
    place = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * kernel_dilation - low
    inside = (place >= 0) & (place <= (image - 1) * image_dilation)
    return int((inside & (place % image_dilation == 0)).sum())


def _fused_attention(equation: Any) -> int:
    """cuDNN's, [B, T, N, H] on [B, S, N, H] or with N before T: two products, 4 B N T S H."""
    query, keys = (v.aval.shape for v in equation.invars[:2])
    heads_first = equation.params["layout"] == 1  # jax's AttentionLayout.BNTH
    batch, *rest, width = query
    length, heads = rest[::-1] if heads_first else rest
    return 4 * batch * heads * length * keys[2 if heads_first else 1] * width


PRIMITIVES: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "dot_product_attention_fwd": _fused_attention,
    "dot_product_attention_fwd_wrapper": _fused_attention,
}
