"""An experiment that was changed in Python: trained, resumed, taken down, and not mistaken."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.reproduce import reproduce
from ddpm_jax.commands.train import train
from ddpm_jax.config import defaults
from ddpm_jax.errors import UserError
from ddpm_jax.measures import manifest
from ddpm_jax.training.objectives import denoise
from ddpm_jax.training.objectives.base import Objective
from ddpm_jax.training.players import Player

QUIET = {"num_steps": 4, "checkpoint_every": 2}


def built(**fields):
    return experiment.build(brief_config(train=QUIET | fields))


def of_power(run, power):
    """The run, with the mean of |eps - eps-hat|^power as its loss."""

    def loss(network, schedule, x0, t, eps):
        alpha, sigma = (f(t)[:, None, None, None] for f in (schedule.alpha, schedule.sigma))
        error = network(alpha * x0 + sigma * eps, schedule.network_time(t)) - eps
        return (jnp.abs(error) ** power).mean(axis=(1, 2, 3))

    objective = denoise.denoising(run.model.apply, run.schedule, loss=loss, dropout={"label": 0.1})
    return dataclasses.replace(run, objective=objective)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of its config alone."""
    workdir = tmp_path_factory.mktemp("plain") / "run"
    assert experiment.train(built(), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A run with a loss of its own."""
    workdir = tmp_path_factory.mktemp("changed") / "run"
    assert experiment.train(of_power(built(), 1.5), workdir) == 0
    return workdir


@pytest.mark.wide(3)
def test_an_experiment_that_was_not_changed_is_the_command_s_run(plain, tmp_path):
    assert built().changed == {}
    assert train.train(brief_config(train=QUIET), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(plain)
    (entry,) = manifest.read(plain / "manifest.json")
    assert entry["changed_in_python"] == {}


def test_its_own_loss_stopped_and_resumed_ends_bit_for_bit_alike(changed, plain, tmp_path, capsys):
    assert experiment.train(of_power(built(), 1.5), tmp_path, until=2) == 75
    assert experiment.train(of_power(built(), 1.5), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(changed)
    assert tiny_runs.final(tmp_path) != tiny_runs.final(plain)
    assert "changed in Python: objective" in capsys.readouterr().err


def test_the_manifest_says_what_was_changed(changed):
    (entry,) = manifest.read(changed / "manifest.json")
    assert [*entry["changed_in_python"]] == ["objective"]
    assert (
        entry["changed_in_python"] == manifest.parts_of(of_power(built(), 1.5))["changed_in_python"]
    )


@pytest.mark.parametrize(
    "other",
    [lambda: built(num_steps=6), lambda: of_power(built(num_steps=6), 2.0)],
    ids=["the plain one", "another constant"],
)
def test_another_objective_does_not_go_on_with_it(changed, other):
    before = tiny_runs.snapshot(changed)
    with pytest.raises(UserError, match=r"changed_in_python\.objective: .*--allow_drift="):
        experiment.train(other(), changed)
    assert tiny_runs.snapshot(changed) == before


def test_nor_does_it_go_on_with_a_plain_run(plain):
    with pytest.raises(UserError, match=r"changed_in_python\.objective: None there"):
        experiment.train(of_power(built(num_steps=6), 1.5), plain)


@pytest.mark.wide(6)
def test_a_difference_that_is_meant_is_taken_down(changed, tmp_path):
    workdir = shutil.copytree(changed, tmp_path / "run")
    run = of_power(built(num_steps=6), 2.0)
    allowed = ["changed_in_python.objective"]
    assert experiment.train(run, workdir, allow_drift=allowed) == 0
    _, entry = manifest.read(workdir / "manifest.json")
    assert [d["field"] for d in entry["allowed_drift"]] == allowed


def test_no_config_repeats_it(changed, tmp_path):
    with pytest.raises(UserError, match=r"objective of this run came from Python"):
        reproduce.reproduce(changed / "manifest.json", tmp_path / "new", defaults.get_config())


def test_a_manifest_of_an_earlier_version_is_read(plain, tmp_path):
    content = json.loads((plain / "manifest.json").read_text())
    for entry in content["attempts"]:
        del entry["changed_in_python"], entry["frozen"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    (entry,) = manifest.read(tmp_path / "manifest.json")
    assert entry["changed_in_python"] == entry["frozen"] == {}


def test_a_config_that_was_changed_after_its_parts_is_refused(tmp_path):
    run = built()
    run.config.optim.learning_rate = 0.5
    with pytest.raises(UserError, match=r"changed after it was built"):
        experiment.train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def distilled(run, teacher):
    """The run, as a student of a frozen teacher of the same network."""

    def outcome(params, batch, key, train, extra, teacher):
        plain = run.objective(params, batch, key, train, extra)
        distance = optax.tree.norm(optax.tree.sub(params, teacher), squared=True)
        return plain._replace(loss=plain.loss + distance)

    student = Objective(outcome, needs=("teacher",))
    return dataclasses.replace(run, objective=student, frozen={"teacher": teacher})


@pytest.mark.wide(3)
def test_a_teacher_is_handed_over_and_known_by_its_digest(tmp_path):
    run = built(validate_every=4, validate_examples=8)
    teacher = run.init_params(jax.random.key(3))
    assert experiment.train(distilled(run, teacher), tmp_path) == 0
    (entry,) = manifest.read(tmp_path / "manifest.json")
    assert [*entry["frozen"]] == ["teacher"]
    other = jax.tree.map(lambda leaf: leaf + 1, teacher)
    with pytest.raises(UserError, match=r"frozen\.teacher"):
        experiment.train(distilled(built(num_steps=6), other), tmp_path)


@pytest.mark.wide(3)
def test_players_train_as_a_run(tmp_path):
    """One moves the whole network, one its last part besides: with checkpoints and a resume."""
    run = built(log_every=2)
    last = sorted(run.state_shapes().params)[-1:]
    own = run.optimizer
    sides = {
        "all": Player(run.objective, own),
        "last": Player(run.objective, own, parameters=tuple(last), every=2),
    }
    run = dataclasses.replace(run, players=sides)
    assert experiment.train(run, tmp_path / "half", until=2) == 75
    assert experiment.train(run, tmp_path / "half") == 0
    assert experiment.train(run, tmp_path / "straight") == 0
    assert tiny_runs.final(tmp_path / "half") == tiny_runs.final(tmp_path / "straight")
    lines = (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()
    assert {"loss", "all_loss", "last_loss"} <= json.loads(lines[-1]).keys()
    with pytest.raises(UserError, match="the players all, last"):
        run.inspection()
