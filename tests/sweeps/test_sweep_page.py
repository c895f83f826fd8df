"""The sweep's HTML: curves with bands, figures against fields, heat maps; it loads nothing."""

import html
import json
import re

import numpy as np
import pytest
import synthetic_sweeps
from html_reader import Reader

from ddpm_jax.reporting.report.heat import heat_map
from ddpm_jax.sweeps import aggregates, charts, page, results

GRID = 'grid({"optim.learning_rate": (1e-4, 1e-3, 1e-2), "ema.decay": (0.99, 0.999)}, seeds(3))'


@pytest.fixture
def shown(tmp_path):
    """shown(cells) is the report of a sweep whose fid is 10 rate + decay + seed, and its page."""

    def make(cells=GRID, more='evaluate = dict(metrics=("fid",))', **options):
        sweep = synthetic_sweeps.sweep(tmp_path, cells, more)
        synthetic_sweeps.write(sweep, tmp_path / "w", fid, **options)
        report = aggregates.aggregate(results.read(sweep, tmp_path / "w"))
        return report, page.page(report)

    return make


def fid(cell):
    values = [v for v in cell.values.values() if isinstance(v, float)]
    return {"fid": 10 * sum(values[:1]) + sum(values[1:]) + cell.seed}


def plots(text):
    """{title: what its script reads} of each chart."""
    figures = re.findall(r'<figure class="chart" data-plot="([^"]*)">.*?<b>(.*?)</b>', text, re.S)
    return {html.unescape(title): json.loads(html.unescape(data)) for data, title in figures}


def test_it_is_one_file_that_loads_nothing(shown):
    _, text = shown()
    page_read = Reader(text)
    names = [attributes.get("id") for tag, attributes in page_read.found if tag == "section"]
    assert names == ["figures", "training", "fields", "two", "cells"]
    links = [a["href"] for tag, a in page_read.found if tag == "a"]
    assert {f"#{name}" for name in names} <= {*links}
    assert not any("src" in a for _, a in page_read.found)
    assert "made_up" in page_read.text


def test_curves_are_means_over_seeds_with_bands_from_least_to_largest(shown):
    def curve(cell):
        # Straight lines, which smoothing leaves as they are.
        return np.linspace(1.0, 0.5, 9) + cell.seed

    report, text = shown('grid({"optim.learning_rate": (1e-4, 1e-3)}, seeds(3))', curve=curve)
    first = plots(text)["Loss in training"]["series"][0]
    assert first["y"] == pytest.approx(np.linspace(2.0, 1.5, 9), rel=1e-5)
    assert [one["name"] for one in plots(text)["Loss in training"]["series"]] == [
        "learning_rate=0.0001",
        "learning_rate=0.001",
    ]
    assert text.count('class="band"') == 2
    points = [one.curves.points("loss") for one in report.results.cells[:3]]
    line = charts._banded("a", points, smooth=False)
    np.testing.assert_allclose(line.low, np.linspace(1.0, 0.5, 9))
    np.testing.assert_allclose(line.high, np.linspace(3.0, 2.5, 9))


def test_a_figure_stands_against_each_field_a_line_for_each_value_of_the_others(shown):
    _, text = shown()
    against = plots(text)
    rates = against["fid ↓ against optim.learning_rate"]
    assert rates["log"]
    assert [one["name"] for one in rates["series"]] == ["decay=0.99", "decay=0.999"]
    assert rates["series"][0]["x"] == [1e-4, 1e-3, 1e-2]
    assert rates["series"][0]["y"] == pytest.approx([1.991, 2.0, 2.09], rel=1e-4)
    decays = against["fid ↓ against ema.decay"]
    assert not decays["log"]
    assert len(decays["series"]) == 3


def test_nfe_is_an_axis_where_it_is_not_the_number_of_steps(shown, tmp_path):
    more = 'evaluate = dict(metrics=("fid",), samplers=(dict(num_steps=5), dict(num_steps=50)))'
    cells = 'grid({"optim.learning_rate": (1e-4, 1e-3)}, seeds(2))'
    report, text = shown(cells, more)
    assert "fid ↓ against sample.num_steps" in plots(text)
    assert "fid ↓ against nfe" not in plots(text)
    for path in (tmp_path / "w").rglob("eval/*.json"):
        content = json.loads(path.read_text())
        content["samples"][0]["nfe"] *= 2  # as Heun's
        path.write_text(json.dumps(content))
    again = aggregates.aggregate(results.read(report.results.sweep, tmp_path / "w"))
    series = plots(page.page(again))["fid ↓ against nfe"]["series"]
    assert [one["x"] for one in series] == [[10, 100], [10, 100]]


def test_random_combinations_are_points_without_lines(shown):
    cells = (
        '[{"optim.learning_rate": 1e-4 * 1.3**k, "ema.decay": 0.9 + k / 200, "seed": s}'
        " for k in range(12) for s in range(2)]"
    )
    _, text = shown(cells)
    chart = plots(text)["fid ↓ against optim.learning_rate"]
    assert [one["name"] for one in chart["series"]] == ["all settings"]
    assert len(chart["series"][0]["x"]) == 12
    assert 'id="two"' not in text  # two fields that make no grid


def test_the_heat_map_has_the_means_and_frames_the_best(shown):
    _, text = shown()
    cells = re.findall(r'<td(?: class="(best)")? style="--share:([\d.]+)">([\d.]+)</td>', text)
    assert len(cells) == 6
    best = [one for one in cells if one[0]]
    assert best == [("best", "55.0", "1.991")]
    assert min(cells, key=lambda one: float(one[1]))[2] == "2.099"


def test_a_heat_map_leaves_empty_what_is_not_there():
    text = heat_map("a", ["x"], ["y", "z"], {(0, 0): (1.0, "1")}, across="f", down="<g>")
    assert "&lt;g&gt;" in text
    assert text.count("<td") == 2
    assert "<td></td>" in text


def test_what_files_say_is_escaped(shown):
    more = 'evaluate = dict(metrics=("fid",))'
    cells = 'grid({"sample.sampler": ("ddim", "<script>alert(1)</script>")}, seeds(2))'
    _, text = shown(cells, more)
    Reader(text)
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
