import numpy as np
import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.checkpoint import checkpoint
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import frechet, moments
from ddpm_jax.training.checkpoints import Checkpoints

EVALUATED = {
    "evaluate_every": 2,
    "evaluate_samples": 50,
    "evaluate_extractor": "pixels",
    "keep_checkpoints": 1,
    "validate_every": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(images, top):
    return np.round(images * (255 / top)).reshape(len(images), -1) / 255


@pytest.mark.wide(3)
def test_the_least_distance_is_the_best_checkpoint_and_is_kept(tmp_path, monkeypatch, capsys):
    # The way is from good to bad: the second and third evaluation see worse samples.
    from ddpm_jax.measures.training_evaluation import TrainingEvaluation

    measure, found = TrainingEvaluation.measure, []

    def worse(self, batches):
        values = measure(self, list(batches))
        found.append(values["fid"])
        return values | {"fid": values["fid"] + 10 * len(found)}

    monkeypatch.setattr(TrainingEvaluation, "measure", worse)
    workdir = tmp_path / "run"
    assert train.train(brief_config(train=EVALUATED), workdir) == 0
    by_step = {m["step"]: m["evaluation_fid"] for m in tiny_runs.metrics(workdir)
               if "evaluation_fid" in m}  # fmt: skip
    assert list(by_step) == [2, 4, 6]
    said = capsys.readouterr().err
    assert f"step 2: fid {by_step[2]:.4f}" in said
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.steps() == [2, 6]
        assert saved.best() == 2
        assert saved.records()[6].distance == pytest.approx(by_step[6])
    assert checkpoint.show(workdir) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "distance" in lines[0]
    assert lines[1].endswith("best")
    # It is the distance of the average's samples to the training data.
    source = experiment.load(workdir).experiment.source("train")
    data = pixels(np.stack([source[k]["image"] for k in range(len(source))]), 16)
    drawn = pixels(experiment.load(workdir, step="best").sample(50), 255)
    expected = frechet.frechet_distance(moments.of(drawn), moments.of(data))
    assert found[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.wide(6)
def test_an_evaluated_run_ends_as_one_that_is_not(tmp_path):
    assert train.train(brief_config(), tmp_path / "plain") == 0
    assert train.train(brief_config(train=EVALUATED), tmp_path / "evaluated") == 0
    assert tiny_runs.final(tmp_path / "plain") == tiny_runs.final(tmp_path / "evaluated")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"evaluate_metric": "is"}, "config.train.evaluate_metric=.is.: need one of fid, kid"),
        ({"evaluate_extractor": "inception"}, "needs config.train.inception_weights=F.safetensors"),
        ({"inception_weights": "w.safetensors"}, "inception_weights=w.safetensors.*not pixels"),
        ({"evaluate_samples": 1}, "train.evaluate_samples=1: need at least 2"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_a_step(tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        train.train(brief_config(train=EVALUATED | fields), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists() or not any(
        (tmp_path / "run" / "checkpoints").iterdir()
    )
