"""The cost of a run before it is spent, and beside it what it took."""

import json
import types

import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.sweep import measure
from ddpm_jax.commands.train import dry_run, train
from ddpm_jax.config import config_files
from ddpm_jax.experiment import forecast, settling
from ddpm_jax.measures import manifest
from ddpm_jax.sweeps import sweep_file

STEPS = {"num_steps": 24, "checkpoint_every": 12}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(workdir, what a measured dry run said of the run that then was trained there)."""
    workdir = tmp_path_factory.mktemp("measured")
    config = brief_config(train=STEPS)
    told = dry_run.dry_run(config, measure=True, workdir=workdir)
    assert [path.name for path in workdir.iterdir()] == ["forecast.json"]
    assert train.train(config, workdir) == 0
    return workdir, told


def test_a_forecast_is_laid_out_from_what_was_timed(measured):
    _, told = measured
    timing, made = told["measured"], told["forecast"]
    assert 0 <= timing["data_wait"] < 1
    # Nothing is looked at on the way of this run.
    seconds = timing["start_seconds"] + timing["compile_seconds"] + 24 / timing["steps_per_second"]
    assert made["seconds"] == pytest.approx(seconds)
    assert made["hours"] == made["device_hours"] == pytest.approx(seconds / 3600)
    assert made["bytes_per_device"] == told["bytes_per_device"]["total"]
    # Parameters, their average and Adam's two moments.
    state = told["bytes_per_device"]["state"]
    assert state == pytest.approx(4 * 4 * told["parameters"], rel=0.01)
    # Two saves of parameters, average and both moments.
    assert made["disk_bytes"] == pytest.approx(2 * 4 * 4 * told["parameters"], rel=0.02)


def test_at_the_end_the_forecast_stands_beside_what_it_took(measured):
    workdir, told = measured
    entry = manifest.last(workdir)
    assert entry["forecast"]["forecast"] == told["forecast"]
    actual, seconds = entry["forecast"]["actual"], entry["goodput"]["seconds"]
    assert actual["num_steps"] == 24
    assert actual["seconds"] == pytest.approx(sum(seconds.values()), abs=0.5)
    trained = seconds["train"] + seconds["data_wait"]
    assert actual["steps_per_second"] == pytest.approx(24 / trained, rel=0.05)
    files = [p for p in (workdir / "checkpoints").rglob("*") if p.is_file()]
    assert actual["disk_bytes"] == sum(path.stat().st_size for path in files)
    # The state and the batch were there; what was held beside them is the machine's to say.
    assert actual["bytes_per_device"] >= told["bytes_per_device"]["state"]


def test_a_run_forecasts_itself_over_its_attempts(tmp_path, capsys):
    config = brief_config(train=STEPS | {"num_steps": 26})
    assert train.train(config, tmp_path, until=24) == 75
    (made,) = manifest.last(tmp_path)["forecast"].values()  # nothing actual yet
    assert made["num_steps"] == 26
    capsys.readouterr()
    assert train.train(config, tmp_path) == 0
    first, second = manifest.read(tmp_path / "manifest.json")
    assert second["forecast"]["forecast"] == made
    both = [sum(entry["goodput"]["seconds"].values()) for entry in (first, second)]
    assert second["forecast"]["actual"]["seconds"] == pytest.approx(sum(both), abs=0.5)
    *_, line, last = capsys.readouterr().err.splitlines()
    assert line.startswith("forecast beside actual: ")
    assert " steps/s, was " in line
    assert last.startswith("done: 26 steps")


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"config_sha256": "KEY"}', '{"config_sha256": "KEY", "forecast": [1]}', "OTHER"],
)
def test_what_is_no_forecast_of_this_run_is_left_alone(tmp_path, content):
    config = config_files.resolve(brief_config())
    settling.write(tmp_path, config, {"num_steps": 6, "seconds": 3.0, "told": "much"})
    assert settling.read(tmp_path, config) == {"num_steps": 6, "seconds": 3.0}
    other = config_files.override(config, {"model": {"channels": 16}})
    assert settling.read(tmp_path, other) is None
    assert settling.read(tmp_path, config, num=2) is None
    key = json.loads((tmp_path / "forecast.json").read_text())["config_sha256"]
    (tmp_path / "forecast.json").write_text(content.replace("KEY", key))
    assert settling.read(tmp_path, config) is None


def test_what_is_drawn_and_validated_counts_as_steps_of_as_many_flop():
    train_fields = {"num_steps": 100, "validate_every": 30, "sample_every": 50}
    sampling = {"num_steps": 7, "grid_size": 12, "guidance_scale": 2.0, "sampler": "ddim"}
    built = experiment.build(
        brief_config(train=train_fields | {"validate_examples": 18}, sample=sampling)
    )
    # A step is 3 passes of 8 images. Validation comes at 30, 60, 90 and 100, 18 images once each;
    # a grid at 50 and 100, of 12 images, 7 evaluations with and without their label.
    assert forecast.besides(built) == pytest.approx((4 * 18 + 2 * 12 * 7 * 2) / (3 * 8))
    unguided = config_files.override(built.config, {"sample": {"guidance_scale": 1.0}})
    assert forecast.besides(experiment.build(unguided)) == pytest.approx(
        (4 * 18 + 2 * 12 * 7) / (3 * 8)
    )
    assert forecast.besides(experiment.build(brief_config())) == 0


@pytest.mark.parametrize(("kept", "every", "states"), [(3, 10, 4), (9, 40, 2), (1, 0, 1)])
def test_the_latest_checkpoints_and_the_best_stay(kept, every, states):
    config = brief_config(
        train={"num_steps": 100, "keep_checkpoints": kept, "checkpoint_every": every}
    )
    assert forecast.disk_bytes(config, 1000, parameters=10) == states * 1000


def test_every_snapshot_stays():
    config = brief_config(
        train={"num_steps": 100, "keep_checkpoints": 1, "checkpoint_every": 100},
        ema={"power_stds": (0.05, 0.1), "snapshots_every": 20},
    )
    # Two float32 averages of 10 parameters, five times.
    assert forecast.disk_bytes(config, 1000, parameters=10) == 1000 + 5 * 2 * 10 * 4


def test_a_device_holds_its_part_of_the_batch():
    # Of a program that was compiled for eight devices: what the compiler says is of one of them.
    built = experiment.build(brief_config(mesh={"data": 4, "fsdp": 2}))
    batch = 1 * (64 + 1) * 4  # an image and its label of the eight
    stats = types.SimpleNamespace(
        argument_size_in_bytes=1000 + batch,
        temp_size_in_bytes=5000,
        output_size_in_bytes=1016,
        alias_size_in_bytes=1000,
    )
    # The batch of the running step and two ahead; metrics are made beside the new state.
    assert forecast.bytes_per_device(built, stats) == {
        "state": 1000,
        "batches": 3 * batch,
        "activations": 5016,
        "total": 6016 + 3 * batch,
    }
    assert forecast.bytes_per_device(built, None) == {}


@pytest.mark.wide(3)
def test_a_group_is_forecast_as_one_program():
    told = dry_run.dry_run(
        brief_config(train={"replicas": 2, "num_steps": 10, "checkpoint_every": 0}), measure=True
    )
    assert told["forecast"]["num_steps"] == 10
    assert told["forecast"]["disk_bytes"] == pytest.approx(2 * 4 * 4 * told["parameters"], rel=0.02)
    assert told["measured"]["steps_per_second"] > 0


def test_the_flag_is_a_bool_or_measure(tmp_path):
    flags = tiny_runs.tiny_flags(tmp_path / "run", tiny_runs.BRIEF, data__data_dir="/none")
    for word in ("--dry_run", "--dry_run=true"):
        done = tiny_runs.in_process("train", *flags, word)
        assert (done.returncode, "forecast" in json.loads(done.stdout)) == (0, False)
    assert not list(tmp_path.iterdir())
    bad = tiny_runs.in_process("train", *flags, "--dry_run=twice")
    assert bad.returncode == 2
    assert "dry_run=twice" in bad.stderr
    assert len(bad.stderr.splitlines()) == 1
    # To train, which fails where it reads what is not there.
    missing = [flag for flag in flags if "config.data.name" not in flag]
    done = tiny_runs.in_process("train", *missing, "--nodry_run", "--config.data.name=folder")
    assert done.returncode == 2
    assert "/none" in done.stderr


def test_a_sweep_is_measured_by_the_same_steps(tmp_path):
    (tmp_path / "two.py").write_text(
        "import tiny_runs\n"
        "from ddpm_jax.sweeps import seeds\n"
        "def get_config():\n"
        "    return tiny_runs.brief_config(train={'num_steps': 50, 'checkpoint_every': 0})\n"
        "def sweep():\n"
        "    return seeds(2)\n"
    )
    found = measure.forecast(sweep_file.read(str(tmp_path / "two.py")), tmp_path / "sweep")
    (one,) = found["programs"]
    each = one["compile_seconds"] + 50 / one["steps_per_second"]
    assert found["hours"] == pytest.approx(2 * each / 3600)
    assert found["disk_bytes"] == 2 * one["state_bytes"]
    assert one["step_bytes"] > one["state_bytes"]
