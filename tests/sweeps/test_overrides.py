"""What differs between cells: grids, pairs, seeds, random draws."""

import math

import numpy as np
import pytest

from ddpm_jax.sweeps import choice, grid, log_uniform, random, seeds, uniform, zip_


def test_a_grid_is_every_combination():
    made = grid({"a.x": (1, 2), "b.y": ("p", "q", "r")}, seeds(2))
    assert len(made) == 12
    assert made[:2] == [{"a.x": 1, "b.y": "p", "seed": 0}, {"a.x": 1, "b.y": "p", "seed": 1}]
    assert len({tuple(sorted(one.items())) for one in made}) == 12


def test_products_of_lists_and_of_grids():
    pairs = zip_({"a.x": (1, 2), "a.y": (3, 4)})
    assert pairs == [{"a.x": 1, "a.y": 3}, {"a.x": 2, "a.y": 4}]
    assert grid(pairs, seeds(1, first=7)) == [{**one, "seed": 7} for one in pairs]
    assert zip_(pairs, seeds(2)) == [{**one, "seed": k} for k, one in enumerate(pairs)]
    assert grid(grid(pairs), grid({"b.z": (0,)})) == [{**one, "b.z": 0} for one in pairs]


def test_random_draws_lie_where_they_are_asked_for():
    fields = {"lr": log_uniform(1e-4, 1e-1), "drop": uniform(0, 0.5), "n": choice(8, 16, 32)}
    made = random(2000, 3, fields)
    rates = np.log10([one["lr"] for one in made])
    # A uniform law on (-4, -1) has mean -2.5 and deviation 3 / sqrt(12).
    assert rates.mean() == pytest.approx(-2.5, abs=5 * 3 / math.sqrt(12 * 2000))
    assert rates.std() == pytest.approx(3 / math.sqrt(12), rel=0.05)
    drops = np.array([one["drop"] for one in made])
    assert drops.min() >= 0
    assert drops.max() <= 0.5
    assert drops.mean() == pytest.approx(0.25, abs=5 * 0.5 / math.sqrt(12 * 2000))
    counts = [sum(one["n"] == n for one in made) for n in (8, 16, 32)]
    assert min(counts) > 2000 / 3 - 5 * math.sqrt(2000 * 2 / 9)
    correlation = np.corrcoef(rates, drops)[0, 1]
    assert abs(correlation) < 5 / math.sqrt(2000)


def test_more_random_cells_leave_the_first_ones():
    fields = {"lr": log_uniform(1e-4, 1e-1), "n": (1, 2)}
    assert random(50, 0, fields)[:20] == random(20, 0, fields)
    assert random(20, 1, fields) != random(20, 0, fields)


def test_random_combinations_are_different():
    assert sorted(one["n"] for one in random(3, 0, {"n": (1, 2, 3)})) == [1, 2, 3]
    with pytest.raises(ValueError, match="3 different combinations"):
        random(4, 0, {"n": (1, 2, 3)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid({"a": (1,)}, {"a": (2,)}), "a is set twice"),
        (lambda: grid({"a": 3}), "need a sequence of values, got 3"),
        (lambda: grid({"a": "text"}), "need a sequence"),
        (lambda: zip_({"a": (1, 2), "b": (1,)}), "a: 2, b: 1"),
        (lambda: seeds(0), "at least 1"),
        (lambda: random(0, 0, {"a": (1,)}), "at least 1"),
        (lambda: uniform(1, 1), "low < high"),
        (lambda: log_uniform(0, 1), "0 < low"),
        (lambda: choice(), "at least one value"),
    ],
)
def test_what_no_sweep_can_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
