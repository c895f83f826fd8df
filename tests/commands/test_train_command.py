import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
import tensorboard_events
import tiny_runs
from PIL import Image
from tiny_runs import tiny_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.measures import speed
from ddpm_jax.runtime.digests import digests
from ddpm_jax.training.checkpoints import Checkpoints


def test_a_run_leaves_what_the_house_plan_says(finished_run):
    names = {path.name for path in finished_run.workdir.iterdir()}
    assert names == {"config.json", "final.json", "manifest.json", "checkpoints", "metrics.jsonl",
                     "samples", "tensorboard", ".lock"}  # fmt: skip
    steps = sorted(int(path.name) for path in (finished_run.workdir / "checkpoints").iterdir())
    assert steps == [700, 800]
    expected = tiny_config(data={"class_names": tuple("0123456789")})  # which the data say
    assert config_files.read(finished_run.workdir) == expected


def test_the_final_digests_are_those_of_the_last_checkpoint(finished_run):
    built = experiment.build(tiny_config())
    with Checkpoints(finished_run.workdir, read_only=True) as saved:
        state = saved.restore(800, built.state_shapes())
    assert tiny_runs.final(finished_run.workdir) == {"step": 800, **digests(state)}
    assert int(state.step) == 800


def test_the_metrics_are_there_for_every_logged_step(finished_run):
    lines = tiny_runs.metrics(finished_run.workdir)
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(10, 801, 10))
    # A CPU does not say how much memory was in use.
    expected = {"step", "loss", "grad_norm", "learning_rate", *speed.NAMES} - {"peak_device_bytes"}
    quarters = {f"loss_q{q}" for q in (1, 2, 3, 4)}
    assert all(expected <= set(line) <= expected | quarters for line in training)
    assert all(quarters <= set(line) for line in training)
    assert training[-1]["loss"] < 0.5 * training[0]["loss"]
    for line in training:
        assert line["images_per_second"] == pytest.approx(8 * line["steps_per_second"])
        assert line["images_per_second_per_device"] == line["images_per_second"] > 0
        assert 0 <= line["data_wait"] < 1
        assert line["mfu"] == "unknown"
        assert line["peak_host_bytes"] > 1e7
    # Each weight of a convolution is used at each of 64 pixels of 8 images, forth and back; a part
    # of the weights are none of convolutions.
    parameters = sum(x.size for x in jax.tree.leaves(experiment.load(finished_run.workdir).params))
    (flop,) = {line["model_flop_per_step"] for line in training}
    assert 0.3 < flop / (3 * 2 * parameters * 64 * 8) < 1
    (compiling,) = {line["compile_seconds"] for line in training}
    assert compiling > 0
    # The warm-up is over after 10 steps; half of a cosine ends at 0.
    rates = [line["learning_rate"] for line in training]
    assert rates[0] == pytest.approx(0.00045)  # the mean of 0, 1, ..., 9 tenths of 1e-3
    assert max(rates) == pytest.approx(1e-3, rel=0.01)
    assert training[-1]["learning_rate"] < 1e-6

    validation = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in validation] == [400, 800]
    for line in validation:
        by_quarter = [line[f"validation_loss_q{q}"] for q in (1, 2, 3, 4)]
        assert min(by_quarter) < line["validation_loss"] < max(by_quarter)


def test_tensorboard_shows_the_same_figures_and_the_grids(finished_run):
    folder = finished_run.workdir / "tensorboard"
    scalars = tensorboard_events.scalars(folder)
    for line in tiny_runs.metrics(finished_run.workdir):
        step = line.pop("step")
        assert line.pop("mfu", "unknown") == "unknown"  # which is no number to show
        for name, value in line.items():
            assert scalars[name][step] == pytest.approx(value, rel=1e-6)
    shown = tensorboard_events.images(folder)["samples"]
    assert sorted(shown) == [400, 800]
    for step, content in shown.items():
        saved = Image.open(finished_run.workdir / "samples" / f"step_{step:06d}.png")
        event = Image.open(io.BytesIO(content)).convert("L")
        np.testing.assert_array_equal(np.asarray(event), np.asarray(saved))


def test_a_grid_has_a_column_for_each_class(finished_run):
    names = [path.name for path in (finished_run.workdir / "samples").iterdir()]
    assert sorted(names) == ["step_000400.png", "step_000800.png"]
    with Image.open(finished_run.workdir / "samples" / "step_000800.png") as picture:
        # 20 images of 8 pixels, enlarged to 32, 2 apart, ten in a row.
        assert picture.size == (10 * 34 + 2, 2 * 34 + 2)


def test_without_a_terminal_plain_lines_say_how_it_goes(finished_run):
    assert finished_run.stdout == ""
    assert "\r" not in finished_run.stderr
    lines = finished_run.stderr.splitlines()
    parameters = sum(
        leaf.size for leaf in jax.tree.leaves(experiment.load(finished_run.workdir).params)
    )
    assert f"training: {parameters:,} parameters, 1,437 images of digits" in lines[0]
    figures = r"step 800/800  [\d.]+ steps/s  [\d,]+ images/s  loss \d\.\d{4}  00:00 left"
    assert any(re.fullmatch(figures, line) for line in lines)
    assert any(line.startswith("step 400: validation loss ") for line in lines)
    workdir = finished_run.workdir
    assert lines[-1].startswith(f"done: 800 steps in {workdir}; next: python -m ddpm_jax sample ")
    assert f"--workdir={workdir}" in lines[-1]


def test_a_finished_run_is_left_alone(finished_run, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    before = tiny_runs.snapshot(workdir)
    assert train.train(tiny_config(), workdir) == 0
    assert "has finished its 800 steps" in capsys.readouterr().err
    assert tiny_runs.snapshot(workdir) == before


def test_a_dry_run_tells_the_cost_and_touches_nothing(finished_run, tmp_path):
    # No such data: a dry run reads none.
    flags = tiny_runs.tiny_flags(tmp_path / "run", data__data_dir=tmp_path / "none")
    done = tiny_runs.script("train", *flags, "--dry_run")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    parameters = told["parameters"]
    assert f"{parameters:,} parameters" in finished_run.stderr
    # The state is the parameters, their average and Adam's two moments; 8 images and labels.
    batch_bytes = 8 * (64 + 1) * 4
    assert told["state_bytes"] == pytest.approx(4 * 4 * parameters + batch_bytes, rel=0.01)
    assert told["workspace_bytes"] > 0
    # Each weight of a convolution is used at each of 64 pixels: a multiplication and an addition,
    # and twice that again on the way back. A part of the weights are none of convolutions.
    assert 0.3 < told["flop_per_step"] / (3 * 2 * parameters * 64 * 8) < 2
    assert told["batch"] == {"x0": "float32[8, 8, 8, 1]", "label": "int32[8]"}
    assert (told["devices"], told["num_steps"]) == (1, 800)
    assert not list(tmp_path.iterdir())


def test_images_need_be_neither_square_nor_labelled(unconditional_run):
    with Image.open(unconditional_run.workdir / "samples" / "step_000004.png") as picture:
        assert picture.mode == "RGB"
        # 8x12 pixels enlarged four times, 2 apart, in two rows of two.
        assert picture.size == (2 * (48 + 2) + 2, 2 * (32 + 2) + 2)
    images = experiment.load(unconditional_run.workdir).sample(3)
    assert images.shape == (3, 8, 12, 3)
    assert images.dtype == np.uint8


def test_a_broken_image_is_skipped_and_counted(unconditional_run):
    assert "broken images skipped: 1" in unconditional_run.stderr
