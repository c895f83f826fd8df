"""Two results beside each other: only figures of one protocol are compared."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax import files
from ddpm_jax.commands import likelihood, results
from ddpm_jax.commands.results import Record
from ddpm_jax.errors import UserError

LIMIT = 2**24
NOTHING = "nothing"


def compare(first: str | Path, second: str | Path, allow: Sequence[str] = ()) -> str:
    """The figures of two evaluations, their difference and its interval, as a Markdown table.

    Args:
      first, second: files that `evaluate` wrote.
      allow: fields of the protocol that may differ: "sampling.num_steps", or a group of them.

    Raises:
      UserError: for files that are no results, protocols that differ (naming each field), or
        results that have no figure in common.
    """
    a, b = read(first), read(second)
    differing = dict(_differences(*_of_both(a["protocol"], b["protocol"])))
    refused = {
        field: both
        for field, both in differing.items()
        if not any(field == name or field.startswith(f"{name}.") for name in allow)
    }
    if refused:
        told = "; ".join(f"{field}: {x} and {y}" for field, (x, y) in refused.items())
        raise UserError(
            f"these are not measured alike: {told}; evaluate one of them again, or name with "
            "--allow what may differ"
        )
    rows = _rows(a["samples"], b["samples"])
    rows["held-out data"] = (_of_data(a), _of_data(b))
    parts = [_table(title, *both) for title, both in rows.items() if {*both[0]} & {*both[1]}]
    if not parts:
        raise UserError(f"{first} and {second} have no figure in common")
    header = [f"A: {_named(a, first)}", f"B: {_named(b, second)}"]
    header += [f"{field}: {x} and {y}" for field, (x, y) in differing.items()]
    return "\n\n".join(["\n".join(header), *parts])


def read(path: str | Path) -> dict[str, Any]:
    """What `evaluate` wrote to a file. Raises UserError for another file."""
    try:
        found = files.read_json(path, LIMIT)
        if not isinstance(found, dict) or found.get("format") != results.FORMAT:
            raise ValueError(f"it is no result of format {results.FORMAT}; evaluate again")
        shape = {"protocol": dict, "run": dict, "samples": list, "held_out_data": dict}
        for name, kind in shape.items():
            if not isinstance(found.get(name), kind):
                raise ValueError(f"its {name} is missing")
        for row in (*found["samples"], found["held_out_data"]):
            if not isinstance(row, dict) or not isinstance(row.get("metrics"), dict):
                raise ValueError("a row of it has no metrics")
            if any(not isinstance(record, dict) for record in row["metrics"].values()):
                raise ValueError("a metric of it is no record")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be compared ({reason})") from error
    return found


def _of_both(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[dict, dict]:
    """The protocols with only those metrics that both measured."""
    common = {*a.get("metrics", {})} & {*b.get("metrics", {})}

    def reduced(one: Mapping[str, Any]) -> dict:
        kept = {n: v for n, v in one.get("metrics", {}).items() if n in common}
        return {**one, "metrics": kept}

    return reduced(a), reduced(b)


def _differences(a: Any, b: Any, name: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """The fields in which two values differ, each with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(a.get(key, NOTHING), b.get(key, NOTHING), inner)
    elif a != b:
        yield name, (_short(a), _short(b))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _rows(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Title to the metrics of both, of rows of equal settings; of single rows, whatever theirs."""
    if len(a) == len(b) == 1:
        titles = dict.fromkeys((_setting(a[0]), _setting(b[0])))
        return {" and ".join(titles): (a[0]["metrics"], b[0]["metrics"])}
    other = {_setting(row): row["metrics"] for row in b}
    return {
        _setting(row): (row["metrics"], other[_setting(row)]) for row in a if _setting(row) in other
    }


def _setting(row: Mapping[str, Any]) -> str:
    known = {n: v for n, v in row.items() if n not in ("metrics", "nfe")}
    return ", ".join(f"{n} {v:g}" for n, v in known.items()) or "samples"


def _of_data(one: Mapping[str, Any]) -> dict[str, Record]:
    """The likelihood of held-out data; what else is said of them is the same for every model."""
    found = one.get("held_out_data", {}).get("metrics", {})
    return {name: r for name, r in found.items() if name.startswith(likelihood.PREFIX)}


def _table(title: str, a: Mapping[str, Record], b: Mapping[str, Record]) -> str:
    lines = [f"| {title} | A | B | B - A |", "| --- | --- | --- | --- |"]
    for name in (n for n in a if n in b):
        cells = (a[name], b[name], _difference(a[name], b[name]))
        lines.append(f"| {name} | {' | '.join(results.text(cell) for cell in cells)} |")
    return "\n".join(lines)


def _difference(a: Record, b: Record) -> Record | None:
    """B - A; its interval as of independent samples, so wider than need be with equal seeds."""
    if a.get("value") is None or b.get("value") is None:
        return None
    value = b["value"] - a["value"]
    ends = [one.get(n) for one in (a, b) for n in ("low", "high")]
    if any(end is None for end in ends):
        return {"value": value}
    below = math.hypot(b["value"] - b["low"], a["high"] - a["value"])
    above = math.hypot(b["high"] - b["value"], a["value"] - a["low"])
    return {"value": value, "low": value - below, "high": value + above}


def _named(result: Mapping[str, Any], path: str | Path) -> str:
    run = result["run"]
    return f"{path}, step {run.get('checkpoint_step')}, state {str(run.get('checkpoint'))[:12]}"
