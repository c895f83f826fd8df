"""Trainings of a sweep that share a program, as plan.json names them."""

from pathlib import Path

from ddpm_jax.sweeps import workdirs
from ddpm_jax.sweeps.sweep_file import Sweep

AUTO, ON, OFF = "auto", "on", "off"
KEY = "groups"


def read(workdir: Path) -> list[list[str]]:
    """The groups of D/plan.json, lists of trainings; none where there is no plan."""
    content = (workdirs.json_file(workdir / workdirs.PLAN) or {}).get(KEY, [])
    return [[str(name) for name in names] for names in content if isinstance(names, list)]


def units(sweep: Sweep, workdir: Path) -> list[tuple[str, ...]]:
    """What is trained by one process each: the members of a group, or one training; in order."""
    found = {name: tuple(names) for names in read(workdir) for name in names}
    return [*dict.fromkeys(found.get(name, (name,)) for name in sweep.trainings())]


def number(workdir: Path, members: tuple[str, ...]) -> int:
    """Which group of plan.json these are."""
    return read(workdir).index(list(members))
