"""Where the time of a run went over its attempts, and how much of it was steps that count."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddpm_jax.reporting.report.html import Html, join, note, short, table, tag
from ddpm_jax.reporting.report.overview import MAX_ATTEMPTS, date, duration
from ddpm_jax.reporting.report.runs import Run
from ddpm_jax.runtime.ledger import PHASES

TRAIN = "train"
SAID = {"data_wait": "waiting for data"}
EXPLAINED = (
    "Compiling is that of the training step; validation and samples compile within theirs. Lost is "
    "what the attempt before had trained and not saved: steps that came again."
)


class Account(NamedTuple):
    """One attempt's time.

    Attributes:
      seconds: by phase.
      lost: seconds of training that the attempt before it lost.
      killed: whether the attempt ended without a word; its time since its last save is then in no
        phase of its own.
    """

    seconds: Mapping[str, float]
    lost: float
    killed: bool


def accounts(attempts: Sequence[Mapping[str, Any]]) -> list[Account]:
    """Of each attempt; those of earlier versions have no seconds."""
    return [_account(entry) for entry in attempts]


def share(every: Sequence[Account]) -> float | None:
    """Goodput: of all seconds of the attempts at a run, how many were steps that count.

    Steps that were lost count as time and not as good. Of a killed attempt they are added to its
    time, which its ledger has only up to its last save.
    """
    total = sum(sum(one.seconds.values()) for one in every)
    good = sum(one.seconds.get(TRAIN, 0.0) for one in every)
    for before, after in itertools.pairwise(every):
        if before.killed:
            total += after.lost
        else:
            good -= after.lost
    return max(good, 0.0) / total if total > 0 else None


def section(runs: Sequence[Run]) -> Html:
    """A table for each run: its attempts by where their seconds went."""
    return join(_of_run(run, many=len(runs) > 1) for run in runs)


def _of_run(run: Run, many: bool) -> Html:
    title = tag("h3", short(run.name)) if many else None
    attempts = [] if isinstance(run.attempts, str) else run.attempts
    every = accounts(attempts)
    goodput = share(every)
    if goodput is None:
        return join([title, note("The manifest does not say where the time went.")])
    names = list(dict.fromkeys([*PHASES, *(name for one in every for name in one.seconds)]))
    names = [name for name in names if any(one.seconds.get(name) for one in every)]
    shown = list(zip(attempts, every, strict=True))[-MAX_ATTEMPTS:]
    rows = [_row(date(entry["started_at"]), one, names) for entry, one in reversed(shown)]
    if len(every) > 1:
        together = {name: sum(one.seconds.get(name, 0.0) for one in every) for name in names}
        rows.append(_row("all", Account(together, sum(one.lost for one in every), False), names))
    head = ["started", "in all", *(SAID.get(name, short(name)) for name in names), "lost before"]
    label = f"Where the time of {short(run.name)} went"
    return join([
        title,
        note(f"Goodput {goodput:.0%}: the share of the time in steps that count. {EXPLAINED}"),
        table(head, rows, label=label, class_="tight"),
    ])  # fmt: skip


def _row(name: str, one: Account, names: Sequence[str]) -> list[str]:
    total = sum(one.seconds.values())
    cells = [one.seconds.get(phase, 0.0) for phase in names]
    return [name, duration(total), *(_cell(value, total) for value in cells), _cell(one.lost, 0)]


def _cell(seconds: float, total: float) -> str:
    if not seconds:
        return "0"
    text = f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
    return f"{text} ({seconds / total:.0%})" if total else text


def _account(entry: Mapping[str, Any]) -> Account:
    told = entry.get("goodput")
    told = told if isinstance(told, dict) else {}
    seconds, lost = told.get("seconds"), told.get("lost")
    return Account(
        {str(k): s for k, v in seconds.items() if (s := _number(v))}
        if isinstance(seconds, dict)
        else {},
        _number(lost.get("seconds")) if isinstance(lost, dict) else 0.0,
        entry.get("ended") is None,
    )


def _number(value: Any) -> float:
    """A number of seconds from a file; 0 for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e12 else 0.0
