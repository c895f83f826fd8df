"""Which trainings of a sweep go into one program: decided once, and kept in plan.json."""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.build import replicas
from ddpm_jax.commands.benchmark import groups as timing
from ddpm_jax.commands.sweep.check import config_of
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import group
from ddpm_jax.sweeps import groups, local, workdirs
from ddpm_jax.sweeps.sweep_file import Sweep

MOST = 8  # members of a group
GAIN = 1.05  # of a group's step over the steps in turn, from which `auto` takes the group
ROUNDS = 3


def decide(sweep: Sweep, workdir: Path, mode: str) -> list[list[str]]:
    """The groups of a sweep, those of plan.json and new ones of trainings that nobody has begun.

    A group that was written is never changed: with another number of members it would be another
    program, with other bits.

    Args:
      sweep: the sweep.
      workdir: its folder.
      mode: "on", "off", or "auto": where a few steps in one program take less time than in turn;
        on a CPU, which gains nothing (docs/results.md), without a try.
    """
    if mode == groups.AUTO and jax.devices()[0].platform == "cpu":
        mode = groups.OFF
    before = groups.read(workdir)
    taken = {name for names in before for name in names}
    shapes: dict[str, list[str]] = {}
    configs: dict[str, ConfigDict] = {}
    for name, cell in sweep.trainings().items():
        begun = (workdirs.folder(workdir, name) / "checkpoints").exists()
        if name in taken or begun or mode == groups.OFF:
            continue
        config = config_files.resolve(config_of(sweep, cell, workdir.absolute()))
        if replicas.trains_alone(config):
            continue
        configs[name] = config
        shapes.setdefault(config_files.sha256(replicas.shared(config)), []).append(name)
    made = []
    for names in shapes.values():
        for first in range(0, len(names), MOST):
            members = names[first : first + MOST]
            if len(members) > 1 and (mode == groups.ON or _pays(configs[members[0]], members)):
                made.append(members)
    return [*before, *made]


def train(sweep: Sweep, workdir: Path, number: int) -> int:
    """Train a group of plan.json; the exit code is that of `train_group`."""
    members = groups.read(workdir)[number]
    cells = sweep.trainings()
    if gone := [name for name in members if name not in cells]:
        raise UserError(f"group {number}: {gone[0]} is no longer in the sweep file")
    configs = [config_of(sweep, cells[name], workdir.absolute()) for name in members]
    own = experiment.imported_parts(configs[0])
    folders = [workdirs.folder(workdir, name) for name in members]
    return group.train_group(configs, folders, own=own, lock_wait=local.LOCK_WAIT)


def _pays(config: ConfigDict, members: Sequence[str]) -> bool:
    """Whether the group is faster here, by a few steps of both ways."""
    built = experiment.build(config, own=experiment.imported_parts(config))
    try:
        gain = timing.measured(built, len(members), ROUNDS)["gain"]
    except jax.errors.JaxRuntimeError as error:  # the memory of all of them is not there
        print(f"{members[0]}: not in one program ({str(error)[:100]})", file=sys.stderr)
        return False
    print(
        f"{len(members)} trainings like {members[0]}: one program is {gain:.2f} times as fast as "
        f"one after the other",
        file=sys.stderr,
    )
    return gain > GAIN
