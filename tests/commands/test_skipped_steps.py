"""Runs that meet numbers that are none: what is skipped, said, kept, and seen again."""

import json

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import replay, train
from ddpm_jax.data import Batches
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.digests import digest, digests
from ddpm_jax.training import guard
from ddpm_jax.training.checkpoints import Checkpoints

QUIET = {"log_every": 0, "sample_every": 0, "validate_every": 0}
SPIKE, NAN, LAST = 15, 22, 32


def poisoned_config(num_steps=LAST, **changes):
    """The prediction of x_0, whose loss grows with the images; importance keeps a history."""
    groups = {
        "train": QUIET | {"num_steps": num_steps, "checkpoint_every": 10, "keep_checkpoints": 2},
        "diffusion": {"prediction": "x0", "time_draw": "importance", "time_history": 2},
        "optim": {"decay": "constant", "spike_sigma": 6.0, "spike_window": 10},
    }
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return brief_config(**groups)


@pytest.fixture
def poison(monkeypatch):
    """poison({step: change of its images}): what the batches of these steps hold from then on."""
    batch_at = Batches.batch_at

    def arrange(changes):
        def poisoned(self, step):
            batch = batch_at(self, step)
            change = changes.get(step + 1)
            return batch | {"x0": change(batch["x0"])} if change else batch

        monkeypatch.setattr(Batches, "batch_at", poisoned)

    return arrange


def put(value, example=3):
    """Images of which one pixel is the value."""

    def change(images):
        images = images.copy()
        images[example, 4, 4] = value
        return images

    return change


def fiftyfold(images):
    return 50 * images


WRONG = {SPIKE: fiftyfold, NAN: put(np.nan)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The workdir of a run that met a spike and a NaN."""
    workdir = tmp_path_factory.mktemp("poisoned")
    with pytest.MonkeyPatch.context() as patch:
        poison.__wrapped__(patch)(WRONG)
        assert train.train(poisoned_config(), workdir) == 0
    return workdir


def skipped(workdir):
    """The lines of skipped_steps.jsonl."""
    return [json.loads(line) for line in (workdir / "skipped_steps.jsonl").read_text().splitlines()]


def run_batches(config):
    built = experiment.build(config)
    return built, attempt.training_batches(built, built.source("train"))


@pytest.mark.wide(3)
def test_each_skipped_step_is_told_with_its_examples(straight):
    _, batches = run_batches(poisoned_config())
    spike, nan = skipped(straight)
    assert (spike["step"], nan["step"]) == (SPIKE, NAN)
    assert spike["loss"] > 100
    assert (nan["loss"], nan["grad_norm"]) == (None, None)
    source = batches.source
    for line in (spike, nan):
        shown = batches.batch_at(line["step"] - 1)
        np.testing.assert_array_equal(
            [source[i]["label"] for i in line["examples"]], shown["label"]
        )
        pixels = np.stack([source[i]["image"] for i in line["examples"]])
        np.testing.assert_array_equal(np.round(8 * shown["x0"] + 8), pixels)  # 17 levels


@pytest.mark.wide(6)
def test_a_run_that_is_stopped_around_a_spike_decides_alike(straight, tmp_path, poison, capsys):
    poison(WRONG)
    for num_steps in (14, SPIKE, LAST):
        assert train.train(poisoned_config(num_steps), tmp_path) == 0
        said = capsys.readouterr().err
        # The last step of a start is told too, and each is told once.
        assert ("step 15: skipped, the loss is a spike: " in said) == (num_steps == SPIKE)
        assert ("step 22: skipped, the loss is nan; " in said) == (num_steps == LAST)
        assert said.count("--replay_step") == (num_steps >= SPIKE)
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)
    assert skipped(tmp_path) == skipped(straight)


@pytest.mark.wide(3)
def test_a_line_of_a_checkpoints_step_survives_a_crash_behind_it(straight, tmp_path, poison):
    class Crash(Exception):
        pass

    def crash(images):
        raise Crash

    # Step 10 is a checkpoint's; the crash comes before any later step could tell of it.
    config = poisoned_config(12, data={"num_threads": 0})
    poison({10: put(np.inf), 11: crash})
    with pytest.raises(Crash):
        train.train(config, tmp_path)
    assert [line["step"] for line in skipped(tmp_path)] == [10]
    poison({10: put(np.inf), 12: put(np.nan)})
    assert train.train(config, tmp_path) == 0
    assert [line["step"] for line in skipped(tmp_path)] == [10, 12]


@pytest.mark.parametrize("step", [SPIKE, NAN])
@pytest.mark.wide(2)
def test_a_step_comes_again_by_its_number(straight, poison, step):
    poison(WRONG)
    before = tiny_runs.snapshot(straight)
    told = replay.replay(poisoned_config(), straight, step)
    assert tiny_runs.snapshot(straight) == before
    json.dumps(told, allow_nan=False)
    logged = {line["step"]: line for line in skipped(straight)}[step]
    assert told["skipped"]
    for name in ("step", "loss", "grad_norm"):  # to the last bit
        assert told[name] == logged[name]
    assert [example["index"] for example in told["examples"]] == logged["examples"]
    _, batches = run_batches(poisoned_config())
    assert [e["label"] for e in told["examples"]] == batches.batch_at(step - 1)["label"].tolist()
    losses = [example["loss"] for example in told["examples"]]
    assert all(0 < example["t"] <= 1 for example in told["examples"])
    if step == NAN:
        assert [k for k, loss in enumerate(losses) if loss is None] == [3]
        assert "block_0/key/kernel" in told["bad_gradients"]
    else:
        weighted = [example["weight"] * example["loss"] for example in told["examples"]]
        assert np.mean(weighted) == pytest.approx(told["loss"], rel=1e-5)
        assert told["bad_gradients"] == []


def test_a_replay_of_no_step_is_refused(straight, tmp_path):
    for step in (-1, 0, LAST + 1):
        with pytest.raises(UserError, match=rf"--replay_step={step}: .* 1 to 32"):
            replay.replay(poisoned_config(), straight, step)
    with pytest.raises(UserError, match=r"optim\.learning_rate: 0\.001 .*there, 0\.5 .*here"):
        replay.replay(poisoned_config(optim={"learning_rate": 0.5}), straight, 3)
    # Without a run there is its beginning.
    assert replay.replay(poisoned_config(), tmp_path / "none", 1)["step"] == 1
    assert not list(tmp_path.iterdir())


def test_the_script_prints_a_replay_and_nothing_else(finished_run):
    before = tiny_runs.snapshot(finished_run.workdir)
    done = tiny_runs.script(
        "train", *tiny_runs.tiny_flags(finished_run.workdir), "--replay_step=703"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["step"], told["skipped"], len(told["examples"])) == (703, False, 8)
    mean = np.mean([example["loss"] for example in told["examples"]])
    assert mean == pytest.approx(told["loss"], rel=1e-5)
    assert told["bad_gradients"] == []
    assert "replaying step 703 from step 700" in done.stderr
    assert tiny_runs.snapshot(finished_run.workdir) == before


INJECTIONS = {
    "nan": put(np.nan),
    "inf": put(np.inf, 0),
    "-inf": put(-np.inf, 7),
    "huge": put(1e30, 5),
    "all nan": lambda images: np.full_like(images, np.nan),
    "overflow": lambda images: 1e25 * images,
}


@pytest.mark.wide(3)
def test_many_bad_batches_leave_no_trace(tmp_path, poison):
    num_steps = 100
    rng = np.random.default_rng(0)
    steps = sorted(rng.choice(np.arange(1, num_steps + 1), 40, replace=False).tolist())
    kinds = rng.choice(list(INJECTIONS), 40)
    changes = {step: INJECTIONS[kind] for step, kind in zip(steps, kinds, strict=True)}
    config = poisoned_config(
        num_steps,
        train={"checkpoint_every": 20, "keep_checkpoints": 100, "max_skipped": 0},
        optim={"spike_sigma": None, "spike_window": None},
        ema={"warmup": True},
    )
    poison(changes)
    assert train.train(config, tmp_path) == 0
    assert [line["step"] for line in skipped(tmp_path)] == steps

    built, batches = run_batches(config)
    shapes = built.state_shapes()
    with Checkpoints(tmp_path, read_only=True) as saved:
        assert len(saved.steps()) == 5
        for step in saved.steps():
            state = saved.restore(step, shapes)
            numbers = jax.tree.leaves(jax.device_get(state._replace(key=0)))
            assert all(np.isfinite(leaf).all() for leaf in numbers), step

    # A run that never sees these batches: it only counts them.
    never, train_step = built.init_state(), built.train_step()
    place = sharding.batch_sharding(built.mesh)
    for step in range(1, num_steps + 1):
        if step in changes:
            record = never.extra[guard.NAME]
            counted = {"skipped": record["skipped"] + 1, "in_a_row": record["in_a_row"] + 1}
            extra = never.extra | {guard.NAME: counted}
            never = never._replace(step=never.step + 1, extra=extra)
        else:
            batch = sharding.put_batch(batches.batch_at(step - 1), place)
            never, _ = train_step(never, batch)
    assert tiny_runs.final(tmp_path) == {"step": num_steps, **digests(never)}
    assert digest(never.params) != digest(built.init_state().params)
