"""The files in DIR/eval: what was measured of a run, and by which protocol."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ddpm_jax import files
from ddpm_jax.reporting.report import folders
from ddpm_jax.reporting.report.html import short

FORMAT = 2
MAX_FILES = 200
MAX_ROWS = 100  # of a file
MAX_METRICS = 40
LIKELIHOOD = "bpd_"  # metrics of held-out images that are a model's own


class Measured(NamedTuple):
    """A metric: its value, and the interval around it if it has one; None where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = ""


class Row(NamedTuple):
    """What was measured in one setting: {"guidance_scale": 2.0, "nfe": 50}, {"fid": Measured}.

    Attributes:
      setting: as the file has it.
      metrics: by name.
      held_out: of how the model reads held-out images, not of its samples.
    """

    setting: dict[str, Any]
    metrics: dict[str, Measured]
    held_out: bool = False


class Evaluation(NamedTuple):
    """A file of measures.

    Attributes:
      name: of the file, without its ending.
      protocol: how was measured, as the file has it.
      run: what was measured: the step of the checkpoint, and more.
      rows: of samples, and of held-out images where they are a model's own: likelihood, accuracy.
      held_out: the measures of samples, of held-out data.
    """

    name: str
    protocol: dict[str, Any]
    run: dict[str, Any]
    rows: list[Row]
    held_out: dict[str, Measured]

    @property
    def measure(self) -> dict[str, Any]:
        """What must be equal for values to be comparable: not sampling, and metrics one by one."""
        return {n: v for n, v in self.protocol.items() if n not in ("sampling", "metrics")}

    @property
    def metrics_protocol(self) -> dict[str, Any]:
        """How metrics were set, by name, those that have settings."""
        found = self.protocol.get("metrics")
        return found if isinstance(found, dict) else {}


class Found(NamedTuple):
    """The evaluations of a run, by name, and (name, reason) of files that are none."""

    evaluations: list[Evaluation]
    unreadable: list[tuple[str, str]]


def read(folder: pathlib.Path) -> Found:
    """All of the JSON files in a folder."""
    found = Found([], [])
    paths = folders.listed(folder, ".json")
    for path in paths[:MAX_FILES]:
        try:
            found.evaluations.append(parse(path.stem, files.read_json(path)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            found.unreadable.append((path.name, short(reason)))
    found.unreadable.extend((p.name, "too many files") for p in paths[MAX_FILES:])
    return found


def parse(name: str, content: Any) -> Evaluation:
    """An evaluation from its file's JSON. Raises ValueError for what has not its shape."""
    fields = _object(content, "the file")
    if fields.get("format") != FORMAT:
        raise ValueError("another version wrote it: its format is not 2")
    samples = fields.get("samples", [])
    if not isinstance(samples, list) or len(samples) > MAX_ROWS:
        raise ValueError(f"samples is no list of at most {MAX_ROWS}")
    held_out = _object(fields.get("held_out_data") or {}, "held_out_data")
    of_data = _metrics(held_out.get("metrics") or {}, "held_out_data.metrics")
    rows = [_row(_object(one, f"samples[{k}]"), k) for k, one in enumerate(samples)]
    own = {n: of_data.pop(n) for n in [*of_data] if n.startswith(LIKELIHOOD)}
    if own:
        rows.append(Row({}, own, held_out=True))
    protocol = _object(fields.get("protocol"), "protocol")
    return Evaluation(
        name,
        protocol | _metrics_protocol(fields, protocol),
        _object(fields.get("run") or {}, "run"),
        rows + _accuracy(fields),
        of_data,
    )


def _metrics_protocol(fields: dict[str, Any], protocol: dict[str, Any]) -> dict[str, Any]:
    """How each metric was set: of bits per pixel that stands beside the figures."""
    metrics = _object(protocol.get("metrics") or {}, "protocol.metrics")
    likelihood = _object(fields.get("likelihood") or {}, "likelihood")
    chain = _object(likelihood.get("chain") or {}, "likelihood.chain")
    told: dict[str, Any] = {
        n: likelihood[n] for n in ("model_of", "levels", "num_examples") if n in likelihood
    }
    if "num_terms" in chain:
        told["num_terms"] = "all" if chain["num_terms"] is None else chain["num_terms"]
    return {"metrics": {"bpd": told} | metrics} if told else {}


def _accuracy(fields: dict[str, Any]) -> list[Row]:
    """A classifier's rows: {"t": 0.1, "accuracy": 0.9}."""
    given = fields.get("accuracy") or []
    if not isinstance(given, list) or len(given) > MAX_ROWS:
        raise ValueError(f"accuracy is no list of at most {MAX_ROWS}")
    rows = []
    for k, one in enumerate(given):
        setting = dict(_object(one, f"accuracy[{k}]"))
        share = _measured(setting.pop("accuracy", None), f"accuracy[{k}]")
        rows.append(Row(setting, {"accuracy": share}, held_out=True))
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
    found = _object(content, where)
    if len(found) > MAX_METRICS:
        raise ValueError(f"{where} holds more than {MAX_METRICS}")
    return {name: _measured(value, f"{where}.{name}") for name, value in found.items()}


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
    return Measured(
        numbers[0], numbers[1], numbers[2], interval if isinstance(interval, str) else ""
    )


def _object(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where} is no JSON object")
    return content
