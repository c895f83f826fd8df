"""Sequences token by token: p(x) = prod p(x_i | x_1 .. x_(i-1)), scored and sampled.

A model is known by its logits: of p(x_i | what comes before it), for each place i. Whatever gives
them, everything here is exact: the product is the probability of the sequence, and drawing each
token by its own conditional is drawing the sequence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

NO_TOKEN = -1  # what stands before the first one
# (carry, place int32, the tokens before it int32 [B]) -> logits [B, V] of the token there, carry
Step = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
Adjust = Callable[[jax.Array], jax.Array]


class Sequences(NamedTuple):
    """Tokens that were drawn one after the other.

    Attributes:
      tokens: int32 [B, L].
      log_probs: [B, L], log p of each given those before it, of the distribution it was drawn from;
        of a given token too.
    """

    tokens: jax.Array
    log_probs: jax.Array


def token_log_probs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """log p(x_i | x_<i) of each token, in nats, [..., L]; at least float32.

    Args:
      logits: [..., L, V], those at place i of what comes before i alone (teacher forcing).
      tokens: int [..., L], in [0, V); others give NaN.

    Raises:
      ValueError: for shapes that do not belong together.
    """
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(
            f"need logits [..., L, V] of tokens [..., L], got {logits.shape} and {tokens.shape}"
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    # A negative place would be counted from the end.
    places = jnp.where(tokens < 0, logits.shape[-1], tokens)[..., None]
    chosen = jnp.take_along_axis(logits, places, axis=-1, mode="fill", fill_value=jnp.nan)
    return chosen[..., 0] - jax.nn.logsumexp(logits, axis=-1)


def log_prob(
    logits: jax.Array,
    tokens: jax.Array,
    mask: jax.Array | None = None,
    *,
    num_given: jax.Array | int = 0,
) -> jax.Array:
    """log p(x) in nats, [B], by the chain rule; with `num_given`, of the others given the first.

    Args:
      logits: [B, L, V], as of `token_log_probs`.
      tokens: int [B, L].
      mask: bool [B, L], the tokens that count, such as no padding; None for all.
      num_given: int or int [B]: log p(x_(k+1) .. x_L | x_1 .. x_k) for k given tokens.

    Raises:
      ValueError: for shapes that do not belong together.
    """
    each = token_log_probs(logits, tokens)
    later = jnp.arange(tokens.shape[1])[None, :] >= jnp.reshape(num_given, (-1, 1))
    counts = later if mask is None else later & _same_shape(mask, tokens)
    return jnp.where(counts, each, 0).sum(axis=-1)


def by_cumulative(logits: jax.Array, uniform: jax.Array) -> jax.Array:
    """The token that a uniform number draws: the first k with u < p(0) + ... + p(k).

    Args:
      logits: [..., V].
      uniform: in [0, 1), [...].

    Returns:
      int32 [...]; never a token of probability 0.

    Raises:
      ValueError: for shapes that do not belong together.

    Source: Devroye 1986, "Non-uniform random variate generation", section III.2.
    """
    if logits.shape[:-1] != uniform.shape:
        raise ValueError(
            f"need logits [..., V] and a number for each, got {logits.shape} and {uniform.shape}"
        )
    probs = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    cumulative = jnp.cumsum(probs, axis=-1)
    # Rounded sums end beside 1: the number goes the same way along them.
    reached = cumulative <= uniform[..., None] * cumulative[..., -1:]
    last = probs.shape[-1] - 1 - jnp.argmax(probs[..., ::-1] > 0, axis=-1)
    return jnp.minimum(reached.sum(axis=-1), last).astype(jnp.int32)


def adjusted(temperature: jax.Array | float = 1.0, top_k: int | None = None) -> Adjust:
    """Logits divided by a temperature, of the k largest alone: what to draw from instead of p.

    Tokens as likely as the k-th stay. Below temperature 1, or with top_k, samples are likelier than
    the model's, and no longer its.

    Args:
      temperature: above 0; an array is not checked.
      top_k: at least 1; None for all.

    Raises:
      ValueError: for a number out of range.

    Source: Fan et al. 2018, "Hierarchical neural story generation", section 5.4.
    """
    if isinstance(temperature, float | int) and not temperature > 0:
        raise ValueError(f"need a temperature above 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"need top_k of at least 1, or None, got {top_k}")

    def adjust(logits: jax.Array) -> jax.Array:
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / temperature
        if top_k is None or top_k >= logits.shape[-1]:
            return logits
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        return jnp.where(logits < least, -jnp.inf, logits)

    return adjust


UNCHANGED = adjusted()


def draw(
    step: Step,
    carry: Any,
    uniforms: jax.Array,
    *,
    given: jax.Array | None = None,
    num_given: jax.Array | int = 0,
    adjust: Adjust = UNCHANGED,
) -> Sequences:
    """Sequences drawn token by token, each by `by_cumulative`, in one scan.

    The first `num_given` tokens are not drawn: the others then have the distribution of x_2 given
    x_1, X = (x_1, x_2), which is the model's own, exactly.

    Args:
      step: gives the logits at a place of the token before it (NO_TOKEN at place 0) and of what it
        carries, such as the keys and values of all before.
      carry: before the first place.
      uniforms: in [0, 1), [B, L]: place i of a sequence is a function of its numbers up to i.
      given: int [B, L], of which the first `num_given` are taken; None for none.
      num_given: int or int [B].
      adjust: logits -> those to draw from.

    Raises:
      ValueError: for given tokens of another shape.
    """
    num, length = uniforms.shape
    given = jnp.full((num, length), NO_TOKEN, jnp.int32) if given is None else given
    _same_shape(given, uniforms)

    def one(state: tuple[Any, jax.Array], inputs: Any) -> tuple[Any, Any]:
        (carry, before), (place, uniform, known) = state, inputs
        logits, carry = step(carry, place, before)
        logits = adjust(logits)
        token = jnp.where(place < num_given, known, by_cumulative(logits, uniform))
        return (carry, token), (token, token_log_probs(logits, token))

    before = jnp.full(num, NO_TOKEN, jnp.int32)
    places = jnp.arange(length, dtype=jnp.int32)
    inputs = (places, uniforms.T, given.T.astype(jnp.int32))
    _, (tokens, log_probs) = jax.lax.scan(one, (carry, before), inputs)
    return Sequences(tokens.T, log_probs.T)


def mixed(logits: jax.Array, without: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Logits guided towards a condition: (1 - w) without it + w with it, [..., V].

    0 is without the condition, 1 with it, above 1 guided. Logits that are known up to a constant
    do: each mixture's constant falls out of its softmax.

    Source: Ho & Salimans 2022, equation 6, whose score is here that of a token; Sanchez et al.
      2023, "Stay on topic with classifier-free guidance", equation 7.
    """
    return without + scale * (logits - without)


def _same_shape(array: jax.Array, like: jax.Array) -> jax.Array:
    if array.shape != like.shape:
        raise ValueError(f"need {like.shape}, got {array.shape}")
    return array
