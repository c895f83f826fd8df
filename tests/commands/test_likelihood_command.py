"""--metrics=bpd: which figures a model is given, what the table and the file say."""

import contextlib
import io
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.data import build_source, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.measures import likelihood, real_data

TERMS = ("prior", "denoising", "decoder")


def train_quietly(config, workdir):
    with contextlib.redirect_stderr(io.StringIO()):
        assert train.train(config, workdir) == 0


@pytest.fixture(scope="module")
def density_run(tmp_path_factory):
    """A run of a few steps on dequantised digits."""
    workdir = tmp_path_factory.mktemp("density") / "run"
    config = tiny_runs.brief_config(
        data={"dequantise": True},
        model={"num_classes": 0},
        diffusion={
            "label_dropout": 0.0,
            "schedule": "linear_gamma",
            "prediction": "v",
            "loss": "continuous_vlb",
            "time_draw": "stratified",
        },
        sample={"guidance_scale": 1.0, "batch_size": 24},
        train={"num_steps": 20, "sample_every": 0, "validate_every": 10},
    )
    train_quietly(config, workdir)
    return workdir


def test_a_lattice_model_gets_the_discrete_bound_alone(finished_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    done = tiny_runs.script("evaluate", f"--workdir={workdir}", "--metrics=bpd")
    assert done.returncode == 0, done.stderr
    report = json.loads((workdir / "eval" / "likelihood.json").read_text())
    assert report["samples"] == []
    (total,) = report["held_out_data"]["metrics"].items()
    figure = report["likelihood"]["figures"]["discrete_vlb"]
    assert total[0] == "bpd_discrete_vlb"
    assert total[1]["value"] == figure["mean"]
    half = 1.96 * figure["standard_error"]
    assert total[1]["high"] - figure["mean"] == pytest.approx(half, rel=1e-4)
    bits = report["likelihood"]
    assert (bits["model_of"], bits["levels"], bits["num_examples"]) == ("lattice", 17, 360)
    assert report["protocol"]["likelihood"] == {
        "model_of": "lattice", "levels": 17, "num_examples": 360, "num_terms": None,
        "fingerprint": fingerprint(build_source("digits", "validation")),
    }  # fmt: skip
    assert set(bits["figures"]) == {f"discrete_{name}" for name in ("vlb", *TERMS)}
    figures = {name: figure["mean"] for name, figure in bits["figures"].items()}
    assert figures["discrete_vlb"] == pytest.approx(sum(figures[f"discrete_{t}"] for t in TERMS))
    assert bits["figures"]["discrete_vlb"]["standard_error"] > 0
    # No bound is below the best that a chain of 10 steps could do; the terms are not all 0.
    assert 2 < figures["discrete_vlb"] < 100
    assert figures["discrete_denoising"] > 1
    lines = done.stdout.splitlines()
    assert lines[0] == "| bits per pixel | held-out data | standard error |"
    assert lines[2].startswith(f"| discrete VLB | {figures['discrete_vlb']:.3f} | 0.")
    assert lines[-1].startswith("360 images: probabilities of pixels of 17 values")
    assert len(lines) == 8


@pytest.mark.wide(6)
def test_a_density_model_gets_three_figures_of_one_kind(density_run, monkeypatch):
    whole = real_data.arrays
    monkeypatch.setattr(real_data, "arrays", lambda *of: [a[:24] for a in whole(*of)])
    monkeypatch.setattr(likelihood, "TOLERANCE", 1e-2)
    report = evaluate.evaluate(str(density_run), metrics=["bpd"])
    bits = report["likelihood"]
    assert (bits["model_of"], bits["levels"]) == ("density", 17)
    figures = {name: figure["mean"] for name, figure in bits["figures"].items()}
    for kind in ("discrete", "continuous"):
        total = sum(figures[f"{kind}_{term}"] for term in TERMS)
        assert figures[f"{kind}_vlb"] == pytest.approx(total)
    # A chain of 10 steps is far above its limit; uniform pixels would be log2(17) = 4.09 bits.
    assert figures["continuous_vlb"] + 1 < figures["discrete_vlb"]
    assert 4.09 < figures["continuous_vlb"] < 6
    assert abs(figures["ode"] - figures["continuous_vlb"]) < 0.5
    assert json.loads((density_run / "eval" / "likelihood.json").read_text()) == report
    text = evaluate.table(report)
    assert f"| probability-flow ODE | {figures['ode']:.3f} |" in text
    assert "a density of pixels spread over their cells, 17 of width 1" in text


@pytest.mark.wide(3)
def test_validation_in_training_sees_dequantised_pixels(density_run):
    lines = [json.loads(line) for line in (density_run / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in line for line in lines)
    built = experiment.load(density_run).experiment
    batch = {"x0": np.zeros((2, 8, 8, 1), np.float32), "label": np.zeros(2, np.int32)}
    params = built.init_params(jax.random.key(0))
    one, other = (built.objective(params, batch, jax.random.key(k), False, {}) for k in (0, 1))
    assert np.all(one.loss != other.loss)


@pytest.mark.wide(3)
def test_a_model_that_always_saw_its_label_has_no_bits(tmp_path):
    config = tiny_runs.brief_config(
        diffusion={"label_dropout": 0.0},
        sample={"guidance_scale": 1.0},
        train={"num_steps": 1, "sample_every": 0, "validate_every": 0},
    )
    train_quietly(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"bpd measures p\(x\).*label_dropout"):
        evaluate.evaluate(str(tmp_path / "run"), metrics=["bpd"])
    with pytest.raises(UserError, match=r"metrics=bits: .* a diffusion model; it has .*bpd"):
        evaluate.evaluate(str(tmp_path / "run"), metrics=["bits"])
    assert not (tmp_path / "run" / "eval").exists()


def test_a_number_of_terms_that_does_not_fit_is_named(finished_run):
    with pytest.raises(UserError, match=r"bpd.*1 <= num_terms <= 9.*got 10"):
        evaluate.evaluate(str(finished_run.workdir), metrics=["bpd"], num_terms=10)
