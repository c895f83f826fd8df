import importlib
import json
import shutil

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import checks, evaluate
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import fidelity


def test_the_script_measures_prints_and_writes(finished_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    before = tiny_runs.snapshot(workdir)
    flags = ["--num_samples=40", "--guidance_scale=2,0", "--seed=5", "--name=few"]
    done = tiny_runs.script("evaluate", f"--workdir={workdir}", *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads((workdir / "eval" / "few.json").read_text())
    # It adds its file and touches nothing else.
    after = tiny_runs.snapshot(workdir)
    added = {name for name in after if after[name] != before.get(name)}
    kept = {name for name in added if name.startswith("eval/cache")}
    assert added - kept == {"eval", "eval/few.json", "eval/few_nearest.png"}

    assert [entry["guidance_scale"] for entry in report["samples"]] == [2.0, 0.0]
    assert [entry["nfe"] for entry in report["samples"]] == [5, 5]
    held_out = report["held_out_data"]["metrics"]
    assert held_out["label_accuracy"]["value"] == pytest.approx(356 / 360)
    assert held_out["memorisation"]["value"] == 1
    protocol = report["protocol"]
    assert (protocol["num_samples"], protocol["seed"], protocol["parameters"]) == (40, 5, "ema")
    assert protocol["sampling"] == {
        "sampler": "ddim", "num_steps": 5, "grid": "uniform", "clip_x0": True,
    }  # fmt: skip
    assert report["run"]["checkpoint_step"] == 800
    assert report["run"]["checkpoint"] == tiny_runs.final(workdir)["state_sha256"]
    (entry,) = json.loads((workdir / "manifest.json").read_text())["attempts"]
    assert report["run"]["config_sha256"] == entry["config_sha256"]
    lines = done.stdout.splitlines()
    head = "| | samples, guidance_scale 2 | samples, guidance_scale 0 | held-out data |"
    assert lines[0] == head
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| label_accuracy", "| memorisation", "| spread", "| class_recall",
    ]  # fmt: skip
    assert lines[2].endswith("| 0.989 (0.972 to 0.996) |")

    # The figures are those of the samples that the protocol names.
    loaded = experiment.load(workdir)
    images = loaded.sample(40, seed=5, guidance_scale=2.0) / 127.5 - 1
    source = loaded.experiment.source("train")
    real = np.stack([source[k]["image"] for k in range(len(source))]) / 8.0 - 1
    labels = np.array([source[k]["label"] for k in range(len(source))])
    spread = fidelity.spread_ratio(real, labels, images, np.arange(40) % 10)
    assert report["samples"][0]["metrics"]["spread"]["value"] == pytest.approx(spread, rel=0.01)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"metrics": ["fidd"]}, "fidd"),
        ({"name": "a/b"}, "a/b"),
        ({"guidance_scales": ["two"]}, "two"),
        ({"num_samples": 0}, "at least 1"),
        ({"num_terms": 5}, "num_terms=5.*bpd"),
        ({"metrics": ["bpd"]}, "num_samples.*bpd draws none"),
        ({"metrics": ["bpd"], "num_samples": None, "guidance_scales": ["2"]}, "guidance_scale"),
        # Before the samples are drawn.
        ({"metrics": ["spread", "bpd"], "num_samples": 10**9, "num_terms": 0}, "num_terms"),
        ({"step": 3}, "there are 700, 800"),
    ],
)
@pytest.mark.wide(4)
def test_what_does_not_fit_is_named_and_nothing_written(finished_run, options, named):
    before = tiny_runs.snapshot(finished_run.workdir)
    options = {"metrics": ["spread"], "num_samples": 4} | options
    with pytest.raises(UserError, match=named):
        evaluate.evaluate(str(finished_run.workdir), **options)
    assert tiny_runs.snapshot(finished_run.workdir) == before


def test_labels_cannot_be_measured_without_classes(unconditional_run):
    with pytest.raises(UserError, match=r"label_accuracy.*unconditional"):
        evaluate.evaluate(
            str(unconditional_run.workdir), metrics=["memorisation", "label_accuracy"],
            num_samples=4,
        )  # fmt: skip


@pytest.mark.wide(3)
def test_more_than_two_scales_are_drawn_as_a_trade_off(finished_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    report = evaluate.evaluate(
        str(workdir),
        metrics=["label_accuracy", "class_recall"],
        num_samples=50,
        guidance_scales=["3", "0", "1"],
        name="sweep",
    )
    with Image.open(workdir / "eval" / "sweep.png") as picture:
        assert min(picture.size) > 300
        assert len(np.unique(np.asarray(picture).reshape(-1, 4), axis=0)) > 20
    assert [row["guidance_scale"] for row in report["samples"]] == [3, 0, 1]
    assert len({row["metrics"]["class_recall"]["value"] for row in report["samples"]}) == 3


@pytest.mark.wide(3)
def test_a_classifier_is_read_and_guides(finished_run, tmp_path, capsys):
    classifier, workdir = tmp_path / "classifier", tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    config = tiny_runs.tiny_config(
        kind="classifier",
        train={"num_steps": 100, "validate_every": 100},
        data={"batch_size": 32},
        optim={"decay": "constant", "warmup_steps": 0, "learning_rate": 1e-2},
        ema={"decay": 0.8},
    )
    assert train.train(config, classifier) == 0
    assert f"--classifier_workdir={classifier}" in capsys.readouterr().err
    assert not (classifier / "samples").exists()
    report = evaluate.evaluate(str(classifier), metrics=["accuracy"])
    clean, *_, last = (row["accuracy"] for row in report["accuracy"])
    # It has learned something, which noise hides.
    assert clean > 0.3 > last + 0.05
    lines = evaluate.table(report).splitlines()
    assert lines[0] == "| t of held-out images | accuracy |"
    assert json.loads((classifier / "eval" / "accuracy.json").read_text()) == report

    report = evaluate.evaluate(
        str(workdir),
        metrics=["label_accuracy"],
        num_samples=20,
        classifier_scales=["0", "5"],
        guides={"classifier_workdir": str(classifier)},
    )
    scales = [(row["guidance_scale"], row["classifier_scale"]) for row in report["samples"]]
    assert scales == [(1, 0), (1, 5)]
    guide = report["protocol"]["guides"]["classifier"]
    assert guide["checkpoint"] == tiny_runs.final(classifier)["state_sha256"]
    assert "| samples, guidance_scale 1, classifier_scale 5 |" in evaluate.table(report)

    for metrics, run, words in (
        (["accuracy"], workdir, "this run is a diffusion model"),
        (["spread"], classifier, "this run is a classifier"),
        (["bpd"], classifier, "this run is a classifier"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate.evaluate(str(run), metrics=metrics)
    with pytest.raises(UserError, match=r"draws no images.*--classifier_workdir"):
        sample.to_files(str(classifier), str(tmp_path / "a.png"), num_samples=2)
    with pytest.raises(UserError, match=r"classifier_scale=2.*--classifier_workdir"):
        evaluate.evaluate(str(workdir), metrics=["spread"], classifier_scales=["2"])
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", ["label_accuracy", "memorisation", "spread", "class_recall"]),
        ("digits_classifier", ["accuracy"]),
        ("shapes", ["attributes", "memorisation"]),
        ("celebahq256", ["memorisation"]),
    ],
)
def test_what_is_measured_by_default_fits_the_run(tmp_path, name, expected):
    config = importlib.import_module(f"configs.{name}").get_config()
    config_files.write(tmp_path, config)
    assert checks.default_metrics(str(tmp_path), own={}) == expected
    with pytest.raises(UserError, match="no checkpoint in"):
        evaluate.evaluate(str(tmp_path / "nothing"))
