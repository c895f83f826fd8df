"""Processes killed and stopped: the same command again ends as if nothing had happened.

A short form of scripts/fault_campaign.py; docs/reliability.md holds what the long one found.
"""

import re
import shutil
import signal

import pytest
from faults import processes_killed as killed

from ddpm_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _brief():
    """Runs of twelve checkpoints; the campaign's have thirty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(killed.SHORT, "train__num_steps", 60)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The digest of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    code, said = killed.run(workdir)
    assert code == 0, said
    return killed.digest(workdir)


@pytest.mark.wide(6)
def test_a_kill_inside_of_what_must_not_be_cut_leaves_no_trace(straight, tmp_path):
    # One run that dies at one place after the other, each time a little further on.
    for point in ("saved", "after rename", "clean-up", "restored"):
        before = killed.steps_logged(tmp_path)
        count = 1 if point in ("restore", "restored") else 3
        assert killed.killed_at(tmp_path, point, count) == -signal.SIGKILL, point
        with Checkpoints(tmp_path, read_only=True) as saved:
            for step in saved.steps():
                saved.verify(step)
        assert killed.steps_logged(tmp_path) >= before or point.startswith("restore")
    code, said = killed.run(tmp_path)
    assert code == 0, said
    assert "resuming at step" in said
    assert killed.digest(tmp_path) == straight
    # What the kills left behind was cleared away.
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert all(name.isdecimal() for name in names), names


def test_a_kill_at_any_time_leaves_no_trace(straight, tmp_path):
    rng = killed.generator(0)
    code, _ = killed.signalled(tmp_path, rng.uniform(0, 1), signal.SIGKILL, from_first_step=True)
    assert code in (0, -signal.SIGKILL)
    code, said = killed.run(tmp_path)
    assert code == 0, said
    assert killed.digest(tmp_path) == straight


@pytest.mark.wide(6)
def test_a_stop_loses_no_step_and_a_damaged_newest_one_costs_an_interval(straight, tmp_path):
    code, said = killed.signalled(tmp_path, 0.2, signal.SIGTERM, from_first_step=True)
    assert code == 75, said
    stopped = int(re.search(r"stopped and saved at step (\d+) of", said)[1])
    assert stopped == killed.steps_logged(tmp_path)

    # On top of it the newest checkpoint is cut: the one before it is used, and the end is the same.
    with Checkpoints(tmp_path, read_only=True) as saved:
        before = saved.steps()[-2] if len(saved.steps()) > 1 else None
    if before is None:
        code, said = killed.signalled(tmp_path, 0.5, signal.SIGTERM, from_first_step=True)
        with Checkpoints(tmp_path, read_only=True) as saved:
            stopped, before = saved.steps()[-1], saved.steps()[-2]
    shutil.rmtree(tmp_path / "checkpoints" / str(stopped) / "state")
    code, said = killed.run(tmp_path)
    assert code == 0, said
    assert f"set aside as {stopped}.bad" in said
    assert f"resuming at step {before}:" in said
    assert killed.digest(tmp_path) == straight
