"""What a proof compares: equal sweeps are equal, and every kind of difference is named."""

import json

import numpy as np
import pytest

from ddpm_jax.sweeps import proof, prove, sweep_file, workdirs
from ddpm_jax.sweeps.watched import COMPILE, EVALUATE, SAVE, STEP, Process

TEXT = """
from configs import digits
from ddpm_jax.sweeps import seeds
get_config = digits.get_config
def sweep():
    return seeds(2)
evaluate = {"metrics": ("kid",)}
"""


@pytest.fixture
def made(tmp_path):
    """A sweep and two equal folders of it, as far as a proof looks."""
    (tmp_path / "two.py").write_text(TEXT)
    sweep = sweep_file.read(tmp_path / "two.py")
    for root in (tmp_path / "a", tmp_path / "b"):
        for k, name in enumerate(sweep.trainings()):
            folder = workdirs.folder(root, name)
            folder.mkdir(parents=True)
            (folder / "final.json").write_text(json.dumps({"step": 4, "state_sha256": str(k)}))
            lines = [{"step": 2, "loss": 1.0}, {"step": 2, "validation_loss": 1.0}]
            lines.append({"step": 4, "loss": 0.5})
            (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        for name in proof.TABLES:
            (root / name).write_text("table")
    return sweep, tmp_path / "a", tmp_path / "b"


def test_equal_sweeps_are_equal(made):
    assert proof.compare(*made) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("final.json", '{"step": 4, "state_sha256": "9"}', "state_sha256 0 and 9"),
        ("final.json", "", "state_sha256 0 and None"),
        ("deeper/final.json", "{}", "final.json is not there once"),
        ("metrics.jsonl", '{"step": 2, "loss": 1.0}\n' * 2, "a step stands there twice"),
        ("../../report.csv", "other", "report.csv is not the same"),
    ],
)
def test_each_difference_is_named(made, file, text, message):
    sweep, a, b = made
    path = workdirs.folder(b, next(iter(sweep.trainings()))) / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    (line,) = proof.compare(sweep, a, b)
    assert message in line


def test_a_missing_table_is_a_difference(made):
    sweep, a, b = made
    for root in (a, b):
        (root / "report.json").unlink()
    assert proof.compare(sweep, a, b) == ["report.json is not the same"]


def test_times_are_a_uniform_law_of_their_seed_and_every_kind_has_its_turn():
    made = []
    plan = prove._at_times([1.0, 2.0, 3.0, 4.0], made, np.random.default_rng(0), "local", "")
    worker = Process("1", "cell", STEP)
    assert plan(0.9, [worker]) is None
    assert plan(1.1, []) is None  # there is nothing to be killed: as soon as there is
    # One that could not be done is tried again: the next one comes when it has been made.
    assert plan(10.0, [worker])[0] == plan(10.0, [worker])[0] == prove.KINDS["local"][0]
    kinds = []
    for _ in range(4):
        kinds.append(plan(10.0, [worker])[0])
        made.append(prove.Kill(10.0, kinds[-1], STEP, "cell"))
    assert kinds == list(prove.KINDS["local"])
    assert plan(10.0, [worker]) is None


def test_what_was_not_hit_twice_is_aimed_at(made):
    sweep, *_ = made
    kills = [prove.Kill(0.0, "worker SIGKILL", phase, "") for phase in (COMPILE, COMPILE, STEP)]
    assert prove._lacking(sweep, kills) == [STEP, SAVE, EVALUATE]
    plan = prove._aimed(sweep, kills, np.random.default_rng(0), "local")
    assert plan(0.0, [Process("1", "c", COMPILE)]) is None
    what, process = plan(0.0, [Process("1", "c", COMPILE), Process("2", "c", SAVE)])
    assert (what, process.id) == ("worker SIGKILL", "2")
