"""The folder where benchmarks add up: a JSON file of each run, and one page of them all."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

PAGE = "index.md"


def check(folder: Path) -> None:
    """Raises UserError for a folder that is not there, or has no page to add to."""
    if not (folder / PAGE).is_file():
        raise UserError(
            f"--append={folder}: there is no {PAGE} in such a folder; name docs/benchmarks, or "
            f"make an empty {PAGE}"
        )


def append(folder: Path, figures: Mapping[str, Any], command: str, text: str) -> Path:
    """Add a run: a JSON file of a name that is new, and a part at the end of the page.

    Args:
      folder: as `check` takes it.
      figures: as `benchmark.benchmark` gives them.
      command: that measured them.
      text: of the figures.

    Returns:
      The JSON file.
    """
    machine, versions = figures["machine"], figures["versions"]
    where = machine["device"] if machine["device"] != "cpu" else machine["cpu"] or "cpu"
    title = f"{figures['date']}, {machine['devices']} x {where}, {machine['cores']} cores"
    path = _new_file(folder, slug(f"{figures['date']} {where} {machine['cores']} cores"))
    files.write_json(path, {"command": command, **figures})
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    part = (
        f"\n## {title}\n\n```sh\n{command}\n```\n\n{known}. All of it: [{path.name}]({path.name})."
    )
    page = folder / PAGE
    before = page.read_text(encoding="utf-8").rstrip("\n")
    with files.whole(page) as partial:
        partial.write_text(f"{before}\n{part}\n\n{text.rstrip()}\n", encoding="utf-8")
    return path


def slug(text: str) -> str:
    """A name for a file, of small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _new_file(folder: Path, name: str) -> Path:
    """NAME.json, or NAME-2.json and so on where that is taken."""
    names = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next(path for n in names if not (path := folder / f"{n}.json").exists())
