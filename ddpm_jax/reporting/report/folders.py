"""Folders of a workdir: what lies in them, within bounds."""

import itertools
import os
import pathlib
import re

MAX_ENTRIES = 100_000  # of a folder


def listed(folder: pathlib.Path, ending: str) -> list[pathlib.Path]:
    """The files of a folder with this ending, by name and number; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in itertools.islice(entries, MAX_ENTRIES)]
    except OSError:
        return []
    fitting = [name for name in names if name.endswith(ending) and name[0] != "."]
    return [folder / name for name in sorted(fitting, key=_counted)]


def _counted(name: str) -> list[tuple[int, str]]:
    """ddim_5 before ddim_10: digits compare as numbers."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(int(part), "") if k % 2 else (0, part) for k, part in enumerate(parts)]
