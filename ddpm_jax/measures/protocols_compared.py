"""Which results were measured alike: all that a common figure depends on, and nothing else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.measures import metric_table, results
from ddpm_jax.measures.metric import Needs
from ddpm_jax.reporting.report import evaluations
from ddpm_jax.reporting.report.evaluations import Evaluation, Measured, Row
from ddpm_jax.reporting.report.labels import Label
from ddpm_jax.runtime import files

LIMIT = 2**24
NOTHING = "nothing"
OF_TIME = ", "  # between a figure and the t that it is of
# Fields of the protocol that only some figures depend on.
OF_SOME = {field for needs in Needs for field in needs.depends}

# Field to its two values, as text.
Differences = dict[str, tuple[str, str]]


class Result(NamedTuple):
    """A file of measures, and the versions it was made with."""

    path: str
    evaluation: Evaluation
    versions: dict[str, Any]


class Compared(NamedTuple):
    """Two evaluations beside each other.

    Attributes:
      rows: title to the rows of both that are of samples drawn in one setting.
      figures: names of the figures that both have.
      protocol: the fields of the protocol that these figures depend on, in which they differ.
      settings: the same of the settings of single rows.
    """

    rows: dict[str, tuple[Row, Row]]
    figures: set[str]
    protocol: Differences
    settings: Differences


def read(path: str | Path) -> Result:
    """What `evaluate` wrote to a file. Raises UserError for another file."""
    try:
        content = files.read_json(path, LIMIT)
        if not isinstance(content, dict) or content.get("format") != results.FORMAT:
            raise ValueError(f"it is no result of format {results.FORMAT}; evaluate again")
        for name in ("protocol", "run", "samples", "held_out_data"):
            if name not in content:
                raise ValueError(f"its {name} is missing")
        evaluation = evaluations.parse(Path(path).stem, content, metric_table.labels())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be compared ({reason})") from error
    versions = content.get("versions")
    return Result(str(path), evaluation, versions if isinstance(versions, dict) else {})


def compared(a: Evaluation, b: Evaluation) -> Compared:
    """What two evaluations have in common, and in what they differ that matters to it."""
    rows = _rows(a.rows, b.rows)
    common = _common(rows.values(), (of_model(a), of_model(b)))
    protocol = dict(differences(*_that_count(a, b, common)))
    return Compared(rows, common, protocol, dict(_row_differences(rows.values())))


def refused(one: Compared, allow: Sequence[str]) -> Differences:
    """The differences for which two evaluations are not to be compared.

    Numbers of network evaluations must agree where the sampling is the same.

    Args:
      one: of both.
      allow: fields that may differ: "sampling.num_steps", or a group of them; "guidance_scale".
    """
    same_sampling = not any(name.split(".")[0] in ("sampling", "guides") for name in one.protocol)
    return {
        field: both
        for field, both in {**one.protocol, **one.settings}.items()
        if not any(field == name or field.startswith(f"{name}.") for name in allow)
        and (field != "nfe" or (same_sampling and len(one.settings) == 1))
    }


def told(fields: Differences) -> str:
    """Differences as text: "seed: 0 and 1; data: digits and shapes"."""
    return "; ".join(f"{field}: {x} and {y}" for field, (x, y) in fields.items())


def differences(a: Any, b: Any, name: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """The fields in which two values differ, each with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            inner = f"{name}.{key}" if name else key
            yield from differences(a.get(key, NOTHING), b.get(key, NOTHING), inner)
    elif a != b:
        yield name, (_short(a), _short(b))


def setting(row: Row) -> str:
    """All of a row's setting but its NFE: "guidance_scale 2"."""
    scales = {n: v for n, v in row.setting.items() if n != "nfe"}
    parts = (
        f"{n} {v:g}" if isinstance(v, float) else f"{n} {_short(v)}" for n, v in scales.items()
    )
    return ", ".join(parts) or "samples"


def of_model(one: Evaluation) -> dict[str, Measured]:
    """What is said of held-out data by the model: their likelihood, how a classifier reads them.

    What else is said of them is the same for every model.
    """
    own = {n: m for n, m in one.held_out.items() if n in one.labels and one.labels[n].of_model}
    for row in one.by_time:
        own |= {f"{name}{OF_TIME}{setting(row)}": m for name, m in row.metrics.items()}
    return own


def _common(rows: Iterable[tuple[Row, Row]], data: tuple[Mapping, Mapping]) -> set[str]:
    """The names of the figures that both have."""
    return {*data[0]} & {*data[1]} | {n for x, y in rows for n in {*x.metrics} & {*y.metrics}}


def _that_count(
    a: Evaluation, b: Evaluation, common: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The protocols with only what the figures that both have depend on."""
    every = a.labels | b.labels
    labels = [every.get(name.split(OF_TIME)[0]) for name in common]
    measured = {label.metric for label in labels if label is not None}
    needed = {field for label in labels for field in _needs(label).depends}
    kept = [
        {n: v for n, v in one.protocol.items() if n not in OF_SOME or n in needed} for one in (a, b)
    ]
    for one in kept:
        if isinstance(digests := one.pop("code", None), dict):
            own = {name: digest for name, digest in digests.items() if name in measured}
            one |= {"code": own} if own else {}
    x, y = (one.protocol.get("metrics") for one in (a, b))
    if isinstance(x, dict) and isinstance(y, dict):
        both = measured & {*x} & {*y}
        for one, settings in zip(kept, (x, y), strict=True):
            one["metrics"] = {name: settings[name] for name in both}
    return kept[0], kept[1]


def _needs(label: Label | None) -> Needs:
    """What a figure was measured on; of samples beside real images where nothing says it."""
    by_value = {needs.value: needs for needs in Needs}
    return Needs.PIXELS if label is None else by_value.get(label.needs, Needs.PIXELS)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _rows(a: Sequence[Row], b: Sequence[Row]) -> dict[str, tuple[Row, Row]]:
    """Title to the rows of both of equal settings; single rows, whatever theirs."""
    if len(a) == len(b) == 1:
        titles = dict.fromkeys((setting(a[0]), setting(b[0])))
        return {" and ".join(titles): (a[0], b[0])}
    other = {setting(row): row for row in b}
    return {setting(row): (row, other[setting(row)]) for row in a if setting(row) in other}


def _row_differences(
    rows: Iterable[tuple[Row, Row]],
) -> Iterator[tuple[str, tuple[str, str]]]:
    """As `differences`, of the settings of rows that are compared."""
    for x, y in rows:
        if {*x.metrics} & {*y.metrics}:
            yield from differences(x.setting, y.setting)
