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
from ddpm_jax.measures import metric_table
from ddpm_jax.reporting.report import (
    Run,
    evaluations,
    gallery,
    html,
    measured,
    page,
    pictures,
    protocols,
    results,
    runs,
    tradeoff,
    training,
)

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\u202e"
LABELS = metric_table.labels()
DEFAULTS = {"optim.learning_rate": 1e-3, "data.name": "digits", "model.channels": 128}
WRITTEN = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


def empty(name="run", **changes):
    """A run of which nothing is known but its config."""
    nothing = Run(
        name=name,
        workdir=Path(name),
        config=dict(DEFAULTS),
        attempts="There is no manifest.json.",
        curve="There is no schedule.",
        drawn="There is no checkpoint.",
        metrics="There is no metrics.jsonl.",
        samples=[],
        nearest=[],
        evaluations=evaluations.EvaluationFiles([], []),
        labels=LABELS,
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
    return evaluations.parse(name, content, LABELS)


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
    bad = evaluations.EvaluationFiles(
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


def test_runs_of_one_schedule_share_its_curves():
    t = np.linspace(0, 1, 5)
    cosine = runs.ScheduleCurve(t, np.cos(t), np.sin(t))
    linear = runs.ScheduleCurve(t, 1 - t, t)
    same = [empty(name, curve=runs.ScheduleCurve(*map(np.copy, cosine))) for name in ("a", "b")]
    found = Reader(training.schedule(same))
    plots = [json.loads(a["data-plot"]) for _, a in found.found if "data-plot" in a]
    assert [[one["name"] for one in p["series"]] for p in plots] == [
        ["alpha", "sigma"],
        ["log-SNR"],
    ]
    assert "One schedule: a, b." in found.text
    found = Reader(training.schedule([*same, empty("c", curve=linear)]))
    plots = [json.loads(a["data-plot"]) for _, a in found.found if "data-plot" in a]
    assert [one["name"] for one in plots[1]["series"]] == ["a, b", "c"]


def test_a_loss_that_is_no_number_is_said(tmp_path):
    lines = ['{"step": 1, "loss": 0.5}', '{"step": 2, "loss": NaN}', '{"step": 3, "loss": null}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "lo']))
    text = read(empty(metrics=runs.metrics(tmp_path))).text
    assert "last lossnot a finite number" in text
    assert "loss was not a finite number in 2 lines" in text
    assert "cannot be read and are left out: 1." in text
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')
    text = read(empty(metrics=runs.metrics(tmp_path))).text
    assert "Loss in training: no finite number was logged." in text


def test_the_least_distance_of_training_stands_on_the_card(tmp_path):
    values = [(50, 14.5), (100, 1.25), (150, 2.5)]
    lines = [json.dumps({"step": s, "evaluation_fid": v}) for s, v in values]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    found = read(empty(metrics=runs.metrics(tmp_path)))
    assert "best Fréchet distance1.25 at step 100" in found.text
    plots = [json.loads(a["data-plot"]) for _, a in found.found if "data-plot" in a]
    assert [(p["series"][0]["x"], p["series"][0]["y"]) for p in plots] == [
        ([50, 100, 150], [14.5, 1.25, 2.5])
    ]


def test_figures_of_any_size_are_drawn():
    values = (1e-299, 1.0, 9e299)
    every = [evaluation(f"{k}", nfe=10 + k, fid=value) for k, value in enumerate(values)]
    for one in every:
        (fid,) = (row.metrics["fid"] for row in one.rows)
        one.rows[0].metrics["fid"] = fid._replace(low=None, high=None)
    plots, _ = drawn_against_nfe(empty(evaluations=evaluations.EvaluationFiles(every, [])))
    assert plots[0]["series"][0]["y"] == list(values)


def test_only_results_of_one_protocol_share_a_table():
    run = empty(
        evaluations=evaluations.EvaluationFiles(
            [evaluation("a"), evaluation("b", sampler="heun"), evaluation("c", num_samples=99)], []
        )
    )
    known = protocols.Protocols([run])
    assert [known.of(e).letter for e in run.evaluations.evaluations] == ["A", "A", "B"]
    found = Reader(measured.metrics([run]))
    assert [t for t, _ in found.found].count("table") == 3  # two of results, one of protocols
    assert "1.40 to 1.80" in found.text
    marked = [a for t, a in found.found if t == "td" and "differs" in a.get("class", "")]
    assert len(marked) == 2  # num_samples, under both letters


def test_metrics_that_one_of_two_measured_do_not_part_them():
    # As scripts/evaluate.py compare sees it.
    given = {
        "fid": {"extractor": {"name": "pca"}, "metrics": {}},
        "all": {"metrics": {"kid": {"pairs": "all"}, "prdc": {"k": 5}}},
        "prdc": {"metrics": {"prdc": {"k": 5}}},
        "subsets": {"metrics": {"kid": {"subsets": 100}}},
        "k": {"metrics": {"prdc": {"k": 3}}},
        "pixels": {"extractor": {"name": "pixels"}},
    }
    every = [evaluation(name, **protocol) for name, protocol in given.items()]
    known = protocols.Protocols([empty(evaluations=evaluations.EvaluationFiles(every, []))])
    letters = {one.name: known.of(one).letter for one in every}
    same, other = ("fid", "all", "prdc"), ("subsets", "k", "pixels")
    assert letters == dict.fromkeys(same, "A") | dict.fromkeys(other, "B")


def likelihood(name, bits, num_terms=None):
    figure = {"value": bits, "low": bits - 0.01, "high": bits + 0.01, "interval": "normal, 95%"}
    return evaluations.parse(
        name,
        {
            "format": 2,
            "protocol": {"data": "digits", "seed": 0, "likelihood": {"num_terms": num_terms}},
            "run": {"checkpoint_step": 100},
            "samples": [],
            "held_out_data": {"metrics": {"bpd_discrete_vlb": figure}},
        },
        LABELS,
    )


def test_bits_per_pixel_are_the_runs_own():
    left = empty("left", evaluations=evaluations.EvaluationFiles([likelihood("a", 5.25)], []))
    right = empty("right", evaluations=evaluations.EvaluationFiles([likelihood("a", 4.75)], []))
    text = Reader(measured.metrics([left, right])).text
    assert "left, aheld-out images, step 1005.2505.240 to 5.260" in text
    assert "right, aheld-out images, step 1004.7504.740 to 4.760" in text
    assert "bpd_discrete_vlb ↓" in text


def test_bits_of_other_terms_are_of_another_protocol():
    every = [likelihood("a", 5.0), likelihood("b", 5.0), likelihood("c", 5.0, num_terms=20)]
    known = protocols.Protocols([empty(evaluations=evaluations.EvaluationFiles(every, []))])
    assert [known.of(e).letter for e in every] == ["A", "A", "B"]


def test_a_classifiers_accuracy_is_shown_by_time():
    rows = [{"t": 0.0, "accuracy": 0.96875}, {"t": 0.5, "accuracy": 0.40625}]
    content = {"format": 2, "protocol": {}, "samples": [], "accuracy": rows}
    one = evaluations.parse("a", content, LABELS)
    text = Reader(
        measured.metrics([empty(evaluations=evaluations.EvaluationFiles([one], []))])
    ).text
    assert "accuracy ↑" in text
    assert "held-out images, t 0.50.406" in text


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ((0.6001988, 0.5447, 0.6556), ("0.600", "0.545 to 0.656")),
        ((-0.00092, -0.00211, 0.0003), ("-0.0009", "-0.0021 to 0.0003")),
        ((1234.5, 1200.0, 1300.0), ("1,234", "1,200 to 1,300")),
        ((1.0, 0.985, 1.0), ("1.000", "0.985 to 1.000")),
        ((0.25, None, None), ("0.25", "")),
        ((2.0, 2.0, 2.0), ("2", "2 to 2")),
        ((3e-11, 2e-11, 4e-11), ("3e-11", "2e-11 to 4e-11")),
        ((None, None, None), ("undefined", "")),
    ],
)
def test_figures_have_the_digits_that_their_interval_needs(figures, shown):
    assert results.figures(evaluations.Measured(*figures)) == shown


def drawn_against_nfe(*given):
    found = Reader(tradeoff.against_nfe(given)).found
    return [json.loads(a["data-plot"]) for _, a in found if "data-plot" in a], found


def test_a_sampler_set_otherwise_is_another_line():
    sampling = [{"eta": eta, "num_steps": n} for eta in (0.0, 1.0) for n in (5, 50)]
    every = [
        evaluation(f"{k}", nfe=s["num_steps"], sampling={"sampler": "ddim", "clip_x0": True, **s})
        for k, s in enumerate(sampling)
    ]
    (plot,), _ = drawn_against_nfe(empty(evaluations=evaluations.EvaluationFiles(every, [])))
    assert [one["name"] for one in plot["series"]] == ["ddim, eta 0", "ddim, eta 1"]
    assert [one["x"] for one in plot["series"]] == [[5, 50]] * 2


def test_a_measurement_repeated_is_one_point():
    every = [evaluation("a", nfe=5), evaluation("b", nfe=50), evaluation("again", nfe=50)]
    (plot,), _ = drawn_against_nfe(empty(evaluations=evaluations.EvaluationFiles(every, [])))
    assert plot["series"][0]["x"] == [5, 50]


def bars(found):
    """The bars of each line: where it stands, and how many."""
    paths = [a["d"] for t, a in found if t == "path" and a.get("class") == "bar"]
    return [[float(bar.split()[0]) for bar in path.split("M")[1:]] for path in paths]


def test_an_interval_that_reaches_below_zero_is_drawn():
    every = [evaluation("a", nfe=5, fid=0.05), evaluation("b", nfe=50, fid=2.0)]  # -0.05 to 0.35
    _, found = drawn_against_nfe(empty(evaluations=evaluations.EvaluationFiles(every, [])))
    assert [len(one) for one in bars(found)] == [2]


def test_bars_of_one_nfe_do_not_hide_each_other():
    every = [evaluation(f"{s}{n}", s, n) for s in ("ddim", "heun", "unipc") for n in (5, 50)]
    _, found = drawn_against_nfe(empty(evaluations=evaluations.EvaluationFiles(every, [])))
    places = sorted(one[0] for one in bars(found))
    assert np.diff(places).min() > 5  # of 1,000 along
    assert places[-1] - places[0] < 50


def test_numbers_of_nfe_stand_where_something_was_measured():
    every = [evaluation(f"{n}", nfe=n) for n in (5, 6, 7, 20, 250)]
    _, found = drawn_against_nfe(empty(evaluations=evaluations.EvaluationFiles(every, [])))
    ticks = [a for _, a in found if a.get("class", "").startswith("tick x")]
    text = Reader(
        tradeoff.against_nfe([empty(evaluations=evaluations.EvaluationFiles(every, []))])
    ).text
    assert len(ticks) == 3  # 6 and 7 have no room beside 5
    assert "520250" in text


def test_runs_that_were_measured_keep_their_colours():
    left = empty("left", evaluations=evaluations.EvaluationFiles([evaluation("a", nfe=5)], []))
    right = empty("right", evaluations=evaluations.EvaluationFiles([evaluation("a", nfe=50)], []))
    _, found = drawn_against_nfe(left, right)
    assert [a["class"] for t, a in found if t == "g"] == ["c0", "c1"] * 2  # drawing, then legend
    # Alone, its samplers have colours of no run.
    both = [evaluation("a", nfe=5), evaluation("b", "heun", 50)]
    alone = empty("right", evaluations=evaluations.EvaluationFiles(both, []))
    _, found = drawn_against_nfe(empty("left"), alone)
    assert [a["class"] for t, a in found if t == "g"] == ["c2", "c3"] * 2


def test_quality_against_nfe_has_a_line_a_sampler_and_a_chart_a_protocol():
    given = [
        evaluation(f"{s}_{n}", s, n, 10 / n, **p)
        for p in ({}, {"seed": 1})
        for s in ("ddim", "heun")
        for n in (20, 5, 10)
    ]
    run = empty(evaluations=evaluations.EvaluationFiles(given, []))
    found = Reader(tradeoff.against_nfe([run])).found
    plots = [json.loads(a["data-plot"]) for _, a in found if "data-plot" in a]
    assert len(plots) == 2
    for plot in plots:
        assert [one["name"] for one in plot["series"]] == ["ddim", "heun"]
        assert [one["x"] for one in plot["series"]] == [[5, 10, 20]] * 2
        assert plot["series"][0]["y"] == [2, 1, 0.5]


def test_checkpoints_are_not_one_line():
    given = [evaluation("a", nfe=5), evaluation("b", nfe=10, run_step=200)]
    run = empty(evaluations=evaluations.EvaluationFiles(given, []))
    found = Reader(tradeoff.against_nfe([run])).found
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
    found = Reader(measured.metrics([empty(evaluations=evaluations.EvaluationFiles([one], []))]))
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


def pictured(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise(4, 4, 1)[..., 0]).save(path)
    return path


def test_nearest_images_tell_of_which_samples_they_are(tmp_path):
    one = evaluation("a")
    one.rows[0].metrics["memorisation"] = evaluations.Measured(0.98, 0.9, 1.06, "95%")
    run = empty(
        nearest=[pictured(tmp_path, "a_nearest.png")],
        evaluations=evaluations.EvaluationFiles([one], []),
    )
    text = Reader(gallery.nearest([run])).text
    assert "below each the training image" in text
    told = "Evaluation a: ddim, NFE 50, guidance_scale 2, step 100; memorisation 0.98"
    assert told in text


def test_what_guidance_trades_is_shown(tmp_path):
    for name in ("a", "b_nearest", "notes"):
        pictured(tmp_path, f"{name}.png")
    found = evaluations.EvaluationFiles([evaluation("a"), evaluation("b")], [])
    shown = runs.trade_offs(tmp_path, found)
    assert [*shown] == ["a"]  # the picture of an evaluation, not whatever lies there
    read = Reader(gallery.trade_offs([empty(evaluations=found, trade_offs=shown)]))
    assert "Evaluation a" in read.text
    assert len([t for t, _ in read.found if t == "img"]) == 1
    assert "more than two scales" in Reader(gallery.trade_offs([empty()])).text


def test_pictures_beside_results_are_shown_with_what_is_seen(tmp_path):
    shows = {"before_and_after": "Before and after.", "classes": "Classes."}
    for name in ("b_classes", "a_before_and_after", "a_classes", "gone_classes", "a_other", "a"):
        pictured(tmp_path, f"{name}.png")
    found = evaluations.EvaluationFiles([evaluation("a"), evaluation("b")], [])
    shown = runs.beside(tmp_path, found, shows)
    told = [(name, text) for name, text, _ in shown]
    assert told == [("a", "Before and after."), ("a", "Classes."), ("b", "Classes.")]
    one = read(empty(beside=shown))
    assert "Before and after. Evaluation a." in one.text
    assert [a["id"] for t, a in one.found if t == "section"].count("beside") == 1
    pictures_of = [a for t, a in Reader(gallery.beside([empty(beside=shown)])).found if t == "img"]
    assert len(pictures_of) == 3
    assert pictures_of[0]["alt"] == "Before and after. Evaluation a of run"
    two = Reader(gallery.beside([empty("x", beside=shown), empty("y", beside=shown * 9)]))
    assert "Evaluation b of y." in two.text
    assert "15 more lie in DIR/eval." in two.text
    assert "beside" not in [a["id"] for t, a in read(empty()).found if t == "section"]


@pytest.mark.parametrize(("num", "told"), [(1, "one picture so far"), (3, "All 3 pictures.")])
def test_one_picture_has_no_slider(tmp_path, num, told):
    for k in range(num):
        pictured(tmp_path / "samples", f"step_{k + 1:06d}.png")
    found = Reader(gallery.samples([empty(samples=runs.samples(tmp_path))]))
    assert told in found.text
    assert any(a.get("type") == "range" for _, a in found.found) == (num > 1)


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
