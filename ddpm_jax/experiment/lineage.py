"""A run on record: which attempt made each of its steps, and the digest of each checkpoint."""

import dataclasses
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.measures import manifest
from ddpm_jax.measures.manifest import Entry
from ddpm_jax.training.checkpoints import Checkpoints


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
        """The attempt that made this step, counted from 1."""
        return [entry for entry in self.attempts if entry["start"] < step][-1]

    def between(self, step: int, stop: int) -> list[Entry]:
        """The attempts that made the steps after this one, up to `stop`."""
        first = self.attempt_of(step + 1)
        return [first, *(entry for entry in self.attempts if step < entry["start"] < stop)]


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


def _final(entry: Entry) -> dict[int, str]:
    final = entry["final"] or {}
    step, digest = final.get("step"), final.get("state_sha256")
    return {step: digest} if isinstance(step, int) and isinstance(digest, str) else {}
