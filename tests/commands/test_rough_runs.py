"""Runs that meet broken data, diverge, or died before their first checkpoint."""

import json

import numpy as np
import pytest
import tiny_runs
from PIL import Image
from tiny_runs import brief_config

from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError

QUICK = {
    "num_steps": 12,
    "log_every": 4,
    "checkpoint_every": 100,
    "sample_every": 0,
    "validate_every": 0,
}


@pytest.fixture
def folder(tmp_path):
    """Twelve images, one of which is cut short."""
    images = tmp_path / "images"
    images.mkdir()
    noise = np.random.default_rng(0)
    for k in range(12):
        pixels = noise.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{k:02d}.png")
    broken = images / "07.png"
    broken.write_bytes(broken.read_bytes()[:40])
    return images


def folder_config(folder, on_error):
    return brief_config(
        data={"name": "folder", "data_dir": str(folder), "on_error": on_error, "holdout": 0.0,
              "batch_size": 2},
        model={"num_classes": 0},
        diffusion={"label_dropout": 0.0},
        sample={"guidance_scale": 1.0},
        optim={"decay": "constant"},
        train=QUICK,
    )  # fmt: skip


@pytest.mark.wide(6)
def test_a_broken_image_stops_the_run_saved_and_skipping_it_goes_on(folder, tmp_path, capsys):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=r"07\.png.*data\.options\.on_error=skip.*saved at step \d"):
        train.train(folder_config(folder, "stop"), workdir)
    assert not (workdir / "final.json").exists()
    (reached,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    # The 12 images of an epoch last 6 steps, so the broken one comes within them.
    assert reached < 6

    assert train.train(folder_config(folder, "skip"), workdir) == 0
    said = capsys.readouterr().err
    if reached:
        assert f"resuming at step {reached}" in said
    assert "broken images skipped: 1" in said
    assert tiny_runs.final(workdir)["step"] == 12
    # Skipping from the start gives the same run: what was replaced is a function of the index.
    assert train.train(folder_config(folder, "skip"), tmp_path / "straight") == 0
    assert tiny_runs.final(workdir) == tiny_runs.final(tmp_path / "straight")


@pytest.mark.wide(3)
def test_a_loss_that_is_not_finite_stops_the_run_saved_and_whole(tmp_path, capsys):
    config = brief_config(
        train=QUICK | {"num_steps": 40, "max_skipped": 4},
        optim={"decay": "constant", "learning_rate": 1e30, "grad_clip": 0.0},
    )
    # The first step of the warm-up is at a rate of 0, the second leaves what nothing comes of.
    words = r"4 steps in a row were skipped, 3 to 6, .*the loss is inf.*--replay_step=6"
    with pytest.raises(UserError, match=rf"{words}.*learning_rate.*saved at step 7"):
        train.train(config, tmp_path)
    said = capsys.readouterr().err.splitlines()
    skips = [line for line in said if ": skipped, the loss is inf; its examples are " in line]
    assert [line.split(":")[0] for line in skips] == [f"step {k}" for k in (3, 4, 5, 6, 7)]
    # The same command goes on from there, as far once more.
    with pytest.raises(UserError, match=r"8 steps in a row were skipped, 3 to 10, .*step 11"):
        train.train(config, tmp_path)
    assert "resuming at step 7" in capsys.readouterr().err
    assert not (tmp_path / "final.json").exists()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [(line["step"], line["loss"], line["skipped"]) for line in logged[1:]] == [(8, None, 6)]
    assert logged[0]["skipped"] == 2
    assert 0.5 < logged[0]["loss"] < 2  # of the two steps that were taken


def test_a_run_that_died_before_its_first_checkpoint_can_be_tried_with_other_settings(tmp_path):
    config_files.write(tmp_path, brief_config(data={"batch_size": 1024}, train=QUICK))
    retried = brief_config(optim={"decay": "constant"}, train=QUICK | {"log_every": 0})
    assert train.train(retried, tmp_path) == 0
    assert config_files.read(tmp_path).data.batch_size == 8
    # log_every=0 is never.
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    with pytest.raises(UserError, match=r"data\.batch_size: 8 \(int\) there, 1024 "):
        train.train(brief_config(data={"batch_size": 1024}, train=QUICK), tmp_path)
