"""The files in DIR/eval: what was measured of a run, and by which protocol."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddpm_jax.reporting.report import folders
from ddpm_jax.reporting.report.html import short
from ddpm_jax.reporting.report.labels import CLASSIFIER, Label, Labels, of_content
from ddpm_jax.runtime import files

FORMAT = 2
NO_LABELS: Labels = {}
MAX_FILES = 200
MAX_ROWS = 100  # of a file
MAX_METRICS = 40
# Fields of the protocol that only some figures depend on.
OF_SOME = ("extractor", "reference", "real", "likelihood", "pairs", "classes", "probe")


class Measured(NamedTuple):
    """A metric: its value, and the interval around it if it has one; None where it is undefined.

    `repeats` are the values of each set of samples, where there were several.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    repeats: tuple[float, ...] = ()


class Row(NamedTuple):
    """What was measured in one setting: {"guidance_scale": 2.0, "nfe": 50}, {"fid": Measured}."""

    setting: dict[str, Any]
    metrics: dict[str, Measured]


class Evaluation(NamedTuple):
    """A file of measures.

    Attributes:
      name: of the file, without its ending.
      protocol: how it was measured, as in the file.
      run: what was measured: the step of the checkpoint, and more.
      rows: of samples.
      held_out: the same measures of held-out data, and the model's likelihood of them.
      written: when.
      by_time: how a classifier reads held-out images, a row for each t.
      labels: what is said of figures, by their names.
    """

    name: str
    protocol: dict[str, Any]
    run: dict[str, Any]
    rows: list[Row]
    held_out: dict[str, Measured]
    written: str
    by_time: Sequence[Row] = ()
    labels: dict[str, Label] = {}  # noqa: RUF012 - of a tuple, never changed

    @property
    def measure(self) -> dict[str, Any]:
        """What must be equal for any two values to be comparable: not how was sampled."""
        apart = ("sampling", "metrics", "code", *OF_SOME)
        return {n: v for n, v in self.protocol.items() if n not in apart}

    @property
    def some(self) -> dict[str, Any]:
        """What must be equal where both have it: the settings of a metric, the extractor, ..."""
        metrics = self.protocol.get("metrics")
        values = metrics if isinstance(metrics, dict) else {}
        settings = {f"metrics.{name}": value for name, value in values.items()}
        code = self.protocol.get("code")  # of metrics that users wrote
        settings |= (
            {f"code.{name}": v for name, v in code.items()} if isinstance(code, dict) else {}
        )
        return settings | {n: self.protocol[n] for n in OF_SOME if n in self.protocol}


class EvaluationFiles(NamedTuple):
    """The evaluations of a run, by name, and (name, reason) of unreadable files."""

    evaluations: list[Evaluation]
    unreadable: list[tuple[str, str]]


def read(folder: pathlib.Path, labels: Labels = NO_LABELS) -> EvaluationFiles:
    """All of the JSON files in a folder; `labels` as of `parse`."""
    contents = EvaluationFiles([], [])
    paths = folders.listed(folder, ".json")
    for path in paths[:MAX_FILES]:
        try:
            contents.evaluations.append(parse(path.stem, files.read_json(path), labels))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            contents.unreadable.append((path.name, short(reason)))
    contents.unreadable.extend((p.name, "too many files") for p in paths[MAX_FILES:])
    return contents


def parse(name: str, content: Any, labels: Labels = NO_LABELS) -> Evaluation:
    """An evaluation from its file's JSON.

    Args:
      name: of the file.
      content: of the file.
      labels: of the figures that are known; of others the file may hold its own, which those of
        earlier versions do not.

    Raises:
      ValueError: for what has not its shape.
    """
    fields = _object(content, "the file")
    if fields.get("format") != FORMAT:
        raise ValueError("another version wrote it: its format is not 2")
    samples = fields.get("samples", [])
    if not isinstance(samples, list) or len(samples) > MAX_ROWS:
        raise ValueError(f"samples is no list of at most {MAX_ROWS}")
    held_out = _object(fields.get("held_out_data") or {}, "held_out_data")
    written = fields.get("written", "")
    every = {**labels, **of_content(fields.get("figures")), **labels}
    return Evaluation(
        name,
        _object(fields.get("protocol"), "protocol"),
        _object(fields.get("run") or {}, "run"),
        [_row(_object(one, f"samples[{k}]"), k) for k, one in enumerate(samples)],
        _metrics(held_out.get("metrics") or {}, "held_out_data.metrics"),
        written if isinstance(written, str) else "",
        [
            row
            for name, one in every.items()
            if one.needs == CLASSIFIER
            for row in _times(fields, name)
        ],
        every,
    )


def _times(fields: dict[str, Any], name: str) -> list[Row]:
    """A classifier's rows: [{"t": 0.1, NAME: 0.9}] under NAME."""
    items = fields.get(name) or []
    if not isinstance(items, list) or len(items) > MAX_ROWS:
        raise ValueError(f"{name} is no list of at most {MAX_ROWS}")
    rows = []
    for k, one in enumerate(items):
        setting = dict(_object(one, f"{name}[{k}]"))
        share = _measured(setting.pop(name, None), f"{name}[{k}]")
        rows.append(Row(setting, {name: share}))
    return rows


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested objects."""
    fields: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict) and value:
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _row(fields: dict[str, Any], number: int) -> Row:
    setting = {name: value for name, value in fields.items() if name != "metrics"}
    return Row(setting, _metrics(fields.get("metrics"), f"samples[{number}].metrics"))


def _metrics(content: Any, where: str) -> dict[str, Measured]:
    entries = _object(content, where)
    if len(entries) > MAX_METRICS:
        raise ValueError(f"{where} holds more than {MAX_METRICS}")
    return {name: _measured(value, f"{where}.{name}") for name, value in entries.items()}


def _measured(content: Any, where: str) -> Measured:
    fields = content if isinstance(content, dict) else {"value": content}
    if "value" not in fields:
        raise ValueError(f"{where} has no value")
    numbers = [fields.get(name) for name in ("value", "low", "high")]
    for number in numbers:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{where} is no number")
        if number is not None and not abs(number) < 1e300:
            raise ValueError(f"{where} is too large")
    interval = fields.get("interval", "")
    repeats = fields.get("values", ())
    known = isinstance(repeats, list) and all(type(v) in (int, float) for v in repeats)
    return Measured(
        numbers[0],
        numbers[1],
        numbers[2],
        interval if isinstance(interval, str) else "",
        tuple(repeats) if known else (),
    )


def _object(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where} is no JSON object")
    return content
