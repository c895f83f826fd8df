"""Two generators and two discriminators: what each image counts for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion.losses.adversarial import GAMES
from ddpm_jax.training.objectives import translate
from ddpm_jax.training.objectives.translate import Sides

GAME = GAMES["least_squares"]
KEY = jax.random.key(0)


def scaled(name):
    """A generator that multiplies."""
    return lambda params, x: params[name] * x


def summed(name):
    """A discriminator: the mean of an image, times a number."""
    return lambda params, x: params[name] * x.mean(axis=1, keepdims=True)


SIDES = Sides(scaled("to_a"), scaled("to_b"), summed("judge_a"), summed("judge_b"), (2, 5))
PARAMS = {
    name: jnp.asarray(v)
    for name, v in {"to_a": 0.5, "to_b": 3.0, "judge_a": 0.7, "judge_b": -0.4}.items()
}
X = jnp.asarray([[1.0, -2.0], [0.5, 1.5], [4.0, 4.0]])


def outcome(objective, labels, params=PARAMS):
    return objective(params, {"x0": X, "label": jnp.asarray(labels)}, KEY, True, {})


def test_generators_are_held_to_the_way_back_and_to_leave_their_own_alone():
    """By hand: an image x of A becomes 3x, comes back as 1.5x, and as A's own is 0.5x."""
    objective = translate.generators(SIDES, GAME, cycle=10.0, identity=5.0)
    found = outcome(objective, [2, 5, 0])
    x, y = np.asarray(X[0]), np.asarray(X[1])
    size_x, size_y = np.abs(x).mean(), np.abs(y).mean()
    want_a = (-0.4 * 3 * x.mean() - 1) ** 2 + 10 * 0.5 * size_x + 5 * 0.5 * size_x
    want_b = (0.7 * 0.5 * y.mean() - 1) ** 2 + 10 * 0.5 * size_y + 5 * 2 * size_y
    np.testing.assert_allclose(found.loss[:2], [want_a, want_b], rtol=1e-6)
    np.testing.assert_array_equal(found.weight, [1, 1, 0])  # of neither sort, it counts nothing


def test_discriminators_tell_their_own_from_what_the_other_becomes():
    objective = translate.discriminators(SIDES, GAME)
    found = outcome(objective, [2, 5, 5])
    x, y = np.asarray(X[0]), np.asarray(X[1])
    want_a = (0.7 * x.mean() - 1) ** 2 + (-0.4 * 3 * x.mean()) ** 2
    want_b = (-0.4 * y.mean() - 1) ** 2 + (0.7 * 0.5 * y.mean()) ** 2
    np.testing.assert_allclose(found.loss[:2], [want_a, want_b], rtol=1e-6)
    gradient = jax.grad(lambda p: outcome(objective, [2, 5, 5], p).loss.sum())(PARAMS)
    assert gradient["to_a"] == gradient["to_b"] == 0
    assert gradient["judge_a"] != 0 != gradient["judge_b"]


@pytest.mark.parametrize("labels", [[2, 2, 2], [5, 5, 5]])
def test_images_of_one_sort_alone_move_what_they_meet(labels):
    """A's images meet the discriminator of B through its generator, and A's own way back."""
    objective = translate.generators(SIDES, GAME, cycle=0.0, identity=0.0)
    gradient = jax.grad(lambda p: outcome(objective, labels, p).loss.sum())(PARAMS)
    moved = {name for name, one in gradient.items() if one != 0}
    assert moved == ({"to_b", "judge_b"} if labels[0] == 2 else {"to_a", "judge_a"})
