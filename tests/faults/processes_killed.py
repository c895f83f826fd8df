"""Runs of scripts/train.py that are killed, at any time or inside of what must not be cut."""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import script_server
import tiny_runs
from faults.victim import POINTS

VICTIM = Path(__file__).with_name("victim.py")
NUM_STEPS, INTERVAL = 150, 5
SHORT = {
    "train__num_steps": NUM_STEPS,
    "train__checkpoint_every": INTERVAL,
    "train__log_every": 1,
    "train__sample_every": 0,
    "train__validate_every": 50,
    "optim__decay": "constant",
    "model__dropout": 0.1,
    "data__flip": True,
}


def flags(workdir, **changes):
    """The command's flags: so short that most of its time is saving, with all that is random."""
    return tiny_runs.tiny_flags(workdir, tiny_runs.BRIEF, **SHORT | changes)


def run(workdir, **changes):
    """To its end: (exit code, stderr)."""
    done = tiny_runs.script("train", *flags(workdir, **changes))
    return done.returncode, done.stderr


def killed_at(workdir, point, count):
    """Run until it kills itself at a point; its exit code, -9 or 0 where it never came there."""
    return script_server.run(
        [str(VICTIM), point, str(count), *flags(workdir)], tiny_runs.environment(), timeout=300
    ).returncode


def signalled(workdir, seconds, *numbers, from_first_step=False):
    """Run, and send signals after some seconds; (exit code, stderr)."""
    process = tiny_runs.forked("train", *flags(workdir))
    if from_first_step:
        before = steps_logged(workdir)
        while steps_logged(workdir) <= before and process.poll() is None:
            time.sleep(0.01)
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.005)
    for number in numbers:
        process.send_signal(number)
    return process.wait(timeout=300), process.said()[1]


def steps_logged(workdir):
    """The last step in metrics.jsonl, or 0."""
    try:
        lines = (Path(workdir) / "metrics.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return 0
    steps = [int(found[1]) for line in lines if (found := re.match(rb'\{"step": (\d+),', line))]
    return max(steps, default=0)


def kill_at_random(workdir, rng, seconds):
    """One kill of a run that takes so many seconds; (how, exit code)."""
    if rng.random() < 0.5:
        point = POINTS[rng.integers(len(POINTS))]
        few = point in ("restore", "restored", "json")
        count = int(rng.integers(1, 3 if few else 12))
        return point, killed_at(workdir, point, count)
    early = rng.random() < 0.3
    after = rng.uniform(0, seconds if early else seconds / 3)
    code, _ = signalled(workdir, after, signal.SIGKILL, from_first_step=not early)
    return "any time" if early else "in training", code


def digest(workdir):
    """state_sha256 of a finished run."""
    return tiny_runs.final(workdir)["state_sha256"]


def usable_cores():
    """How many processes may run at a time."""
    return len(os.sched_getaffinity(0))


def generator(*numbers):
    """Random numbers of their own for each run of a campaign."""
    return np.random.default_rng(list(numbers))
