"""An autoencoder whose reconstructions a discriminator judges, patch by patch, as VQGAN and LDM."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.losses import adversarial
from ddpm_jax.diffusion.losses.adversarial import Game
from ddpm_jax.training.objectives.autoencode import Autoencoding
from ddpm_jax.training.objectives.base import Batch, Extra, Objective, Outcome

STEPS = "steps"


class Judging(NamedTuple):
    """The discriminator's part in it.

    Attributes:
      judge: (params, images [B, ...]) -> logits [B, ...].
      game: one of `adversarial.GAMES`.
      weight: of the autoencoder's loss by it, on top of the adaptive one.
      start: the step from which it takes part; before, neither side's loss has it.
      last: names in the tree of parameters, of the decoder's last kernel, where gradients are
        compared.
    """

    judge: Callable[[Any, jax.Array], jax.Array]
    game: Game
    weight: float
    start: int
    last: tuple[str, ...]


def autoencoder(way: Autoencoding, judging: Judging) -> Objective:
    """The autoencoder's side: `autoencode`, and what the discriminator makes of reconstructions.

    The latter's weight is |gradient of the distance| / |gradient of it| at the decoder's last
    kernel (`adversarial.adaptive_weight`), of the whole batch, which therefore cannot be shown in
    parts.

    Source: Esser et al. 2021, equation 7; Rombach et al. 2022, appendix G.
    """

    def outcome(
        params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra, **trees: Any
    ) -> Outcome:
        x0 = batch["x0"]
        made = way.made(params, batch, key, train)
        judged = adversarial.of_generator(judging.game, judging.judge(params, made.mean))

        def of_kernel(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            again = way.made(_replaced(held, judging.last, kernel), batch, key, train)
            fake = adversarial.of_generator(judging.game, judging.judge(held, again.mean))
            return way.apart(x0, again, trees).mean(), fake.mean()

        # The same forward pass, which the compiler computes once; of its gradients the last
        # layer's alone are taken.
        held = jax.lax.stop_gradient(params)
        _, pull = jax.vjp(of_kernel, _at(held, judging.last))
        one, zero = jnp.ones((), judged.dtype), jnp.zeros((), judged.dtype)
        adaptive = adversarial.adaptive_weight(pull((one, zero)), pull((zero, one)))
        weight = judging.weight * adaptive * (extra[STEPS] >= judging.start)
        loss = way.apart(x0, made, trees) + way.held(x0, made) + weight * judged
        return _outcome(loss, extra)

    return Objective(outcome, init_extra=_first, needs=way.needs)


def discriminator(way: Autoencoding, judging: Judging) -> Objective:
    """The discriminator's side: it tells images from reconstructions, once it takes part."""

    def outcome(params: Any, batch: Batch, key: jax.Array, train: bool, extra: Extra) -> Outcome:
        made = jax.lax.stop_gradient(way.made(params, batch, key, train).mean)
        logits = judging.judge(params, batch["x0"]), judging.judge(params, made)
        loss = adversarial.of_discriminator(judging.game, *logits)
        return _outcome(loss * (extra[STEPS] >= judging.start), extra)

    return Objective(outcome, init_extra=_first)


def _first(params: Any) -> Extra:
    return {STEPS: jnp.zeros((), jnp.int32)}


def _outcome(loss: jax.Array, extra: Extra) -> Outcome:
    after = {STEPS: extra[STEPS] + 1}
    return Outcome(loss, jnp.zeros_like(loss), jnp.ones_like(loss), after)


def _at(tree: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        tree = tree[name]
    return tree


def _replaced(tree: Any, names: tuple[str, ...], leaf: Any) -> Any:
    first, *rest = names
    return {**tree, first: _replaced(tree[first], tuple(rest), leaf) if rest else leaf}
