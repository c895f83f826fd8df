"""Images moved on the device: each a crop of its padded self, drawn evenly, by its own place."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.training.objectives import augmented, denoise

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MOVES = {"flip": augmented.flip, "shift": augmented.shift}


def seen_by_the_loss(*names):
    """An objective whose loss [B, H, W, C] is x_0 as it gets it, and the condition "mask"."""

    def loss(network, schedule, x0, t, eps):
        return jnp.concatenate([x0, network(x0, t)], axis=-1)

    def network(variables, xt, time, conditions, *, train, rngs):
        return conditions["mask"]

    inner = denoise.denoising(
        network, lambda params: schedules.linear(8), loss=loss, dropout={"mask": 0.0}
    )
    return augmented.augmented(inner, {name: MOVES[name] for name in names})


def shown(names, images, train=True, key=KEY):
    """The images and their masks as they are learned from."""
    batch = {"x0": images, "mask": 2 * images, "label": np.zeros(len(images), np.int32)}
    both = np.asarray(seen_by_the_loss(*names)({}, batch, key, train, {}).loss)
    return np.split(both, 2, axis=-1)


def moves_of(image, down, right):
    """{(flipped, dy, dx): image} of every move that there is, by numpy's own padding."""
    padded = {
        flipped: np.pad(
            image[:, ::-1] if flipped else image, ((down,) * 2, (right,) * 2, (0, 0)), mode="edge"
        )
        for flipped in (False, True)
    }
    height, width, _ = image.shape
    places = itertools.product((False, True), range(2 * down + 1), range(2 * right + 1))
    return {(f, y, x): padded[f][y : y + height, x : x + width] for f, y, x in places}


def test_each_image_is_an_even_draw_of_its_moves_and_its_mask_moves_along():
    num = 2000
    image = RNG.integers(0, 17, (16, 24, 2)).astype(np.float32)
    seen, masks = shown(("flip", "shift"), np.broadcast_to(image, (num, *image.shape)))
    np.testing.assert_array_equal(masks, 2 * seen)
    every = {made.tobytes(): move for move, made in moves_of(image, 2, 3).items()}
    drawn = [every[np.ascontiguousarray(one).tobytes()] for one in seen]  # it is one of them
    for axis, kinds in enumerate((2, 5, 7)):
        counts = np.unique([move[axis] for move in drawn], return_counts=True)[1]
        assert len(counts) == kinds
        assert stats.chisquare(counts).pvalue > 1e-3
    # One says nothing of the others.
    pairs = stats.contingency.crosstab(*[[m[axis] for m in drawn] for axis in (1, 2)]).count
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_a_draw_belongs_to_the_key_and_the_place_in_the_batch():
    images = RNG.standard_normal((9, 8, 8, 1)).astype(np.float32)
    whole, _ = shown(("flip", "shift"), images)
    part, _ = shown(("flip", "shift"), images[:4])
    np.testing.assert_array_equal(part, whole[:4])
    other, _ = shown(("flip", "shift"), images, key=jax.random.key(1))
    assert not np.array_equal(whole, other)
    # Another move beside it draws by its own key.
    flipped, _ = shown(("flip",), images)
    for image, alone, both in zip(images, flipped, whole, strict=True):
        was_flipped = not np.array_equal(image, alone)
        found = [move for move, made in moves_of(image, 1, 1).items() if np.array_equal(made, both)]
        assert was_flipped in {flipped for flipped, _, _ in found}


def test_what_is_not_training_stays_as_it_is():
    images = RNG.standard_normal((5, 8, 8, 1)).astype(np.float32)
    seen, masks = shown(("flip", "shift"), images, train=False)
    np.testing.assert_array_equal(seen, images)
    np.testing.assert_array_equal(masks, 2 * images)


def test_a_run_draws_what_its_objective_says_and_noise_is_that_of_a_plain_one():
    plain, moved = (
        experiment.build(brief_config(data={"augment": names})) for names in ((), ("shift",))
    )
    images = RNG.standard_normal((6, 8, 8, 1)).astype(np.float32)
    batch = {"x0": images, "label": np.zeros(6, np.int32)}
    ours, theirs = (run.objective.draws({}, batch, KEY, True, {}) for run in (moved, plain))
    np.testing.assert_array_equal(ours["eps"], theirs["eps"])
    np.testing.assert_array_equal(ours["t"], theirs["t"])
    for image, made in zip(images, np.asarray(ours["x0"]), strict=True):
        assert any(np.array_equal(made, one) for one in moves_of(image, 1, 1).values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"augment": ("flop",)}}, r"config.data.augment='flop': need one of flip, shift"),
        ({"data": {"augment": ("flip", "flip")}}, "config.data.augment=.*need different names"),
    ],
)
def test_moves_that_there_are_not_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        experiment.build(brief_config(**changes))


def test_an_image_that_has_a_place_is_not_moved():
    from configs import shapes

    config = shapes.get_config()
    config.data.augment = ("shift",)
    with pytest.raises(UserError, match=r"config\.data\.augment=.*has another \['position'"):
        experiment.build(config)
