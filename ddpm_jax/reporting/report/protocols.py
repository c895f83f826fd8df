"""Which figures may be compared: evaluations by protocol, each protocol with a letter."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ddpm_jax.reporting.report.evaluations import Evaluation, flat
from ddpm_jax.reporting.report.html import Html, short, table, tag
from ddpm_jax.reporting.report.runs import Run


@dataclasses.dataclass(eq=False)
class Protocol:
    """Evaluations that were measured alike.

    Attributes:
      letter: "A", "B", ... by which the page names it.
      fields: what all of them have in common, as their files have it.
      some: what those have in common that have it: the settings of a metric, the extractor.
      evaluations: the members.
    """

    letter: str
    fields: dict[str, Any]
    some: dict[str, Any]
    evaluations: list[Evaluation]

    def admits(self, evaluation: Evaluation) -> bool:
        """Whether the evaluation's figures may be compared with those of the members."""
        some = evaluation.some
        alike = all(_same(self.some[name], some[name]) for name in some if name in self.some)
        return alike and _same(self.fields, evaluation.measure)


class Protocols:
    """The protocols of all evaluations of runs, in the order in which they come."""

    def __init__(self, runs: Iterable[Run]):
        self.every: list[Protocol] = []
        self._of: dict[int, Protocol] = {}
        for run in runs:
            for evaluation in run.evaluations.evaluations:
                self._add(evaluation)

    def of(self, evaluation: Evaluation) -> Protocol:
        """The protocol of one of the evaluations."""
        return self._of[id(evaluation)]

    def _add(self, evaluation: Evaluation) -> None:
        protocol = next((p for p in self.every if p.admits(evaluation)), None)
        if protocol is None:
            protocol = Protocol(_letter(len(self.every)), evaluation.measure, {}, [])
            self.every.append(protocol)
        protocol.some |= evaluation.some
        protocol.evaluations.append(evaluation)
        self._of[id(evaluation)] = protocol


def described(protocol: Protocol) -> str:
    """A protocol in a line: "10,000 samples, features of classifier, seed 0"."""
    fields = flat(protocol.fields | protocol.some)
    num, repeats = fields.get("num_samples"), fields.get("repeats")
    parts = []
    if isinstance(num, int):
        parts.append(f"{num:,} samples")
    if isinstance(repeats, int) and repeats > 1:
        parts.append(f"{repeats} times")
    if extractor := fields.get("extractor.name"):
        parts.append(f"features of {short(extractor, 40)}")
    parts += [f"{n} {short(fields[n], 40)}" for n in ("parameters", "seed") if n in fields]
    return ", ".join(parts)


def fields_table(protocols: Sequence[Protocol]) -> Html:
    """The protocols field by field, those that differ marked."""
    fields = [flat(p.fields | p.some) for p in protocols]
    names = sorted({name for one in fields for name in one})
    rows = []
    for name in names:
        said = [_value(one.get(name, "")) for one in fields]
        kind = "value differs" if len(set(said)) > 1 else "value"
        cells = (tag("td", tag("code", text), class_=kind) for text in said)
        rows.append([tag("code", short(name)), *cells])
    head = ["field", *(protocol.letter for protocol in protocols)]
    title = "How it was measured" if len(protocols) == 1 else "How it was measured, by protocol"
    return tag("details", tag("summary", title), table(head, rows, label="Protocols"))


def _value(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,512}", value):
        return f"{value[:12]}…"  # a digest
    return "not set" if value == "" else "none" if value in (None, {}, []) else short(value)


def _same(a: Any, b: Any) -> bool:
    # Text: 1 and True are equal, and so are 1 and 1.0.
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _letter(k: int) -> str:
    return (_letter(k // 26 - 1) if k >= 26 else "") + chr(ord("A") + k % 26)
