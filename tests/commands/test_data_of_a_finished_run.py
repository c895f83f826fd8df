"""Runs whose data has no held-out images, or lies elsewhere by now."""

import json
import shutil

import numpy as np
import pytest
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.evaluate.evaluate import SpaceFlags
from ddpm_jax.commands.report import report
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import frechet, moments

PIXELS = SpaceFlags(extractor="pixels")
NUM = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder of which nothing is held out, measured while it trained."""
    folder = tmp_path_factory.mktemp("moved")
    images = tiny_runs.images_of_digits(folder / "images")
    config = tiny_runs.brief_config(
        data={"name": "folder", "data_dir": str(images), "holdout": 0.0},
        train={
            "num_steps": 2, "evaluate_every": 2, "evaluate_samples": NUM,
            "evaluate_extractor": "pixels", "validate_every": 0,
        },
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert train.train(config, folder / "run") == 0
        yield folder / "run"


def measured(workdir, **options):
    given = {"num_samples": NUM, "guidance_scales": ["1"], "space": PIXELS, "name": "a"}
    return evaluate.evaluate(str(workdir), **(given | options))


@pytest.mark.wide(6)
def test_samples_are_compared_with_the_training_images(run):
    loaded = experiment.load(run)
    source = loaded.experiment.source("train")
    data = np.stack([source[k]["image"] for k in range(len(source))]).reshape(20, 64) / 255
    drawn = loaded.sample(NUM, guidance_scale=1.0).reshape(NUM, 64) / 255
    expected = frechet.frechet_distance(moments.of(drawn), moments.of(data))
    result = measured(run, metrics=["fid", "label_accuracy"])
    assert result["samples"][0]["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-4)
    assert result["held_out_data"]["metrics"] == {}
    assert "held-out" not in evaluate.table(result)
    assert "validation" not in result["protocol"]["real"]
    # The same distance was measured on the way; its samples were guided as the run's config says.
    assert np.isfinite(
        [m["evaluation_fid"] for m in tiny_runs.metrics(run) if "evaluation_fid" in m]
    )


def test_more_than_two_scales_are_drawn_without_held_out_figures(run):
    measured(run, metrics=["spread"], space=SpaceFlags(), guidance_scales=["0", "1", "2"])
    assert (run / "eval" / "a.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["memorisation"], "space": SpaceFlags()}, "memorisation: compares with held"),
        ({"metrics": ["fid"], "space": SpaceFlags("classifier")}, "classifier: .*held-out.*pca"),
        (
            {"metrics": ["fid"], "space": SpaceFlags("pixels", reference="validation")},
            "--reference=validation: this run's data has no such images; take train",
        ),
    ],
)
def test_what_needs_held_out_images_says_so(run, options, words):
    with pytest.raises(UserError, match=words):
        measured(run, **options, name="refused")
    assert not (run / "eval" / "refused.json").exists()


@pytest.mark.wide(3)
def test_data_that_were_moved_are_named_by_a_flag(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    old = config["data"]["data_dir"]
    shutil.copytree(old, tmp_path / "elsewhere")
    config["data"]["data_dir"] = str(tmp_path / "gone")
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"no such folder: .*gone; set --data_dir to a folder"):
        measured(workdir, metrics=["spread"], space=SpaceFlags())
    told = report.report([str(workdir)]).read_text()
    assert "set --data_dir" in told
    options = {"metrics": ["spread"], "space": SpaceFlags()}
    result = measured(workdir, **options, data_dir=str(tmp_path / "elsewhere"))
    whole = measured(run, **options)
    assert result["samples"][0]["metrics"] == whole["samples"][0]["metrics"]
    assert result["protocol"]["real"] == whole["protocol"]["real"]
    told = report.report([str(workdir)], data_dir=str(tmp_path / "elsewhere")).read_text()
    assert "set --data_dir" not in told
    assert "no held-out images" in told
