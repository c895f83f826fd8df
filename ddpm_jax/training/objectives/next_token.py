"""Training a model of sequences to foretell each token from those before it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax import streams
from ddpm_jax.diffusion import autoregressive, condition_dropout
from ddpm_jax.training.objectives.base import (
    Batch,
    Extra,
    Objective,
    Outcome,
    dropout_key,
    keep,
    places,
)

# batch -> tokens int [B, L], and bool [B, L] those that count; None for all
TokensOf = Callable[[Batch], tuple[jax.Array, jax.Array | None]]
# batch -> conditions that the network is always shown, by name
ShownOf = Callable[[Batch], dict[str, jax.Array]]


def nothing(batch: Batch) -> dict[str, jax.Array]:
    """No conditions."""
    return {}


def next_token(
    apply_fn: Callable[..., jax.Array],
    tokens_of: TokensOf,
    *,
    dropout: Mapping[str, jax.Array | float] | None = None,
    shown_of: ShownOf = nothing,
) -> Objective:
    """-log p(x) / L in nats, by the chain rule: the mean cross-entropy of a sequence's L tokens.

    Every token is foretold from the true ones before it (teacher forcing). L is the same for all
    rows, so each token that counts weighs the same, whatever the length of its text.

    Args:
      apply_fn: (variables, tokens, conditions, rngs=) -> logits [B, L, V].
      tokens_of: what of a batch is modelled.
      dropout: the conditions that the network is given, names in the batch; each with the share
        of examples in training from which it is hidden.
      shown_of: what else of a batch the network is shown, such as its image.

    Source: Bengio et al. 2003, "A neural probabilistic language model", section 2.
    """

    def seen_conditions(batch: Batch, key: jax.Array, train: bool) -> dict[str, jax.Array]:
        """What the network is told, by name; {} for nothing."""
        told = {name: batch[name] for name in dropout or {}}
        if not train or not told:
            return told

        def hidden(place: jax.Array) -> dict[str, jax.Array]:
            own = jax.random.fold_in(key, place)
            return {
                name: jax.random.bernoulli(streams.named(own, name), rate)
                for name, rate in (dropout or {}).items()
            }

        return condition_dropout.drop(told, jax.vmap(hidden)(places(batch)))

    def draws(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Any:
        return seen_conditions(batch, jax.random.split(key)[0], train)

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        key_examples, key_dropout = jax.random.split(key)
        tokens, counts = tokens_of(batch)
        told = {**shown_of(batch), **seen_conditions(batch, key_examples, train)}
        rngs = {"dropout": dropout_key(key_dropout, batch)} if train else None
        logits = apply_fn({"params": params}, tokens, told or None, rngs=rngs)
        loss = -autoregressive.log_prob(logits, tokens, counts) / tokens.shape[1]
        return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), extra)

    return Objective(outcome, remember=keep, draws=draws)
