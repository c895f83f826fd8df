"""DIR/manifest.json: what each attempt at a run needs to be repeated."""

# Over 300 lines: a record whose fields stand beside what writes, reads and checks them.

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files, own_code
from ddpm_jax.data import Source, fingerprint
from ddpm_jax.errors import PeerLost, UserError
from ddpm_jax.measures import goodput, manifest_shape
from ddpm_jax.measures.goodput import Lost
from ddpm_jax.reporting.not_fatal import NotFatal, say
from ddpm_jax.runtime import digests, environment, files, sources
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.training import watchdog
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.step_files import Record

FILE = "manifest.json"
MAX_BYTES = 2**26  # an attempt has some ten thousand, and 80 for each checkpoint

Entry = dict[str, Any]

# Every field of an entry and its type. "reached" is null until a checkpoint was written, and
# "ended", "exit_code" and "ended_at" stay so where a process was killed.
FIELDS: dict[str, tuple[type, ...]] = {
    "config": (dict,),
    "config_sha256": (str,),
    "overrides": (list,),
    "allowed_drift": (list,),
    "seed": (int,),
    "git": (dict,),
    "versions": (dict,),
    "jax": (dict,),
    "variables": (dict,),
    "machine": (dict,),
    "devices": (dict,),
    "mesh": (dict,),
    "process_count": (int,),
    "data": (dict,),
    "start": (int,),
    "reached": (int, type(None)),
    "checkpoints": (dict,),
    "final": (dict, type(None)),
    "started_at": (str,),
    "ended_at": (str, type(None)),
    "exit_code": (int, type(None)),
    "ended": (str, type(None)),
    "changed_in_python": (dict,),
    "own_parts": (dict,),
    "frozen": (dict,),
    "group": (dict,),
    "init_from": (dict,),
    "goodput": (dict,),
    "forecast": (dict,),
}
# What the config does not say, as `parts_of`.
PARTS = ("changed_in_python", "frozen", "own_parts")
# Those that manifests of earlier versions lack, each empty there.
LATER = (*PARTS, "group", "init_from", "goodput", "forecast")


class Manifest:
    """The attempt that this process makes, as the last entry of DIR/manifest.json.

    A context manager around the attempt, inside of the workdir's lock: what is raised is how it
    ended. Before `begin`, and in all processes but the first, nothing is written. A manifest that
    cannot be written is said in one line and stops no run.

    Args:
      workdir: DIR.
      overrides: the fields of the config that the command line set, as it spelled them.
      ledger: where the attempt's seconds go; None for one that begins now.
    """

    def __init__(
        self, workdir: str | Path, overrides: Sequence[str] = (), ledger: Ledger | None = None
    ):
        self._path = Path(workdir) / FILE
        self._overrides = list(overrides)
        self._ledger = ledger or Ledger()
        self._lost = Lost(0, 0.0)
        self._not_fatal = NotFatal(self._path)
        self._earlier: list[Entry] = []
        self._entry: Entry | None = None

    def begin(
        self,
        config: ConfigDict,
        mesh: Mapping[str, int],
        data: Mapping[str, Any],
        start: int,
        drift: Sequence[tuple[str, Any, Any]] = (),
        parts: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        group: Mapping[str, Any] = MappingProxyType({}),
        init_from: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write that the attempt begins.

        A manifest that is damaged is set aside as manifest.json.bad, and a new one begins.

        Args:
          config: resolved.
          mesh: {axis: devices}.
          data: {"train": fingerprint, "validation": fingerprint or None, "class_names": [name]}.
          start: the step it goes on from, 0 for a new run.
          drift: (field, value there, value here) of what was allowed to change.
          parts: what the config does not say, as `parts_of`.
          group: of a run that is trained in one program with others, which shapes its bits:
            {"replicas": K, "members": [names of their workdirs]}.
          init_from: `StartingWeights.record`; {} for none, and where a checkpoint is resumed.
        """
        if jax.process_index() == 0:
            self._earlier = self._read()
            self._lost = goodput.lost(self._path.parent, start)
        self._entry = {
            "config": config.to_dict(),
            "config_sha256": config_files.sha256(config.to_dict()),
            "overrides": self._overrides,
            "allowed_drift": [{"field": n, "there": old, "here": new} for n, old, new in drift],
            "seed": config.seed,
            **environment.describe(),
            "mesh": dict(mesh),
            "process_count": jax.process_count(),
            "data": dict(data),
            "start": start,
            "reached": None,
            "checkpoints": {},
            "final": None,
            "started_at": _now(),
            "ended_at": None,
            "exit_code": None,
            "ended": None,
            **{name: dict(parts.get(name, {})) for name in PARTS},
            "group": dict(group),
            "init_from": dict(init_from),
            "goodput": {},
            "forecast": {},
        }
        self._write()

    def follow(self, checkpoints: Checkpoints) -> Callable[[int, Any], None]:
        """What is to be called with (step, state) after each save: `reached`."""

        def action(step: int, _: Any) -> None:
            try:
                records = checkpoints.records()
            except UserError:  # reported where it was to be saved, and here with the next ones
                records = {}
            self.reached(step, records)

        return action

    def reached(self, step: int, records: Mapping[int, Record]) -> None:
        """Write which step is handed in to be saved, and the checkpoints so far.

        Args:
          step: of the state.
          records: of the checkpoints on disk; those that the attempt found there are the earlier
            attempts'. A save in the background is entered the next time.
        """
        if self._entry is None:
            return
        recorded = self._entry["checkpoints"]
        for saved, record in records.items():
            if saved > self._entry["start"] and str(saved) not in recorded:
                recorded[str(saved)] = record.state_sha256
        self._entry["reached"] = step
        self._write()

    @property
    def workdir(self) -> Path:
        """DIR."""
        return self._path.parent

    def forecast(self, content: Mapping[str, Any]) -> None:
        """Take down what the run will take, with the next thing that is written."""
        if self._entry is not None:
            self._entry["forecast"] = dict(content)

    def attempts(self) -> list[Entry]:
        """The attempts so far, oldest first, this one last; its time is told up to now."""
        if self._entry is None:
            return self._earlier
        self._entry["goodput"] = goodput.entry(self._ledger.seconds(), self._lost)
        return [*self._earlier, self._entry]

    def end(self, code: int, final: Mapping[str, Any] | None = None, how: str = "") -> int:
        """Write that the attempt ended, and with which exit code, which is returned.

        Args:
          code: of the process.
          final: what final.json holds, if the run is finished.
          how: in words; by default what the code means.
        """
        if self._entry is not None:
            self._entry["final"] = final and dict(final)
            usual = "finished" if code == 0 else "stopped and saved"
            self._entry |= {"ended_at": _now(), "exit_code": code, "ended": how or usual}
            self._write()
        return code

    def stuck(self) -> None:
        """Write that the process ends itself because no step came."""
        self.end(watchdog.EXIT_STUCK, how="stuck: no step within config.train.step_deadline")

    def lost(self, line: str) -> None:
        """Write that the process ends itself because another one of the run is gone."""
        self.end(PeerLost.exit_code, how=line)

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._entry is not None and self._entry["ended"] is None:
            # What the process will exit with: see cli.run.
            code = error.exit_code if isinstance(error, UserError) else 1
            code = 130 if isinstance(error, KeyboardInterrupt) else code
            if isinstance(error, SystemExit) and isinstance(error.code, int):
                code = error.code
            message = " ".join(str(error).split())[:300]
            self.end(code, how=f"{type(error).__name__}: {message}".rstrip(": "))

    def _read(self) -> list[Entry]:
        if not self._path.exists():
            return []
        try:
            return read(self._path)
        except UserError as error:
            numbers = (f"-{n}" if n else "" for n in range(10_000))
            aside = next(p for n in numbers if not (p := _beside(self._path, n)).exists())
            with contextlib.suppress(OSError):
                self._path.rename(aside)
            say(f"{error}; set aside as {aside.name}, and a new one begins")
            return []

    def _write(self) -> None:
        if jax.process_index() != 0 or self._entry is None:
            return
        with self._not_fatal:
            files.write_json(self._path, {"attempts": self.attempts()})


def read(path: str | Path) -> list[Entry]:
    """The attempts that a manifest holds, oldest first.

    Raises:
      UserError: if there is no such file, or it is no manifest.
    """
    try:
        content = files.read_json(path, MAX_BYTES)
        manifest_shape.check(content, FIELDS, LATER)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path} is not a manifest: {reason}") from error
    return content["attempts"]


def fingerprints(train: Source, validation: Source | None) -> dict[str, str | None]:
    """The fingerprints of the data of a run; None without validation."""
    return {
        "train": fingerprint(train),
        "validation": None if validation is None else fingerprint(validation),
    }


def parts_of(experiment: Experiment) -> dict[str, dict[str, str]]:
    """What makes a run and stands in no config, by its digest; all are {} for most runs.

    Returns:
      {"changed_in_python": {part: digest of its source and of what it was made with}, "frozen":
      {name: digest of the tree}, "own_parts": {"package.module:name": sha256 of its source}}.
    """
    return {
        "changed_in_python": {n: sources.digest_of(p) for n, p in experiment.changed.items()},
        "frozen": {name: digests.digest(tree) for name, tree in experiment.frozen.items()},
        "own_parts": own_code.sources(experiment.own),
    }


def last(workdir: Path) -> Entry | None:
    """The newest attempt; None where no manifest tells."""
    try:
        attempts = read(workdir / FILE)
    except UserError:
        return None
    return attempts[-1] if attempts else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.bad{suffix}")


def _now() -> str:
    # Only told: nothing is computed from a clock, which may jump.
    return datetime.now(UTC).isoformat(timespec="seconds")
