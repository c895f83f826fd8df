"""Runs on record: which attempt made each step, the digest of each checkpoint, how two differ."""

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import recorded
from ddpm_jax.measures import manifest
from ddpm_jax.measures.manifest import Entry
from ddpm_jax.training.checkpoints import Checkpoints

# Of an entry: the fields that each group of differences reads, beside config and data.
GROUPS = {
    "code": ("git",),
    "packages": ("versions",),
    "devices": ("machine", "devices", "mesh", "process_count", "jax", "variables"),
    "own parts": ("own_parts", "changed_in_python", "frozen"),
}


@dataclasses.dataclass(frozen=True)
class Lineage:
    """What a workdir says of its run.

    Attributes:
      workdir: the run's.
      attempts: those that led to where it is, oldest first, each good from its start on up to the
        next one's; what a later attempt made again counts as made by that.
      digests: {step: state_sha256} of every checkpoint on record, also of those that were deleted
        since; of a step that is on disk what is there, since that is what the run would go on from.
      on_disk: those that are there.
      altered: steps of which the disk has another state than the manifest says was written.
    """

    workdir: Path
    attempts: list[Entry]
    digests: dict[int, str]
    on_disk: dict[int, str]
    altered: list[int]

    @property
    def manifest(self) -> Path:
        """Where the attempts were read from."""
        return self.workdir / manifest.FILE

    @property
    def first(self) -> int:
        """The step that the first attempt on record began with."""
        return int(self.attempts[0]["start"])

    @property
    def last(self) -> int:
        """The newest step on record."""
        return max(self.digests)

    def attempt_of(self, step: int) -> Entry:
        """The attempt that made this step, counted from 1; the first for what is not on record."""
        made = (entry for entry in reversed(self.attempts) if entry["start"] < step)
        return next(made, self.attempts[0])

    def between(self, step: int, stop: int) -> list[Entry]:
        """The attempts that made the steps after this one, up to `stop`."""
        first = self.attempt_of(step + 1)
        return [first, *(entry for entry in self.attempts if step < entry["start"] < stop)]


class Common(NamedTuple):
    """What the digests on record say of two runs.

    Attributes:
      equal: the last step at which both are known to be equal; None where no step is.
      parts: the first one at which both have a checkpoint and they differ; None where none do.
      last: the last step that both came to.
    """

    equal: int | None
    parts: int | None
    last: int


def read(flag: str, workdir: str | Path) -> Lineage:
    """What a workdir says of its run; only reads.

    Args:
      flag: that names the workdir, for errors.
      workdir: the run's.

    Raises:
      UserError: for a folder that holds no run, a manifest that cannot be read, or a run that has
        no checkpoint on record.
    """
    workdir = Path(workdir)
    path = workdir / manifest.FILE
    if not path.is_file():
        raise UserError(
            f"--{flag}={workdir} holds no run: there is no {manifest.FILE}; name the workdir of one"
        )
    attempts: list[Entry] = []
    written: dict[int, str] = {}
    for entry in manifest.read(path):
        start = entry["start"]
        attempts = [one for one in attempts if one["start"] < start] + [entry]
        written = {step: digest for step, digest in written.items() if step <= start}
        written |= {int(step): digest for step, digest in entry["checkpoints"].items()}
        written |= _final(entry)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        on_disk = {step: record.state_sha256 for step, record in checkpoints.records().items()}
    if not attempts or not (written or on_disk):
        raise UserError(
            f"--{flag}={workdir}: no checkpoint of this run is on record, so there is nothing to "
            "compare; name a run that has written one"
        )
    altered = sorted(s for s, digest in on_disk.items() if written.get(s, digest) != digest)
    return Lineage(workdir, attempts, written | on_disk, on_disk, altered)


def common(a: Lineage, b: Lineage) -> Common:
    """Where two runs agree and where they part, by the digests on record."""
    shared = sorted(a.digests.keys() & b.digests.keys())
    parts = next((step for step in shared if a.digests[step] != b.digests[step]), None)
    equal = [s for s in shared if a.digests[s] == b.digests[s] and (parts is None or s < parts)]
    return Common(max(equal, default=None), parts, min(a.last, b.last))


def differences(a: Lineage, b: Lineage, step: int) -> dict[str, list[str]]:
    """{group: lines} of what two runs' manifests say differently of the steps after this one."""
    step = min(step, a.last - 1, b.last - 1)
    one, other = a.attempt_of(step + 1), b.attempt_of(step + 1)
    groups = _between(one, other, ("in a", "in b"), (a.manifest, b.manifest))
    for name, run in (("a", a), ("b", b)):
        for before, entry in itertools.pairwise(run.between(step, run.last)):
            sides = (f"in {name} before", f"from step {entry['start']:,} on")
            for group, lines in _between(before, entry, sides, (run.manifest,) * 2).items():
                groups[group] += lines
    return groups


def _between(
    there: Entry, here: Entry, sides: tuple[str, str], paths: tuple[Path, Path]
) -> dict[str, list[str]]:
    configs = [recorded.parsed(e["config"], p) for e, p in zip((there, here), paths, strict=True)]
    lines = {
        name: recorded.differences(there, here, sides[1], fields, sides[0])
        for name, fields in GROUPS.items()
    }
    lines["config"] = [
        f"{name}: {old} {sides[0]}, {new} {sides[1]}"
        for name, old, new in config_files.differences(*configs)
    ]
    data = ("data", "init_from") if there["start"] == here["start"] == 0 else ("data",)
    lines["data"] = recorded.differences(there, here, sides[1], data, sides[0])
    return {name: lines[name] for name in ("code", "packages", "config", "data", *GROUPS)}


def _final(entry: Entry) -> dict[int, str]:
    final = entry["final"] or {}
    step, digest = final.get("step"), final.get("state_sha256")
    return {step: digest} if isinstance(step, int) and isinstance(digest, str) else {}
