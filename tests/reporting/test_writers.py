import io
import json

import numpy as np
import pytest
import tensorboard_events
from PIL import Image

from ddpm_jax.reporting.writers import JsonLines, MetricWriter


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_numbers_and_pictures_go_to_both_places(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 1)).astype(np.uint8)
    writer = MetricWriter(tmp_path)
    writer.scalars(10, {"loss": 0.5, "learning_rate": 1e-3})
    writer.scalars(20, {"loss": 0.25})
    writer.image(20, "samples", picture)
    assert lines(tmp_path) == [
        {"step": 10, "loss": 0.5, "learning_rate": 1e-3},
        {"step": 20, "loss": 0.25},
    ]
    scalars = tensorboard_events.scalars(tmp_path / "tensorboard")
    assert scalars["loss"] == {10: 0.5, 20: 0.25}
    assert scalars["learning_rate"] == pytest.approx({10: 1e-3})
    stored = tensorboard_events.images(tmp_path / "tensorboard")["samples"][20]
    shown = np.asarray(Image.open(io.BytesIO(stored)).convert("L"))
    np.testing.assert_array_equal(shown, picture[..., 0])


def test_lines_are_there_while_the_run_goes_on(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.scalars(1, {"loss": 1.0})
    assert len(lines(tmp_path)) == 1


def test_a_run_that_goes_on_drops_the_later_lines(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (10, 20, 30, 40):
        writer.scalars(step, {"loss": float(step)})
    writer = MetricWriter(tmp_path, start=20)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    writer.scalars(30, {"loss": -1.0})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (10, 10.0),
        (20, 20.0),
        (30, -1.0),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_file_of_lines_is_there_from_the_first_one_on(tmp_path):
    path = tmp_path / "events.jsonl"
    written = JsonLines(path)
    assert not path.exists()
    for step in (3, 5, 9):
        written.write(step, {"loss": float("nan"), "examples": [step, 1]})
    again = JsonLines(path, start=5)
    again.write(7, {"loss": float("inf"), "examples": []})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 3, "loss": None, "examples": [3, 1]},
        {"step": 5, "loss": None, "examples": [5, 1]},
        {"step": 7, "loss": None, "examples": []},
    ]


@pytest.mark.parametrize("torn", ['{"step": 3', '{"step"', "", "7", '{"loss": 1}', "\x00\x00"])
def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path, torn):
    whole = '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(whole + torn)
    writer = MetricWriter(tmp_path, start=9)
    writer.scalars(10, {"loss": 0.1})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 10]


def test_a_last_line_without_its_newline_is_kept_apart(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    writer = MetricWriter(tmp_path, start=2)
    writer.scalars(3, {})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
