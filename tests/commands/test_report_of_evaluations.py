"""A report of what the evaluate command really wrote."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from html_reader import Reader

from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.evaluate.evaluate import SpaceFlags
from ddpm_jax.commands.report import report

STEPS = (2, 5)
METRICS = ("fid", "kid", "memorisation")


@pytest.fixture(scope="module")
def measured(finished_run, tmp_path_factory):
    """A copy of the finished run, measured at two numbers of steps; the report, and the results."""
    workdir = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(finished_run.workdir, workdir)
    for num_steps in STEPS:
        evaluate.evaluate(
            str(workdir),
            metrics=METRICS,
            num_samples=100,
            guidance_scales=["1"],
            sampling={"num_steps": num_steps},
            space=SpaceFlags(extractor="pixels"),
            name=f"ddim_{num_steps}",
        )
    results = [json.loads((workdir / f"eval/ddim_{n}.json").read_text()) for n in STEPS]
    return report.report([str(workdir)], draw=False).read_text(), results


class Tables(HTMLParser):
    """The rows of all tables: the texts of their cells, of <small> apart."""

    def __init__(self, text):
        super().__init__()
        self.rows, self._inside = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append(["", ""])
        if tag in ("th", "td", "small"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if tag in ("th", "td", "small"):
            self._inside.remove(tag)

    def handle_data(self, data):
        if self._inside:
            self.rows[-1][-1]["small" in self._inside] += data


def as_shown(value, shown):
    """A number, rounded to as many digits as stand on the page."""
    return f"{value:.{len(shown.partition('.')[2])}f}"


@pytest.mark.wide(3)
def test_the_very_figures_and_intervals_are_in_the_table(measured):
    text, results = measured
    rows = Tables(text).rows
    head = [cell[0].split(" ")[0] for cell in next(r for r in rows if r[0][0] == "")]
    assert [name for name in head if name in METRICS] == list(METRICS)
    for num_steps, result in zip(STEPS, results, strict=True):
        (row,) = (r for r in rows if r[0][0] == f"ddim_{num_steps}")
        assert row[0][1] == f"ddim, NFE {num_steps}, guidance_scale 1, step 800"
        found = result["samples"][0]["metrics"]
        assert {name for name, cell in zip(head[1:], row[1:], strict=True) if cell[0]} == {*found}
        for name, (value, interval) in zip(head[1:], row[1:], strict=True):
            if name not in found:
                continue
            assert value == as_shown(found[name]["value"], value), name
            low, high = re.fullmatch(r"(\S+) to (\S+)", interval).groups()
            assert low == as_shown(found[name]["low"], low), name
            assert high == as_shown(found[name]["high"], high), name
    assert any(row[0][0] == "held-out data" for row in rows)


def test_quality_against_nfe_has_both_numbers_of_steps(measured):
    text, results = measured
    plots = [json.loads(a["data-plot"]) for _, a in Reader(text).found if "data-plot" in a]
    (fid, *_) = (plot for plot in plots if plot["x"] == "NFE")
    (line,) = fid["series"]
    assert (line["name"], line["x"]) == ("ddim", list(STEPS))
    metrics = [result["samples"][0]["metrics"]["fid"] for result in results]
    for end, key in (("y", "value"), ("low", "low"), ("high", "high")):
        assert line[end] == pytest.approx([m[key] for m in metrics], rel=1e-5)


def test_the_nearest_images_tell_how_their_samples_were_drawn(measured):
    text, _ = measured
    assert "Evaluation ddim_2: ddim, NFE 2, guidance_scale 1, step 800; memorisation" in text
