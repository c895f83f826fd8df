import re

import numpy as np
import pytest
from html_reader import Reader

from ddpm_jax.reporting.report.axes import Axis, axis, number
from ddpm_jax.reporting.report.charts import Line, chart


def paths(text, class_):
    """The numbers of the paths of a class."""
    given = [a["d"] for t, a in Reader(text).found if t == "path" and a.get("class") == class_]
    return [np.array(re.findall(r"[\d.]+", d), float) for d in given]


@pytest.mark.parametrize("log", [False, True])
def test_values_stand_where_numpy_puts_them(log):
    values = np.array([0.2, 0.5, 3.0, 80.0])
    on = axis([values], log=log)
    of = np.log10 if log else np.asarray
    np.testing.assert_allclose(on.place(values), np.interp(of(values), of([0.2, 80.0]), [0, 1]))


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1, False), (-20, 9.3, False), (1e-4, 1e-3, False), (3, 3.0001, False), (50, 1e6, False),
     (0.135, 0.148, True), (0.002, 0.6, True), (1e-9, 1e5, True), (0.3, 3, True)],
)  # fmt: skip
def test_ticks_are_round_few_and_on_the_axis(low, high, log):
    on = Axis(low, high, log)
    ticks = on.ticks(6)
    assert 2 <= len(ticks) <= 10
    places = on.place(np.array(ticks))
    assert (places >= -1e-9).all()
    assert (places <= 1 + 1e-9).all()
    assert (np.diff(ticks) > 0).all()
    # Each is told apart by what is written of it.
    if high - low > 1e-3 * high:
        assert len({number(tick) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [0.0, 0.0], [np.inf, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_of_little_is_still_an_axis(values, log):
    on = axis([np.array(values)], log=log)
    assert np.isfinite([on.low, on.high]).all()
    assert on.low < on.high
    text = chart("a", [Line("b", np.arange(len(values)), np.array(values))], x_label="x", log_y=log)
    assert "nan" not in "".join(str(a.get("d")) for _, a in Reader(text).found)


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (1, "1"), (1500, "1,500"), (20_000, "20k"), (0.0123, "0.0123"), (3.4e-7, "3.4e-07"),
     (919_297, "919,297"), (35_746_307, "35.75M"), (-20, "-20"), (0.5, "0.5"), (1e9, "1G")],
)  # fmt: skip
def test_numbers_are_written_as_people_read_them(value, told):
    assert number(value) == told


def test_a_line_goes_through_its_points_and_stops_at_gaps():
    y = np.array([0.0, 1.0, np.nan, 0.5, 0.0])
    text = chart("a", [Line("b", np.arange(5.0), y)], x_label="x")
    (d,) = [a["d"] for t, a in Reader(text).found if a.get("class") == "line"]
    assert d.count("M") == 2
    (numbers,) = paths(text, "line")
    x, up = numbers[::2], numbers[1::2]
    np.testing.assert_allclose(x, [0, 250, 750, 1000])
    # Down the page: the largest value highest, and 0.5 half way.
    assert up[1] < up[2] < up[0] == up[3]
    np.testing.assert_allclose(up[2], (up[0] + up[1]) / 2)


def test_the_bars_hold_the_values_between_them():
    x, y = np.array([5.0, 50.0]), np.array([2.0, 1.0])
    line = Line("b", x, y, low=y - 0.5, high=y + 0.25, points=True)
    text = chart("a", [line], x_label="NFE", log_x=True)
    (bars,), (dots,) = paths(text, "bar"), paths(text, "dots")
    (_, low, high), _ = bars.reshape(2, 3)
    (_, at, _), (_, at_2, _) = dots.reshape(2, 3)
    assert high < at < low
    np.testing.assert_allclose((low - at) / (at - high), 2, rtol=0.02)
    np.testing.assert_allclose(at_2 - at, 2 * (low - at), rtol=0.02)


def test_the_drawing_is_told_in_words_and_its_values_are_there():
    text = chart("Loss", [Line("one", np.array([1.0, 9.0]), np.array([0.5, 0.25]))], x_label="step")
    found = Reader(text).found
    (drawing,) = [a for t, a in found if t == "svg"]
    assert drawing["role"] == "img"
    assert "from 0.5 at step 1 to 0.25 at 9" in drawing["aria-label"]
    assert '"y":[0.5,0.25]' in found[0][1]["data-plot"]


def test_hostile_names_stay_text():
    name = '</svg><script>alert("1")</script>'
    line = Line(name, np.arange(2.0), np.arange(2.0))
    found = Reader(chart(name, [line, line], x_label=name, y_label=name, note=name))
    assert "script" not in {tag for tag, _ in found.found}
    assert name in found.text
