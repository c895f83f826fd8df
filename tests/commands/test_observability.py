"""Where a run's time goes, what shows its metrics, and the traces of its steps."""

import contextlib
import dataclasses
import gzip
import json
import math
import shutil
import struct
import time
from datetime import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.experiment.profiling import Profile
from ddpm_jax.measures import manifest
from ddpm_jax.reporting import wandb_runs
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime.ledger import PHASES, Ledger

# Killed after step 6, whose last checkpoint is of step 3; nothing but metrics.jsonl is written.
CONFIG = {"num_steps": 8, "checkpoint_every": 3, "log_every": 1, "writers": ()}


def goodputs(workdir):
    return [entry["goodput"] for entry in manifest.read(workdir / "manifest.json")]


# --- goodput


def test_every_second_of_an_attempt_is_somewhere(finished_run):
    (entry,) = manifest.read(finished_run.workdir / "manifest.json")
    seconds, lost = entry["goodput"]["seconds"], entry["goodput"]["lost"]
    began, ended = (datetime.fromisoformat(entry[name]) for name in ("started_at", "ended_at"))
    # These two are told in whole seconds, and data were read before the first.
    assert sum(seconds.values()) > (ended - began).total_seconds() - 1
    assert sum(seconds.values()) - seconds["start"] < (ended - began).total_seconds() + 2
    spent = {name for name, value in seconds.items() if value > 0}
    assert spent == {*PHASES, "forecast"} - {"evaluate"}  # it measured nothing
    assert lost == {"steps": 0, "seconds": 0}
    lines = [line for line in tiny_runs.metrics(finished_run.workdir) if "loss" in line]
    assert lines[-1]["compile_seconds"] == pytest.approx(seconds["compile"], abs=1e-3)
    # The lines' rates are of the time that the ledger has for the steps.
    trained = sum(10 / line["steps_per_second"] for line in lines)
    assert trained == pytest.approx(seconds["train"] + seconds["data_wait"], rel=0.3)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing behind it runs, but what must."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(workdir, {step: steps/s that was logged before}) of a run that was killed and went on."""
    workdir = tmp_path_factory.mktemp("killed")
    steps = []
    advance = Progress.advance

    def die(self):
        advance(self)
        steps.append(None)
        if len(steps) == 6:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", die)
        patch.setattr(manifest.Manifest, "__exit__", lambda *_: None)  # a SIGKILL runs none
        with pytest.raises(Killed):
            train.train(brief_config(train=CONFIG), workdir)
    logged = {line["step"]: line["steps_per_second"] for line in tiny_runs.metrics(workdir)}
    assert train.train(brief_config(train=CONFIG), workdir) == 0
    return workdir, logged


def test_what_a_kill_cost_is_told_by_the_attempt_after_it(killed):
    workdir, logged = killed
    assert [*logged] == [1, 2, 3, 4, 5]
    first, second = goodputs(workdir)
    assert first["lost"]["steps"] == 0
    assert second["lost"]["steps"] == 2  # 4 and 5; nothing was logged of the sixth
    expected = 1 / logged[4] + 1 / logged[5]
    assert second["lost"]["seconds"] == pytest.approx(expected, abs=1e-3)


# --- the profile


def trace_of(workdir):
    """The two files of a trace: what xprof reads, and Perfetto's events."""
    (folder,) = (workdir / "profile" / "plugins" / "profile").iterdir()
    (planes,) = folder.glob("*.xplane.pb")
    with gzip.open(folder / "perfetto_trace.json.gz") as stream:
        return jax.profiler.ProfileData.from_file(str(planes)), json.load(stream)


@contextlib.contextmanager
def debug_nans():
    """As JAX_DEBUG_NANS=1 sets it."""
    jax.config.update("jax_debug_nans", True)
    try:
        yield
    finally:
        jax.config.update("jax_debug_nans", False)


@pytest.mark.wide(3)
def test_a_trace_has_the_steps_that_were_asked_for(killed, tmp_path, capsys):
    with debug_nans():  # which lets a run be that has none
        assert train.train(brief_config(train=CONFIG), tmp_path, profile="3:5") == 0
    assert f"steps 3 to 5 are traced in {tmp_path / 'profile'}" in capsys.readouterr().err
    planes, perfetto = trace_of(tmp_path)
    steps = [
        dict(event.stats)["step_num"]
        for plane in planes.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert sorted(steps) == [3, 4, 5]
    named = [event for event in perfetto["traceEvents"] if event.get("name") == "train"]
    assert [event["ph"] for event in named] == ["X"] * 3
    assert all(event["dur"] > 0 for event in named)
    # Looking changes nothing.
    assert tiny_runs.final(tmp_path) == tiny_runs.final(killed[0])


def test_a_trace_ends_with_the_run_and_none_is_of_what_was_made(tmp_path):
    assert train.train(brief_config(), tmp_path, profile="2:6", until=4) == 75
    assert trace_of(tmp_path)
    with pytest.raises(UserError, match="--profile=4:6: the run has made its steps up to 4; name"):
        train.train(brief_config(), tmp_path, profile="4:6")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "need START:STOP"),
        ("2:x", "need START:STOP"),
        ("0:3", "need 1 <= START <= STOP <= 6"),
        ("4:3", "need 1 <= START <= STOP <= 6"),
        ("5:7", r"need 1 <= START <= STOP <= 6 \(config.train.num_steps\)"),
    ],
)
def test_steps_that_there_are_not_cannot_be_traced(tmp_path, text, said):
    config = brief_config(data={"name": "folder", "data_dir": "/none"})  # it is not read
    with pytest.raises(UserError, match=f"--profile={text}: {said}"):
        train.train(config, tmp_path / "run", profile=text)
    assert not (tmp_path / "run").exists()


def test_a_trace_that_cannot_be_written_stops_no_run(tmp_path):
    (tmp_path / "profile").write_text("in the way")
    said = []
    with Profile(range(2, 4), tmp_path, Ledger(), said.append) as profile:
        step = profile.around(lambda state, batch: (state + batch, {}), 0)
        assert [step(10, k)[0] for k in range(4)] == [10, 11, 12, 13]
    assert len(said) == 1
    assert said[0].startswith(f"cannot write {tmp_path / 'profile'} (")


# --- NaNs


@pytest.mark.wide(3)
def test_debug_nans_ends_a_run_at_its_first_nan(tmp_path):
    run = experiment.build(brief_config())
    objective = run.objective

    def outcome(*args, **trees):
        made = objective(*args, **trees)
        return made._replace(loss=jnp.log(-made.loss))

    run = dataclasses.replace(run, objective=dataclasses.replace(objective, outcome=outcome))
    with debug_nans(), pytest.raises(FloatingPointError, match="nan"):
        experiment.train(run, tmp_path)
    assert manifest.last(tmp_path)["ended"].startswith("FloatingPointError: invalid value")


# --- writers


def test_metrics_are_kept_where_nothing_shows_them(killed):
    workdir, _ = killed
    assert [line["step"] for line in tiny_runs.metrics(workdir)] == [*range(1, 9)]
    assert not (workdir / "tensorboard").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("tensorbord",), "no writer 'tensorbord'; did you mean tensorboard"),
        (("tensorboard", "wandb"), r"wandb is not installed: pip install 'ddpm_jax\[wandb\]', or"),
    ],
)
def test_a_writer_that_is_not_there_is_refused_before_anything_is_read(
    tmp_path, monkeypatch, names, said
):
    monkeypatch.setattr(wandb_runs.importlib.util, "find_spec", lambda name: None)
    config = brief_config(data={"name": "folder", "data_dir": "/none"}, train={"writers": names})
    with pytest.raises(UserError, match=f"config.train.writers=.*{said}"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def offline(monkeypatch):
    """wandb's own package, without any network."""
    pytest.importorskip("wandb", reason="the extra [wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def records(path):
    """The records of a file of wandb's: protocol buffers in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""  # behind wandb's own header
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if (left := 2**15 - place % 2**15) < 7:  # no header fits into the rest of a block
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(path):
    """(run id, [the values that were logged, as JSON]) of a file of wandb's that has its end."""
    until, found = time.monotonic() + 60, []
    while not found or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < until, "wandb's own process does not end its file"
        time.sleep(0.05)
        found = list(records(path))
    (run,) = [one.run for one in found if one.WhichOneof("record_type") == "run"]
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.WhichOneof("record_type") == "history"
    ]
    return run.run_id, rows


def test_every_attempt_is_one_run_of_wandb(offline, tmp_path):
    picture = np.zeros((4, 4, 1), np.uint8)
    lines = {4: {"loss": 0.5, "mfu": "unknown"}, 8: {"loss": 0.25, "rate": math.nan}}
    for start, (step, values) in zip((0, 4), lines.items(), strict=True):
        names = ("tensorboard", "wandb")
        with MetricWriter(tmp_path, start, names=names, config={"seed": start}) as writer:
            writer.scalars(step, values)
            writer.image(step, "samples", picture)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    ids, rows = zip(*map(history, files), strict=True)
    assert set(ids) == {(tmp_path / "wandb" / "run_id").read_text().strip()}
    for (step, values), (numbers, shown) in zip(lines.items(), rows, strict=True):
        assert (numbers["step"], numbers["loss"]) == (step, values["loss"])
        assert not {"mfu", "rate"} & set(numbers)  # what is no number, and what is not finite
        assert (shown["step"], "samples" in shown) == (step, True)
    assert [line["loss"] for line in tiny_runs.metrics(tmp_path)] == [0.5, 0.25]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_what_goes_wrong_with_wandb_stops_no_run(offline, tmp_path, monkeypatch):
    import wandb

    calls = []

    def fail(**options):
        calls.append(options["id"])
        raise wandb.errors.CommError("no such\nserver")

    monkeypatch.setattr(wandb, "init", fail)
    said = []
    with MetricWriter(tmp_path, say=said.append, names=("wandb",)) as writer:
        for step in (1, 2):
            writer.scalars(step, {"loss": 1.0})
    assert said == [
        f"cannot write {tmp_path / 'wandb'} (CommError: no such server); the run goes on"
    ]
    assert len(calls) == 1  # it may take a minute to fail
    assert [line["step"] for line in tiny_runs.metrics(tmp_path)] == [1, 2]


def test_a_damaged_id_of_wandb_is_made_anew(tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run_id").write_bytes(b"\xff../..")
    made = wandb_runs.WandbRun(tmp_path, {})._run_id()
    assert made.isalnum()
    assert wandb_runs.WandbRun(tmp_path, {})._run_id() == made
    shutil.rmtree(tmp_path / "wandb")
    assert wandb_runs.WandbRun(tmp_path, {})._run_id() != made
