"""A group of runs: each member is its run alone, resumes, freezes and goes on by itself."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import optax
import pytest
import tiny_runs
from tiny_runs import brief_config, final, metrics

from configs import digits_classifier, shapes
from ddpm_jax import experiment
from ddpm_jax.build import replicas
from ddpm_jax.commands.reproduce import reproduce
from ddpm_jax.commands.train import dry_run, replay, train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt, group
from ddpm_jax.measures import manifest, model_flop
from ddpm_jax.runtime import sharding
from ddpm_jax.training import replicated
from ddpm_jax.training.checkpoints import Checkpoints

STEPS = 100
# What members differ in; the third learns without a warm-up.
RATES, WARMUPS, DECAYS = (1e-3, 3e-3, 5e-4), (10, 20, 0), (0.0, 0.1, 0.01)
EMAS, LABELS, JOINTS = (0.99, 0.9, 0.999), (0.1, 0.0, 0.5), (0.0, 0.2, 0.1)


def member_config(k, **changes):
    """The config of member k: another seed, rate, weight decay, EMA decay and dropout."""
    n = k % 3
    config = brief_config(
        optim={
            "name": "adamw",
            "decay": "cosine",
            "learning_rate": RATES[n],
            "warmup_steps": WARMUPS[n],
            "weight_decay": DECAYS[n],
        },
        ema={"decay": EMAS[n]},
        diffusion={"label_dropout": LABELS[n], "joint_dropout": JOINTS[n]},
        sample={"guidance_scale": 1.0},
        train={"num_steps": STEPS},
    )
    config.seed = k
    return config_files.resolve(config_files.override(config, changes))


@pytest.fixture(scope="module")
def losses_alone():
    """The losses [STEPS] of three runs alone."""
    curves = []
    for k in range(3):
        run = experiment.build(member_config(k))
        state, step = run.init_state(), run.train_step()
        batches, place = stream(run), sharding.batch_sharding(run.mesh)
        curve = []
        for n in range(STEPS):
            state, seen = step(state, sharding.put_batch(batches.batch_at(n), place))
            curve.append(seen["loss"])
        curves.append(np.asarray(curve))
    return curves


def stream(run):
    return attempt.training_batches(run, run.source("train"))


@pytest.mark.wide(6)
@pytest.mark.parametrize(("num", "devices"), [(3, 1), (8, 8)])
def test_each_members_loss_is_that_of_its_run_alone(num, devices, losses_alone):
    configs = [member_config(k, mesh={"data": devices}) for k in range(num)]
    run = experiment.build(configs[0])
    place = replicated.members_sharding(run.mesh, num)
    step = replicas.group_step(run, num)
    states = replicated.stacked(replicas.init_states(run, range(num)), run.mesh)
    numbers = replicas.placed(replicas.numbers(configs), run)
    active = jax.device_put(np.ones(num, bool), place)
    streams = [stream(experiment.build(config)) for config in configs]
    curve = []
    for n in range(STEPS):
        batches = [batches.batch_at(n) for batches in streams]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        states, seen = step(states, sharding.put_batch(batch, place), numbers, active)
        curve.append(seen["loss"])
    curve = np.asarray(curve)
    for k in range(3):
        np.testing.assert_allclose(curve[:, k], losses_alone[k], rtol=1e-4)
    if num > 3:  # members 0 and 3 differ in their seed alone
        assert np.abs(curve[:, 0] / curve[:, 3] - 1).max() > 1e-2


def test_a_group_begins_with_the_states_of_its_runs():
    runs = [experiment.build(member_config(k)) for k in (0, 2)]
    first, third = replicas.init_states(runs[0], [0, 2])
    for ours, run in zip((first, third), runs, strict=True):
        alone = run.init_state()
        for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
        assert (jax.random.key_data(ours.key) == jax.random.key_data(alone.key)).all()


def test_numbers_are_those_of_each_member():
    plain, hiding = shapes.get_config(), shapes.get_config()
    plain.diffusion.condition_dropout = ()
    plain.optim.learning_rate, hiding.optim.learning_rate = 2e-3, 1e-2
    values = replicas.numbers([plain, hiding])
    assert values["optim.learning_rate"].tolist() == pytest.approx([2e-3, 1e-2])
    np.testing.assert_allclose(
        values["diffusion.condition_dropout"], [[0.0] * 9, [0.05] * 9], rtol=1e-6
    )
    replicas.group_step(experiment.build(hiding), 2)  # is traced
    assert "diffusion.label_dropout" not in replicas.numbers([digits_classifier.get_config()])


def test_a_part_that_compares_its_number_is_named():
    def cautious(learning_rate, *, weight_decay=0.0):
        return optax.adamw(learning_rate, weight_decay=0.0 if weight_decay < 1e-9 else weight_decay)

    config = brief_config(optim={"name": "mine:cautious", "weight_decay": 0.1})
    run = experiment.build(config, own={"mine:cautious": cautious})
    with pytest.raises(UserError, match="compares a number that is another for each member"):
        replicas.group_step(run, 2)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"config\.train\.replicas=3: a group trains in one process"
    ):
        train.train(brief(), tmp_path)


# Averages beside the first, with snapshots at a step of which there is no checkpoint.
AVERAGES = {"decays": (0.9,), "power_stds": (0.1, 0.2), "snapshots_every": 3}


def brief(**train_changes):
    return brief_config(
        train={"replicas": 3, "log_every": 1, "validate_every": 3, "keep_checkpoints": 3}
        | train_changes,
        ema=AVERAGES,
    )


def seeds(workdir):
    return [workdir / "replicas" / f"seed={seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of three seeds, trained for six steps. Not to be changed."""
    workdir = tmp_path_factory.mktemp("group") / "run"
    assert train.train(brief(), workdir, profile="4:5") == 0
    return workdir


def test_each_member_is_a_run_of_its_own(trained):
    for seed, workdir in enumerate(seeds(trained)):
        config = config_files.read(workdir)
        assert (config.seed, config.train.replicas) == (seed, 1)
        (entry,) = manifest.read(workdir / "manifest.json")
        assert entry["group"] == {"replicas": 3, "members": ["seed=0", "seed=1", "seed=2"]}
        assert (entry["seed"], entry["exit_code"], entry["ended"]) == (seed, 0, "finished")
        assert entry["final"] == final(workdir)
        assert sorted(entry["checkpoints"]) == ["2", "4", "6"]
        assert entry["checkpoints"]["6"] == final(workdir)["state_sha256"]
        lines = metrics(workdir)
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
        assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6]
        assert set(final(workdir)["averages_sha256"]) == {"0.9", "std:0.1", "std:0.2"}
    assert len({final(workdir)["params_sha256"] for workdir in seeds(trained)}) == 3


def test_the_members_of_a_group_have_its_time_and_their_own_flop(trained):
    told = [manifest.last(workdir)["goodput"]["seconds"] for workdir in seeds(trained)]
    assert len({seconds["compile"] for seconds in told}) == 1
    assert all(told[0][name] > 0 for name in ("start", "compile", "train", "checkpoint"))
    alone = model_flop.of_step(experiment.build(brief_config()))
    for workdir in seeds(trained):
        (line,) = [one for one in metrics(workdir) if one["step"] == 5]
        assert line["model_flop_per_step"] == alone
        assert line["images_per_second"] == pytest.approx(8 * line["steps_per_second"])
    (traced,) = (seeds(trained)[0] / "profile" / "plugins" / "profile").iterdir()
    assert list(traced.glob("*.xplane.pb"))


def test_a_finished_group_is_left_alone(trained, capsys):
    before = tiny_runs.snapshot(trained)
    assert train.train(brief(), trained) == 0
    assert tiny_runs.snapshot(trained) == before
    assert "have finished" in capsys.readouterr().err


@pytest.mark.wide(2)
def test_a_stopped_group_ends_in_the_same_bits(trained, tmp_path, at):
    at({3: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert train.train(brief(), tmp_path) == 75
    for workdir in seeds(tmp_path):
        (entry,) = manifest.read(workdir / "manifest.json")
        assert (entry["exit_code"], entry["reached"]) == (75, 3)
        assert not (workdir / "final.json").exists()
    assert train.train(brief(), tmp_path) == 0
    assert list(map(final, seeds(tmp_path))) == list(map(final, seeds(trained)))
    for ours, theirs in zip(seeds(tmp_path), seeds(trained), strict=True):
        for step in (3, 6):
            name = f"averages/{step}.safetensors"
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()


@pytest.mark.wide(3)
def test_a_killed_group_goes_on_from_the_newest_step_that_all_have(trained, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    first, second, _ = seeds(workdir)
    for folder in seeds(workdir):
        (folder / "final.json").unlink()
    shutil.rmtree(second / "checkpoints" / "6")
    damaged = next((first / "checkpoints" / "4").rglob("d/*"))
    damaged.write_bytes(bytes([damaged.read_bytes()[0] ^ 1]) + damaged.read_bytes()[1:])
    assert train.train(brief(), workdir) == 0
    assert "resuming at step 2" in (said := capsys.readouterr().err)
    assert "set aside as 4.bad" in said
    assert list(map(final, seeds(workdir))) == list(map(final, seeds(trained)))


@pytest.mark.wide(3)
def test_a_member_goes_on_alone_and_draws(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(seeds(trained)[1], workdir)
    changes = {"num_steps": 8, "log_every": 1, "validate_every": 3}
    config = brief_config(train=changes, ema=AVERAGES)
    config.seed = 1
    assert train.train(config, workdir) == 0
    assert final(workdir)["step"] == 8
    assert [m["step"] for m in metrics(workdir) if "loss" in m] == list(range(1, 9))
    assert [entry["group"] for entry in manifest.read(workdir / "manifest.json")] == [
        {"replicas": 3, "members": ["seed=0", "seed=1", "seed=2"]},
        {},
    ]
    drawn = experiment.load(workdir, ema="std:0.15").sample(2, seed=0)
    assert drawn.shape == (2, 8, 8, 1)


@pytest.fixture(scope="module")
def with_a_bad_member(tmp_path_factory):
    """(folders, what was raised) of three members; the second's rate is absurd."""
    folder = tmp_path_factory.mktemp("frozen")
    with pytest.raises(UserError) as raised:
        group.train_group(*three(folder, 1e38))
    return folder, str(raised.value)


def three(folder, rate):
    """The configs and workdirs of a group whose second member has this learning rate."""
    changes = {"num_steps": 12, "max_skipped": 2, "checkpoint_every": 4, "log_every": 1}
    configs = [
        brief_config(train=changes, optim={"warmup_steps": 0, "learning_rate": one})
        for one in (1e-3, rate, 2e-3)
    ]
    return configs, [folder / name for name in ("a", "b", "c")]


@pytest.mark.wide(3)
def test_a_member_gone_wrong_is_frozen_and_the_others_never_know(with_a_bad_member, tmp_path):
    folder, raised = with_a_bad_member
    assert "1 of 3 runs did not finish: b is frozen at step 3: 2 steps in a row were" in raised
    assert group.train_group(*three(tmp_path, 1e-3)) == 0
    for name in ("a", "c"):
        assert final(folder / name) == final(tmp_path / name)
        assert not (folder / name / "skipped_steps.jsonl").exists()
    (entry,) = manifest.read(folder / "b" / "manifest.json")
    assert (entry["exit_code"], entry["reached"], entry["final"]) == (2, 3, None)
    assert entry["ended"].startswith("UserError: frozen at step 3: 2 steps in a row were skipped")
    with Checkpoints(folder / "b", read_only=True) as saved:
        assert saved.steps() == [3]
    assert [line["step"] for line in metrics(folder / "b")] == [1, 2, 3]
    skipped = (folder / "b" / "skipped_steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in skipped] == [2, 3]


@pytest.mark.wide(3)
def test_a_frozen_member_stays_frozen_while_the_others_go_on(with_a_bad_member, tmp_path, capsys):
    for name in ("a", "b", "c"):
        shutil.copytree(with_a_bad_member[0] / name, tmp_path / name)
    for name in ("a", "c"):  # as if it had been killed after step 8
        (tmp_path / name / "final.json").unlink()
        shutil.rmtree(tmp_path / name / "checkpoints" / "12")
    before = tiny_runs.snapshot(tmp_path / "b")
    with pytest.raises(UserError, match="b is frozen at step 3"):
        group.train_group(*three(tmp_path, 1e38))
    assert "resuming at step 8" in capsys.readouterr().err
    assert tiny_runs.snapshot(tmp_path / "b") == before
    for name in ("a", "c"):
        assert final(tmp_path / name) == final(with_a_bad_member[0] / name)


def test_what_no_one_program_can_train_is_named(tmp_path, trained):
    def refused(*changes):
        configs = [brief_config(**change) for change in changes]
        workdirs = [tmp_path / str(k) for k in range(len(configs))]
        with pytest.raises(UserError) as raised:
            group.train_group(configs, workdirs)
        assert not any(workdir.exists() for workdir in workdirs)
        return str(raised.value)

    said = refused({}, {"data": {"batch_size": 16}})
    assert said.startswith("1 and 0 differ in data.batch_size")
    assert "learning_rate" in refused({"optim": {"learning_rate": -1.0}}, {})
    # The first of several averages may differ, but where it is one of the others too.
    first = {"ema": {"decays": (0.9,)}}
    second = {"ema": {"decays": (0.9,), "decay": 0.9}}
    assert refused(first, second).startswith("1 and 0 differ in ema.decay,")
    with pytest.raises(UserError, match="a workdir each, of different names"):
        group.train_group([brief_config()] * 2, [tmp_path / "x" / "0", tmp_path / "y" / "0"])
    with pytest.raises(UserError, match=r"config\.train\.replicas=0: need at least 1"):
        train.train(brief(replicas=0), tmp_path)
    config = brief()
    config.seed = 2**32 - 1
    with pytest.raises(UserError, match=r"seed=4294967295 on go beyond"):
        train.train(config, tmp_path)
    with pytest.raises(UserError, match=r"holds a run, and config\.train\.replicas=3"):
        train.train(brief(), seeds(trained)[0])
    with pytest.raises(UserError, match="an experiment from Python trains one run"):
        experiment.train(experiment.build(brief()), tmp_path)
    with pytest.raises(UserError, match="--replay_step looks at one run"):
        replay.replay(brief(), trained, 1)
    with pytest.raises(UserError, match="trained in one program with seed=0, seed=1, seed=2"):
        reproduce.reproduce(seeds(trained)[1] / "manifest.json", tmp_path / "again")


def test_a_group_goes_on_only_as_itself(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    with pytest.raises(UserError, match="was trained in another group, of seed=0, seed=1, seed=2"):
        train.train(brief(replicas=2, num_steps=8), workdir)


@pytest.mark.wide(3)
def test_a_dry_run_counts_all_members():
    # Of one average: what the group adds, choosing leaf by leaf who moves, grows with them.
    plain = {"ema": {"decays": (), "power_stds": (), "snapshots_every": 0}}
    cost = dry_run.dry_run(config_files.override(brief(), plain))
    run = experiment.build(brief_config())
    alone = run.train_step().lower(run.state_shapes(), run.batch_shapes()).cost_analysis()
    assert cost["replicas"] == 3
    assert cost["flop_per_step"] == pytest.approx(3 * alone["flops"], rel=0.05)
    assert cost["parameters"] == sum(x.size for x in jax.tree.leaves(run.state_shapes().params))
