"""Optimisers by name, all made of optax's; the learning rate multiplies every weight decay."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from optax import contrib

from ddpm_jax.runtime import leaves

# What Muon leaves to Adam, of the house's networks: tables, and the layers that data enter and
# leave by. Behind "network/" stands a network whose schedule is learned.
_TO_ADAM = ("conv_in/*", "conv_out/*", "patch_embedding/*", "out/*", "pool/*", "gamma/*")
TO_ADAM = ("*/embedding", *_TO_ADAM, *(f"network/{pattern}" for pattern in _TO_ADAM))


def adam(
    learning_rate: optax.Schedule,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam, without weight decay. Source: Kingma & Ba 2015.

    Args:
      learning_rate: the schedule.
      beta1, beta2, epsilon: the moments' decays, in [0, 1), and the denominator's offset.

    Raises:
      ValueError: for a decay out of range.
    """
    _check(beta1=beta1, beta2=beta2)
    return optax.adam(learning_rate, b1=beta1, b2=beta2, eps=epsilon)


def adamw(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float | jax.Array = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    matrices_only: bool = False,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay. Source: Loshchilov & Hutter 2019.

    Args:
      learning_rate, beta1, beta2, epsilon: as in `adam`.
      weight_decay: at least 0, multiplied by the learning rate; may be an argument of the program.
      matrices_only: weights of one dimension or none, gains and biases, do not decay.

    Raises:
      ValueError: for a decay out of range, where it is known.
    """
    _check(weight_decay, beta1=beta1, beta2=beta2)
    return optax.adamw(
        learning_rate,
        b1=beta1,
        b2=beta2,
        eps=epsilon,
        weight_decay=weight_decay,
        mask=_matrices if matrices_only else None,
    )


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def lion(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float | jax.Array = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.99,
) -> optax.GradientTransformation:
    """The sign of a mean of gradients; one moment. Source: Chen et al. 2023, algorithm 2.

    The paper takes a learning rate 3 to 10 times smaller than AdamW's, and a weight decay so many
    times larger.

    Args:
      learning_rate: the schedule.
      weight_decay: as in `adamw`.
      beta1, beta2: weight of the moment in the update, and its decay, in [0, 1).

    Raises:
      ValueError: as `adamw`.
    """
    _check(weight_decay, beta1=beta1, beta2=beta2)
    return optax.lion(learning_rate, b1=beta1, b2=beta2, weight_decay=weight_decay)


def sgd(
    learning_rate: optax.Schedule, *, momentum: float = 0.9, nesterov: bool = False
) -> optax.GradientTransformation:
    """Gradient descent with momentum, m = momentum m + g. Source: Sutskever et al. 2013.

    Args:
      learning_rate: the schedule.
      momentum: in [0, 1); 0 keeps no moment.
      nesterov: follow g + momentum m instead of m.

    Raises:
      ValueError: for a momentum out of range.
    """
    _check(momentum=momentum)
    return optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)


def adafactor(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float | jax.Array = 0.0,
    relative: bool = False,
    momentum: float = 0.0,
    decay_rate: float = 0.8,
    clipping_threshold: float = 1.0,
    min_size_to_factor: int = 128,
) -> optax.GradientTransformation:
    """Second moments as a row times a column, of matrices and kernels of two large dimensions.

    Args:
      learning_rate: the schedule; of `relative` steps, a share of each leaf's size.
      weight_decay: as in `adamw`.
      relative: multiply a leaf's update by its root mean square, of 1e-3 at least, as the paper
        does; layers that begin at zero, as diffusion networks have them, then hardly leave it.
      momentum: decay of a mean of updates, in [0, 1); 0 keeps none.
      decay_rate: the second moments' decay at update t is 1 - t^-decay_rate; above 0.
      clipping_threshold: the largest root mean square of a leaf's update, before it is multiplied
        by anything; at least 1.
      min_size_to_factor: leaves whose second largest dimension is smaller keep all second moments.

    Raises:
      ValueError: for a value out of range.

    Source: Shazeer & Stern 2018, algorithms 4 and 5.
    """
    _check(weight_decay, momentum=momentum)
    if not decay_rate > 0:
        raise ValueError(f"need decay_rate > 0, got {decay_rate=}")
    if not clipping_threshold >= 1:
        raise ValueError(f"need clipping_threshold >= 1, got {clipping_threshold=}")
    if min_size_to_factor < 1:
        raise ValueError(f"need min_size_to_factor >= 1, got {min_size_to_factor=}")
    return optax.adafactor(
        learning_rate,
        min_dim_size_to_factor=min_size_to_factor,
        decay_rate=decay_rate,
        multiply_by_parameter_scale=relative,
        clipping_threshold=clipping_threshold,
        momentum=momentum or None,
        # optax's own is not multiplied by the learning rate.
        weight_decay_rate=lambda count: weight_decay * learning_rate(count),
    )


def muon(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float | jax.Array = 0.0,
    momentum: float = 0.95,
    nesterov: bool = True,
    num_iterations: int = 5,
    update_rms: float = 0.2,
    to_adam: Sequence[str] = TO_ADAM,
    adam_rate: float = 1.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Momentum whose matrices are made nearly orthogonal; AdamW moves what is no matrix.

    A matrix is a leaf of two dimensions, [in, out], and a convolution's kernel, [height, width, in,
    out], whose first three dimensions are one. Its singular values come to about 0.7 to 1.2.

    Args:
      learning_rate: the schedule.
      weight_decay: as in `adamw`, of all leaves.
      momentum: decay of the mean of gradients, in [0, 1).
      nesterov: look one gradient ahead.
      num_iterations: Newton-Schulz's, at least 1.
      update_rms: root mean square of a matrix's update at a learning rate of 1; 0.2 is AdamW's, so
        that its learning rate does for both (Liu et al. 2025). 0 for Jordan's own scale, singular
        values of sqrt(max(1, out / in)), which goes with a rate such as 0.02.
      to_adam: patterns of leaves that are no matrices though they look like it, as of
        `leaves.matching`: tables, and the first and the last layer.
      adam_rate: AdamW's learning rate over that of the matrices, above 0.
      adam_beta1, adam_beta2, adam_epsilon: as in `adam`.

    Raises:
      ValueError: for a value out of range.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; scale
      and weight decay, Liu et al. 2025, "Muon is scalable for LLM training", equation 4.
    """
    _check(weight_decay, momentum=momentum, adam_beta1=adam_beta1, adam_beta2=adam_beta2)
    if num_iterations < 1:
        raise ValueError(f"need num_iterations >= 1, got {num_iterations=}")
    if not adam_rate > 0 or update_rms < 0:
        raise ValueError(f"need adam_rate > 0 and update_rms >= 0, got {adam_rate=}, {update_rms=}")

    def parts(params: Any) -> Any:
        excepted = leaves.matching(to_adam, params)
        return jax.tree.map(
            lambda leaf, no: "adam" if no or leaf.ndim not in _MATRIX else "matrices",
            params,
            excepted,
        )

    matrices = optax.chain(
        contrib.scale_by_muon(
            ns_steps=num_iterations,
            beta=momentum,
            nesterov=nesterov,
            weight_dimension_numbers=_dimensions,
        ),
        optax.stateless(lambda updates, _: jax.tree.map(_scaler(update_rms), updates)),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    rest = adamw(
        lambda count: adam_rate * learning_rate(count),
        weight_decay=weight_decay,
        beta1=adam_beta1,
        beta2=adam_beta2,
        epsilon=adam_epsilon,
    )
    return optax.partition({"matrices": matrices, "adam": rest}, parts)


def clipped(
    optimizer: optax.GradientTransformation, grad_clip: float
) -> optax.GradientTransformation:
    """The optimiser behind a clip of the gradient's global norm.

    Args:
      optimizer: any.
      grad_clip: the largest norm; 0 for no clipping.

    Raises:
      ValueError: for a negative norm.
    """
    if grad_clip < 0:
        raise ValueError(f"need grad_clip >= 0, got {grad_clip=}")
    if not grad_clip:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(grad_clip), optimizer)


# Muon's matrices by their number of dimensions: (those of the input, that of the output).
_MATRIX = {
    2: contrib.MuonDimensionNumbers((0,), (1,)),
    4: contrib.MuonDimensionNumbers((0, 1, 2), (3,)),
}


def _dimensions(updates: Any) -> Any:
    return jax.tree.map(lambda leaf: _MATRIX[leaf.ndim], updates)


def _scaler(update_rms: float) -> Any:
    """What multiplies an orthogonal matrix [..., in, out] to the size that `muon` says."""

    def scaled(leaf: jax.Array) -> jax.Array:
        fan_out = leaf.shape[-1]
        fan_in = leaf.size // fan_out
        # An orthogonal matrix has min(in, out) singular values of 1.
        wide = max(fan_in, fan_out) ** 0.5
        return leaf * (update_rms * wide if update_rms else max(1.0, fan_out / fan_in) ** 0.5)

    return scaled


def _check(weight_decay: float | jax.Array = 0.0, **decays: float) -> None:
    if not isinstance(weight_decay, jax.Array) and weight_decay < 0:
        raise ValueError(f"need weight_decay >= 0, got {weight_decay=}")
    for name, value in decays.items():
        if not 0 <= value < 1:
            raise ValueError(f"need 0 <= {name} < 1, got {value}")
