import dataclasses
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from html_reader import Reader
from PIL import Image

from ddpm_jax.data.images import BrokenImage
from ddpm_jax.reporting.report import Run, evaluations, html, measured, page, pictures, runs

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\u202e"
DEFAULTS = {"optim.learning_rate": 1e-3, "data.name": "digits", "model.channels": 128}
WRITTEN = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


def empty(name="run", **changes):
    """A run of which nothing is known but its config."""
    nothing = Run(
        name=name,
        workdir=Path(name),
        config=dict(DEFAULTS),
        attempts="There is no manifest.json.",
        levels="There is no schedule.",
        drawn="There is no checkpoint.",
        metrics="There is no metrics.jsonl.",
        samples=[],
        nearest=[],
        evaluations=evaluations.Found([], []),
    )
    return dataclasses.replace(nothing, **changes)


def evaluation(name="a", sampler="ddim", nfe=50, fid=1.5, run_step=100, **protocol):
    content = {
        "format": 2,
        "protocol": {"num_samples": 500, "sampling": {"sampler": sampler}, **protocol},
        "run": {"checkpoint_step": run_step},
        "samples": [
            {
                "guidance_scale": 2.0,
                "nfe": nfe,
                "metrics": {
                    "fid": {"value": fid, "low": fid - 0.1, "high": fid + 0.3, "interval": "95%"}
                },
            }
        ],
        "held_out_data": {"metrics": {"fid": {"value": 0.75}}},
        "written": "2026-05-04T00:00:00Z",
    }
    return evaluations.parse(name, content)


def read(*given):
    return Reader(page(given, DEFAULTS, WRITTEN))


def test_a_page_of_nothing_says_what_is_missing():
    found = read(empty())
    for told in ("There is no manifest.json.", "There is no schedule.", "There is no checkpoint.",
                 "There is no metrics.jsonl.", "No samples were drawn", "has not been measured yet",
                 "No evaluation has drawn them yet", "Every field of the config is the default.",
                 "evaluations at two numbers of steps"):  # fmt: skip
        assert told in found.text, told
    assert "2026-05-04 12:30 UTC" in found.text


def test_the_contents_lead_to_the_sections():
    found = read(empty()).found
    ids = [a["id"] for t, a in found if t == "section"]
    links = [a["href"] for t, a in found if t == "a" and a["href"] != "#main"]
    assert links == [f"#{name}" for name in ids]
    every = [a["id"] for _, a in found if "id" in a]
    assert len(set(every)) == len(every)


def test_nothing_that_a_file_says_becomes_html(tmp_path):
    (tmp_path / "samples").mkdir()
    named = tmp_path / "samples" / "<script>alert(1)<\u2215script>_1.png"
    Image.new("L", (8, 8)).save(named)
    broken = tmp_path / "samples" / 'x" onerror="alert(1).png'
    broken.write_text(HOSTILE)
    attempt = {"start": 0, "reached": 1, "overrides": [HOSTILE], "git": {"commit": HOSTILE}}
    attempt |= {"machine": {"cpu": HOSTILE}, "devices": {"kind": HOSTILE, "count": HOSTILE}}
    attempt |= dict.fromkeys(("started_at", "ended_at", "ended"), HOSTILE)
    bad = evaluations.Found(
        [evaluation(HOSTILE, sampler=HOSTILE, data=HOSTILE), evaluation("b", nfe=9)],
        [(HOSTILE, HOSTILE)],
    )
    run = empty(
        HOSTILE,
        config=DEFAULTS | {"data.name": HOSTILE, HOSTILE: HOSTILE, "data.image_size": HOSTILE},
        attempts=[attempt],
        samples=runs.samples(tmp_path),
        nearest=[named, broken],
        evaluations=bad,
    )
    found = read(run, empty("other")).found
    # One script, the page's own; nothing that runs by itself; pictures from inside alone.
    assert [t for t, _ in found].count("script") == 1
    assert not [a for _, a in found if any(name.startswith("on") for name in a)]
    assert all(a["src"].startswith("data:image/") for t, a in found if t == "img")
    assert not [t for t, _ in found if t in ("iframe", "object", "embed", "link", "base", "form")]


def test_a_browser_may_load_nothing_and_run_one_script():
    text = page([empty()], DEFAULTS, WRITTEN)
    (policy,) = [
        a["content"] for t, a in Reader(text).found if a.get("http-equiv", "").startswith("Content")
    ]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "http://" not in text
    assert "https://" not in text


def test_fields_that_differ_between_runs_are_marked_and_first():
    left = empty("left", config=DEFAULTS | {"model.channels": 64, "optim.learning_rate": 3e-4})
    right = empty("right", config=DEFAULTS | {"model.channels": 64})
    found = read(left, right)
    assert found.text.index("optim.learning_rate") < found.text.index("model.channels")
    marked = [a for t, a in found.found if t == "td" and "differs" in a.get("class", "")]
    assert len(marked) == 2
    assert "2 of 3 fields are not the default. The 1 in which the runs differ" in found.text


def test_only_results_of_one_protocol_share_a_letter():
    run = empty(
        evaluations=evaluations.Found(
            [evaluation("a"), evaluation("b", sampler="heun"), evaluation("c", num_samples=99)], []
        )
    )
    letters = measured._letters([run])
    a, b, c = (e.measure for e in run.evaluations.evaluations)
    assert (letters[a], letters[b], letters[c]) == ("A", "A", "B")
    found = Reader(measured.metrics([run]))
    assert "1.4 to 1.8" in found.text
    marked = [a for t, a in found.found if t == "td" and "differs" in a.get("class", "")]
    assert len(marked) == 2  # num_samples, under both letters


def test_quality_against_nfe_has_a_line_a_sampler_and_a_chart_a_protocol():
    given = [
        evaluation(f"{s}_{n}", s, n, 10 / n, **p)
        for p in ({}, {"seed": 1})
        for s in ("ddim", "heun")
        for n in (20, 5, 10)
    ]
    run = empty(evaluations=evaluations.Found(given, []))
    found = Reader(measured.against_nfe([run])).found
    plots = [json.loads(a["data-plot"]) for _, a in found if "data-plot" in a]
    assert len(plots) == 2
    for plot in plots:
        assert [one["name"] for one in plot["series"]] == ["ddim", "heun"]
        assert [one["x"] for one in plot["series"]] == [[5, 10, 20]] * 2
        assert plot["series"][0]["y"] == [2, 1, 0.5]


def test_checkpoints_are_not_one_line():
    given = [evaluation("a", nfe=5), evaluation("b", nfe=10, run_step=200)]
    run = empty(evaluations=evaluations.Found(given, []))
    found = Reader(measured.against_nfe([run])).found
    (plot,) = [json.loads(a["data-plot"]) for _, a in found if "data-plot" in a]
    assert [one["name"] for one in plot["series"]] == ["ddim, step 100", "ddim, step 200"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"samples": []}, "format is not 2"),
        ([], "no JSON object"),
        ({"format": 2}, "protocol is no JSON object"),
        ({"format": 2, "protocol": {}, "samples": {}}, "samples is no list"),
        ({"format": 2, "protocol": {}, "samples": [3]}, r"samples\[0\] is no JSON object"),
        ({"format": 2, "protocol": {}, "samples": [{"metrics": {"a": {}}}]}, "a has no value"),
        ({"format": 2, "protocol": {}, "samples": [{"metrics": {"a": "x"}}]}, "a is no number"),
        ({"format": 2, "protocol": {}, "samples": [{"metrics": {"a": 10**400}}]}, "too large"),
    ],
)
def test_what_is_no_evaluation_is_told_and_not_fatal(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        evaluations.parse("a", content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").mkdir()
    assert [name for name, _ in evaluations.read(tmp_path).unreadable] == [
        "a.json",
        "b.json",
        "c.json",
    ]


def test_a_metric_may_be_undefined_and_without_an_interval():
    one = evaluations.parse(
        "a",
        {"format": 2, "protocol": {}, "samples": [{"metrics": {"fid": {"value": None}, "is": 3}}]},
    )
    found = Reader(measured.metrics([empty(evaluations=evaluations.Found([one], []))]))
    assert "undefined" in found.text
    assert one.rows[0].metrics["is"].value == 3


def noise(height, width, channels):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


def decoded(url):
    import base64

    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_within_its_bytes_keeps_every_pixel(channels):
    pixels = noise(20, 30, channels)
    url, width, height = pictures.encode(pixels, 10**6)
    assert (width, height) == (30, 20)
    np.testing.assert_array_equal(np.asarray(decoded(url)).reshape(pixels.shape), pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_that_is_too_large_is_made_to_fit(channels):
    url, width, height = pictures.encode(noise(700, 900, channels), 30_000)
    assert len(url) * 3 / 4 < 31_000
    assert decoded(url).size == (width, height)
    assert abs(width / height - 9 / 7) < 0.02


def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "a.png")
    with pytest.raises(BrokenImage, match="over the limit"):
        pictures.read(tmp_path / "a.png")


def test_pictures_come_in_the_order_of_training(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("step_1000000", "step_000200", "step_000100", "other", ".step_1"):
        (tmp_path / "samples" / f"{name}.png").touch()
    told = [caption for caption, _ in runs.samples(tmp_path)]
    assert told == ["other", "step 100", "step 200", "step 1,000,000"]


def test_runs_are_named_by_as_little_as_tells_them_apart():
    assert runs.names([Path("/a/runs/x"), Path("/a/runs/y")]) == ["x", "y"]
    assert runs.names([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]
    assert runs.names([Path("/x")]) == ["x"]


def test_elements_escape_what_is_not_html():
    assert html.tag("p", "a < b", None, ["&", 3], title='"') == (
        '<p title="&quot;">a &lt; b&amp;3</p>'
    )
    assert html.tag("input", hidden=True, disabled=False, aria_label="x") == (
        '<input hidden aria-label="x">'
    )
    assert len(html.short("x" * 10**6)) < 400
