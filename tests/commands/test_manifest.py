"""manifest.json: what it holds of each attempt, and what no mishap does to it."""

import copy
import hashlib
import json
import shutil
import subprocess
from datetime import datetime

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import command_words
from ddpm_jax.commands.train import train
from ddpm_jax.data import build_source, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.measures import manifest
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.runtime import environment
from ddpm_jax.training.step_files import Record

SECRET = "hunter2-planted-in-the-environment"


def attempts(workdir):
    return json.loads((workdir / "manifest.json").read_text())["attempts"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a run of six steps, in an environment that holds a secret."""
    workdir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_SECRET_ACCESS_KEY", "JAX_SECRET", "XLA_SECRET", "TF_SECRET", "GIT_TOKEN"):
            patch.setenv(name, SECRET)
        patch.setenv("OMP_NUM_THREADS", "2")
        overrides = ["--config.optim.decay=constant"]
        assert train.train(brief_config(), workdir, overrides=overrides) == 0
    return workdir


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def test_an_attempt_is_told_whole(finished):
    (entry,) = attempts(finished)
    assert set(entry) == set(manifest.FIELDS)
    saved = json.loads((finished / "config.json").read_text())
    assert entry["config"] == saved
    canonical = json.dumps(saved, sort_keys=True, separators=(",", ":"))
    assert entry["config_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert entry["overrides"] == ["--config.optim.decay=constant"]
    assert entry["seed"] == saved["seed"]
    assert (entry["start"], entry["reached"]) == (0, 6)
    assert entry["data"] == {"train": fingerprint(build_source("digits", "train")),
                             "validation": None, "class_names": list("0123456789")}  # fmt: skip
    assert entry["versions"]["jax"] == jax.__version__
    assert entry["versions"]["numpy"] == np.__version__
    assert entry["versions"]["ddpm_jax"]
    assert entry["jax"]["enable_x64"] is False
    assert entry["devices"] == {"platform": "cpu", "kind": "cpu", "count": len(jax.devices())}
    assert entry["mesh"] == {"data": 1, "fsdp": 1}
    assert (entry["process_count"], entry["exit_code"], entry["ended"]) == (1, 0, "finished")
    began, ended = (datetime.fromisoformat(entry[key]) for key in ("started_at", "ended_at"))
    assert began.utcoffset().total_seconds() == 0
    assert began <= ended


def test_its_digests_are_those_of_the_run(finished):
    (entry,) = attempts(finished)
    assert entry["final"] == tiny_runs.final(finished)
    assert set(entry["checkpoints"]) == {"2", "4", "6"}  # the first is gone from the disk by now
    assert entry["checkpoints"]["6"] == tiny_runs.final(finished)["state_sha256"]
    assert len(set(entry["checkpoints"].values())) == 3


def test_nothing_of_the_environment_is_told_beyond_the_list(finished):
    assert SECRET not in (finished / "manifest.json").read_text()
    told = attempts(finished)[0]["variables"]
    assert told["OMP_NUM_THREADS"] == "2"
    assert set(told) <= set(environment.VARIABLES)


def test_a_finished_run_gets_no_further_entry(copied):
    before = (copied / "manifest.json").read_bytes()
    assert train.train(brief_config(), copied) == 0
    assert (copied / "manifest.json").read_bytes() == before


class Killed(BaseException):
    """Stands for a SIGKILL: nothing behind it runs, but what must."""


def test_a_killed_attempt_leaves_its_entry_and_the_next_one_adds_its_own(
    tmp_path, finished, monkeypatch
):
    seen = []
    advance = Progress.advance

    def die(self):
        advance(self)
        seen.append(copy.deepcopy(attempts(tmp_path)))
        if len(seen) == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", die)
        patch.setattr(manifest.Manifest, "__exit__", lambda *_: None)  # a SIGKILL runs none
        with pytest.raises(Killed):
            train.train(brief_config(), tmp_path)
    (first,), (last,) = seen[0], seen[3]
    unknown = {"reached": None, "ended_at": None, "exit_code": None, "ended": None, "final": None}
    assert {key: first[key] for key in unknown} == unknown
    assert last == first | {
        "reached": 2,
        "checkpoints": last["checkpoints"],
        "goodput": last["goodput"],
    }
    assert last["start"] == 0
    assert attempts(tmp_path) == [last]

    assert train.train(brief_config(), tmp_path) == 0
    killed, resumed = attempts(tmp_path)
    assert killed == last
    assert resumed["start"] in (2, 4)
    assert resumed["final"] == tiny_runs.final(tmp_path) == tiny_runs.final(finished)
    # Each step is told once, by the attempt that wrote it, with the digest of a run not killed.
    assert not set(killed["checkpoints"]) & set(resumed["checkpoints"])
    straight = attempts(finished)[0]["checkpoints"]
    told = killed["checkpoints"] | resumed["checkpoints"]
    assert told.items() <= straight.items()
    assert "6" in resumed["checkpoints"]


def test_an_error_is_how_an_attempt_ended(tmp_path, monkeypatch):
    def fail(self):
        raise UserError("no such\nluck")

    monkeypatch.setattr(Progress, "advance", fail)
    with pytest.raises(UserError):
        train.train(brief_config(), tmp_path)
    (entry,) = attempts(tmp_path)
    assert (entry["exit_code"], entry["ended"]) == (2, "UserError: no such luck")
    assert entry["final"] is None


DAMAGES = {
    "truncated": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "\0\xff" + text,
    "another shape": lambda text: "[1, 2]",
    "no attempts": lambda text: '{"attempts": {}}',
    "not an entry": lambda text: '{"attempts": [{"config": {}}]}',
    "no step": lambda text: text.replace('"4":', '"../4":'),
    "no members": lambda text: text.replace('"group": {}', '"group": {"members": 3}'),
    "too deep": lambda text: "[" * 100_000,
    "empty": lambda text: "",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_manifest_is_set_aside(finished, tmp_path, capsys, damage):
    path = tmp_path / "manifest.json"
    bad = damage((finished / "manifest.json").read_text())
    (tmp_path / "manifest.json.bad").write_text("an earlier one")
    path.write_text(bad)
    with pytest.raises(UserError, match="is not a manifest"):
        manifest.read(path)
    begun = manifest.Manifest(tmp_path)
    begun.begin(brief_config(), {"data": 1}, {"train": "a", "validation": None}, 6)
    assert begun.end(75) == 75
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "set aside as manifest.json.bad-1" in said[0]
    assert (tmp_path / "manifest.json.bad-1").read_text() == bad
    assert (tmp_path / "manifest.json.bad").read_text() == "an earlier one"
    (entry,) = manifest.read(path)
    assert (entry["start"], entry["ended"]) == (6, "stopped and saved")


def test_a_damaged_manifest_stops_no_run(copied, capsys):
    (copied / "manifest.json").write_text("{")
    assert train.train(brief_config(train={"num_steps": 8}), copied) == 0
    assert "set aside as manifest.json.bad," in capsys.readouterr().err
    (entry,) = attempts(copied)
    assert (entry["start"], entry["reached"]) == (6, 8)
    assert set(entry["checkpoints"]) == {"8"}  # that of step 6 is still on the disk


def test_neither_a_full_disk_nor_a_clock_that_jumps_stops_a_run(tmp_path, monkeypatch, capsys):
    class Backwards(datetime):
        now_is = 4e9

        @classmethod
        def now(cls, tz=None):
            cls.now_is -= 1e9
            return datetime.fromtimestamp(cls.now_is, tz)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "datetime", Backwards)
    told = manifest.Manifest(tmp_path)
    told.begin(brief_config(), {"data": 1}, {"train": "a", "validation": None}, 0)
    with monkeypatch.context() as patch:
        patch.setattr(manifest.files, "write_json", full)
        told.reached(2, {2: Record(2, {}, {}, None)})
    assert "No space left on device" in capsys.readouterr().err
    told.end(0)
    (entry,) = manifest.read(tmp_path / "manifest.json")
    assert entry["ended_at"] < entry["started_at"]
    assert entry["checkpoints"] == {"2": hashlib.sha256().hexdigest()}  # of no leaves


def test_the_commit_is_known_and_whether_the_code_is_that(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True,
                              capture_output=True)  # fmt: skip
        return done.stdout

    nothing = dict.fromkeys(("commit", "dirty", "diff_sha256"))
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    assert environment.git_state(code) == nothing
    git("init", "-q")
    # In a repository that does not hold it, as an installed package in somebody's own.
    assert environment.git_state(code) == nothing
    git("add", ".")
    git("commit", "-qm", "first")
    clean = environment.git_state(code)
    commit = git("rev-parse", "HEAD").decode().strip()
    assert (clean["commit"], clean["dirty"]) == (commit, False)
    (code / "a.py").write_text("2")
    dirty = environment.git_state(code)
    assert (dirty["commit"], dirty["dirty"]) == (commit, True)
    assert dirty["diff_sha256"] == hashlib.sha256(git("diff", "HEAD")).hexdigest()
    (code / "a.py").write_text("1")
    (tmp_path / "results").write_text("no code")
    assert environment.git_state(code) == clean
    (code / "b.py").write_text("new")
    assert environment.git_state(code)["dirty"] is True


def test_a_git_that_hangs_or_is_missing_holds_nothing_up(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(environment, "GIT_SECONDS", 0.2)
    for path in (f"{tmp_path}:/bin:/usr/bin", str(tmp_path / "none")):
        monkeypatch.setenv("PATH", path)
        assert environment.git_state(tmp_path)["commit"] is None


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--config=a.py", "--workdir=w", "--config.seed=1"], ["--config.seed=1"]),
        (["--config.seed", "1", "--config", "a.py"], ["--config.seed=1"]),
        (["-config.optim.x", "-1e-3"], ["-config.optim.x=-1e-3"]),
        (["--noconfig.data.flip", "--config.ema.warmup"],
         ["--noconfig.data.flip", "--config.ema.warmup"]),
        (["--compile_cache=config.x"], []),
    ],
)  # fmt: skip
def test_overrides_are_what_the_command_line_set(words, found):
    assert command_words.overrides(["train.py", *words]) == found
