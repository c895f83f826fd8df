import json
import os

import numpy as np
import pytest

from ddpm_jax.reporting.report import curves


def curve(steps, values, points=50):
    kept = curves.Curve(points)
    for step, value in zip(steps, values, strict=True):
        kept.add(step, value)
    return kept.points()


@pytest.mark.parametrize("num", [1, 7, 100, 101, 12_345])
def test_a_curve_of_any_length_keeps_its_mean_its_ends_and_its_extremes(num):
    steps = np.cumsum(np.random.default_rng(0).integers(1, 9, num))
    values = np.random.default_rng(1).standard_normal(num)
    kept = curve(steps, values)
    assert len(kept.steps) <= 100
    assert len(kept.steps) >= min(num, 50)
    assert kept.num.sum() == num
    assert (kept.num[:-1] == kept.num[0]).all()  # only the last is not full yet
    np.testing.assert_allclose(np.average(kept.mean, weights=kept.num), values.mean(), atol=1e-12)
    np.testing.assert_allclose(np.average(kept.steps, weights=kept.num), steps.mean())
    assert (kept.low.min(), kept.high.max()) == (values.min(), values.max())
    assert (np.diff(kept.steps) > 0).all()
    assert ((kept.low <= kept.mean) & (kept.mean <= kept.high)).all()


def test_a_short_curve_is_kept_as_it_is():
    steps, values = np.arange(1.0, 81), np.random.default_rng(0).random(80)
    kept = curve(steps, values)
    np.testing.assert_array_equal(kept.steps, steps)
    np.testing.assert_array_equal(kept.mean, values)


def test_a_step_that_comes_again_is_left_out():
    kept = curve([1, 2, 2, 1, 3], [1.0, 2.0, 9.0, 9.0, 3.0])
    np.testing.assert_array_equal(kept.mean, [1, 2, 3])


def test_a_straight_line_is_smooth_already():
    # Uneven steps and its ends included, which a moving average would bend.
    steps = np.cumsum(np.random.default_rng(0).integers(1, 30, 90)).astype(float)
    kept = curve(steps, 5 - 0.01 * steps)
    np.testing.assert_allclose(curves.smooth(kept, 0.05), kept.mean, atol=1e-9)


def test_smoothing_takes_noise_away_and_leaves_the_curve():
    steps = np.linspace(0, 1000, 600)
    clean = np.exp(-steps / 400)
    noise = 0.1 * np.random.default_rng(0).standard_normal(600)
    kept = curve(steps + 1, clean + noise, points=300)
    assert np.std(curves.smooth(kept) - clean) < 0.3 * np.std(noise)


def test_smoothing_knows_how_many_values_a_point_stands_for():
    steps = np.arange(10.0)
    heavy = curves.Points(steps, *[np.where(steps == 5, 1.0, 0.0)] * 3, np.ones(10))
    light = heavy._replace(num=np.where(steps == 5, 100.0, 1.0))
    assert curves.smooth(light, 0.2)[4] > curves.smooth(heavy, 0.2)[4]


def written(tmp_path, *lines):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_lines_that_cannot_be_read_count_and_are_left_out(tmp_path):
    good = [json.dumps({"step": k, "loss": 1 / k}) + "\n" for k in (1, 2, 3)]
    bad = ["{\n", "[1]\n", '{"loss": 2}\n', '{"step": "a"}\n', '{"step": NaN, "loss": 1}\n']
    bad += [b"\xff\xfe\n", "[" * 60_000 + "\n", '{"step": 9, "pad": "' + "x" * 100_000 + '"}\n']
    found = curves.read(written(tmp_path, good[0], *bad, *good[1:]))
    assert found.unreadable == len(bad)
    np.testing.assert_array_equal(found.points("loss").steps, [1, 2, 3])


def test_values_that_are_not_finite_are_counted(tmp_path):
    lines = [
        '{"step": 1, "loss": null}\n',
        '{"step": 2, "loss": 3.0}\n',
        '{"step": 3, "loss": "x"}',
    ]
    found = curves.read(written(tmp_path, *lines))
    assert found.curves["loss"].missing == 1
    np.testing.assert_array_equal(found.points("loss").mean, [3])
    assert found.points("grad_norm") is None


def test_no_number_of_names_fills_the_memory(tmp_path):
    line = json.dumps({"step": 1} | {f"name_{k}": k for k in range(1000)}) + "\n"
    long = json.dumps({"step": 2, "n" * 1000: 1.0, "name_0": 5.0}) + "\n"
    found = curves.read(written(tmp_path, line, long))
    assert len(found.curves) == curves.MAX_NAMES
    np.testing.assert_array_equal(found.points("name_0").mean, [0, 5])


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="no regular file"):
        curves.read(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(("num", "most"), [(1, 5), (5, 5), (6, 5), (1000, 40), (10, 2)])
def test_some_of_many_are_evenly_spread_with_both_ends(num, most):
    chosen = curves.spread(list(range(num)), most)
    assert len(chosen) == min(num, most)
    assert (chosen[0], chosen[-1]) == (0, num - 1)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
