"""What was run: a card for each run, its attempts, and its config where it is not the default."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from ddpm_jax.reporting.report.axes import number
from ddpm_jax.reporting.report.charts import COLOURS
from ddpm_jax.reporting.report.curves import Points
from ddpm_jax.reporting.report.html import Html, join, note, short, table, tag
from ddpm_jax.reporting.report.runs import Run, distances

MAX_OVERRIDES = 3000  # characters of a command line
MAX_FIELDS = 400
VERSIONS = ("jax", "python")  # of the many that a manifest holds
MAX_ATTEMPTS = 12  # of a run: the newest


def cards(runs: Sequence[Run]) -> Html:
    """The runs in a few figures each."""
    return tag("div", *(_card(run, k) for k, run in enumerate(runs)), class_="cards")


def heading(run: Run, colour: int, level: str = "h3") -> Html:
    """A run's name behind its colour."""
    dot = tag("span", class_=f"swatch c{colour % COLOURS}", aria_hidden="true")
    return tag(level, dot, " ", short(run.name))


def attempts(runs: Sequence[Run]) -> Html:
    """The attempts at each run, as its manifest has them."""
    return join(_attempts(run, many=len(runs) > 1) for run in runs)


def config(runs: Sequence[Run], defaults: Mapping[str, Any]) -> Html:
    """The fields that differ from the default in some run; those that differ between runs first."""
    every = list(dict.fromkeys(name for run in runs for name in (*defaults, *run.config)))
    changed = [n for n in every if any(_of(r.config, n) != _of(defaults, n) for r in runs)]
    if not changed:
        return note("Every field of the config is the default.")
    differing = [n for n in changed if len({repr(_of(r.config, n)) for r in runs}) > 1]
    shared = set(changed) - set(differing)
    rows = []
    for name in [*differing, *(n for n in changed if n in shared)][:MAX_FIELDS]:
        cells = [tag("code", short(name)), _value(_of(defaults, name), "value")]
        for run in runs:
            value = _of(run.config, name)
            kind = "" if name in shared else "differs"
            kind = kind or ("changed" if value != _of(defaults, name) else "")
            cells.append(_value(value, f"value {kind}".strip()))
        rows.append(cells)
    text = f"{len(changed)} of {len(every)} fields are not the default."
    if len(runs) > 1:
        text += (
            f" The {len(differing)} in which the runs differ come first, on a coloured ground."
            if differing
            else " The runs do not differ in any field."
        )
    if len(changed) > MAX_FIELDS:
        text += f" {len(changed) - MAX_FIELDS} more are left out."
    head = ["field", "default", *(short(run.name) for run in runs)]
    return join([note(text), table(head, rows, label="Config fields that are not the default")])


def _of(config: Mapping[str, Any], name: str) -> Any:
    value = config.get(name, "(no such field)")
    return list(value) if isinstance(value, tuple) else value  # as JSON has it


def _value(value: Any, kind: str) -> Html:
    text = "none" if value is None else "(empty)" if value == "" else short(value)
    return tag("td", tag("code", text), class_=kind)


def _card(run: Run, colour: int) -> Html:
    entries = [
        ("data", f"{_get(run, 'data.name')}, {_size(run)}"),
        ("network", _network(run)),
        ("schedule", run.config.get("diffusion.schedule")),
        ("prediction", run.config.get("diffusion.prediction")),
        ("sampler", _sampler(run)),
        *_figures(run),
    ]  # fmt: skip
    pairs = [
        tag("div", tag("dt", name), tag("dd", short(value))) for name, value in entries if value
    ]
    return tag("article", heading(run, colour), tag("dl", pairs), class_="card")


def _figures(run: Run) -> Iterable[tuple[str, str]]:
    if not isinstance(run.metrics, str):
        loss, held_out = (run.metrics.points(name) for name in ("loss", "validation_loss"))
        curve = run.metrics.curves.get("loss")
        if curve is not None and np.isfinite(curve.last):
            total = _get(run, "train.num_steps")
            of = f" of {total:,}" if isinstance(total, int) else ""
            yield "steps", f"{curve.last:,.0f}{of}"
            value = None if curve.lost else loss
            yield "last loss", "not a finite number" if value is None else number(value.mean[-1])
        if held_out is not None:
            yield "best validation", _least(held_out)
        for name, title in distances(run):
            distance = run.metrics.points(name)
            if distance is not None:
                yield f"best {title}", _least(distance)
    if not isinstance(run.attempts, str) and run.attempts:
        seconds = [_seconds(one) for one in run.attempts]
        durations = [s for s in seconds if s is not None]
        if durations:
            yield "time", duration(sum(durations)) + (" at least" if None in seconds else "")
        last = run.attempts[-1]
        devices = last["devices"]
        yield "devices", f"{devices.get('count')} {devices.get('kind')}"
        yield "code", _commit(last)


def _least(points: Points) -> str:
    best = points.mean.argmin()
    return f"{number(points.mean[best])} at step {number(points.steps[best])}"


def _network(run: Run) -> str:
    text = short(_get(run, "model.name"))
    if not isinstance(run.drawn, str):
        text += f", {number(run.drawn.parameters)} parameters"
    return text


def _sampler(run: Run) -> str:
    """How it draws; "" for a kind of run that has no sampler."""
    name = run.config.get("sample.sampler")
    return f"{name}, {_get(run, 'sample.num_steps')} steps" if name else ""


def _size(run: Run) -> str:
    size, channels = _get(run, "data.image_size"), _get(run, "data.channels")
    return "x".join(map(short, size if isinstance(size, list | tuple) else [size])) + (
        " in colour" if channels == 3 else ""
    )


def _get(run: Run, name: str) -> Any:
    return run.config.get(name, "unknown")


def _attempts(run: Run, many: bool) -> Html:
    title = tag("h3", short(run.name)) if many else None
    if isinstance(run.attempts, str):
        return join([title, note(run.attempts)])
    if not run.attempts:
        return join([title, note("The manifest holds no attempt.")])
    rows = [
        [date(one["started_at"]), f"{one['start']:,}", _step(one["reached"]),
         duration(_seconds(one)), short(one["ended"] or "running, or killed"),
         tag("code", _commit(one)), _versions(one), short(one["machine"].get("cpu", "unknown")),
         _overrides(one)]
        for one in reversed(run.attempts[-MAX_ATTEMPTS:])
    ]  # fmt: skip
    older = len(run.attempts) - len(rows)
    head = [
        "started",
        "from step",
        "saved at",
        "took",
        "ended",
        "code",
        "versions",
        "machine",
        "overrides",
    ]
    label = f"Attempts at {short(run.name)}"
    return join([
        title,
        table(head, rows, label=label, class_="tight"),
        note(f"{older} older attempts are left out; manifest.json has them.") if older else None,
    ])  # fmt: skip


def _overrides(attempt: Mapping[str, Any]) -> Html:
    words = " ".join(map(str, attempt["overrides"])) or "none"
    return tag("td", tag("code", short(words, MAX_OVERRIDES)), class_="value")


def _commit(attempt: Mapping[str, Any]) -> str:
    git = attempt["git"]
    commit = str(git.get("commit") or "unknown")[:10]
    return short(commit + (" with changes" if git.get("dirty") else ""))


def _versions(attempt: Mapping[str, Any]) -> str:
    content = attempt.get("versions")
    versions = content if isinstance(content, dict) else {}
    texts = [f"{name} {short(versions[name], 40)}" for name in VERSIONS if name in versions]
    return ", ".join(texts) or "unknown"


def _step(step: Any) -> str:
    return f"{step:,}" if isinstance(step, int) else "never"


def date(text: str) -> str:
    """A time of a manifest, to the minute."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}"
    except ValueError:
        return short(text)


def _seconds(attempt: Mapping[str, Any]) -> float | None:
    try:
        began, ended = (datetime.fromisoformat(attempt[n]) for n in ("started_at", "ended_at"))
        return max((ended - began).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that they have."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    texts = [f"{value} {unit}" for value, unit in parts if value]
    return " ".join(texts[:2]) or "0 s"
