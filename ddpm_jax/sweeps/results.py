"""What the cells of a sweep came to: every figure of every finished cell, and its curves."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.build.kinds import KINDS
from ddpm_jax.errors import UserError
from ddpm_jax.measures import metric_table, protocols_compared
from ddpm_jax.measures.protocols_compared import OF_TIME, Result
from ddpm_jax.reporting.report import curves
from ddpm_jax.reporting.report.evaluations import Row
from ddpm_jax.reporting.report.labels import LOWER, Label, ordered
from ddpm_jax.sweeps import status, workdirs
from ddpm_jax.sweeps.cells import CONFIG, Cell
from ddpm_jax.sweeps.sweep_file import Sweep
from ddpm_jax.sweeps.workdirs import State

NFE = "nfe"
VALIDATION = "validation_loss"
OWN_LABELS = {
    VALIDATION: Label("held-out loss of the moving average", LOWER),
    NFE: Label("network evaluations for a sample"),
}
# Counted, not estimated: seeds say nothing of it, and no setting is better for it.
COUNTED = (NFE,)
# Of protocols and of their rows: how samples are drawn, which is each config's own.
OF_SAMPLING = ("sampling", "guidance_scale")

# What decides what the held-out loss is a loss of: where one of these varies, no two are alike.
OF_THE_LOSS = (CONFIG, "kind", "data.", "diffusion.", "train.validate_examples", "model.conditions")
NOT_OF_THE_LOSS = (
    "data.batch_size",
    "data.flip",
    "data.num_threads",
    "diffusion.label_dropout",
    "diffusion.condition_dropout",
    "diffusion.joint_dropout",
    "diffusion.time_draw",
    "diffusion.time_options",
)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A cell that is done.

    Attributes:
      cell: which.
      figures: by name; None for one that is undefined.
      curves: of its training, by step; None where there are none.
      repeats: of figures that were measured on several sets of samples, those of each set.
    """

    cell: Cell
    figures: Mapping[str, float | None]
    curves: curves.Metrics | None
    repeats: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Results:
    """A sweep's finished cells.

    Attributes:
      sweep: the sweep.
      cells: the finished ones, in the file's order.
      figures: the names of all figures, in the order in which they are told.
      labels: what is said of them.
      notes: sentences on what was left out, and why.
    """

    sweep: Sweep
    cells: Sequence[Finished]
    figures: Sequence[str]
    labels: Mapping[str, Label]
    notes: Sequence[str]

    @property
    def missing(self) -> list[str]:
        """The names of the cells that are not done."""
        done = {one.cell.name for one in self.cells}
        return [cell.name for cell in self.sweep.cells if cell.name not in done]

    @property
    def varied(self) -> list[str]:
        """The fields that differ between cells, beside the seed."""
        every = dict.fromkeys(name for cell in self.sweep.cells for name in cell.values)
        return [n for n in every if len({repr(c.values.get(n)) for c in self.sweep.cells}) > 1]

    def label(self, figure: str) -> Label:
        """What is said of a figure."""
        return self.labels.get(_base(figure), Label(figure))

    def counted(self, figure: str) -> bool:
        """It is no estimate, and no setting is better for it."""
        return _base(figure) in COUNTED

    def of_training(self, figure: str) -> bool:
        """It does not depend on how samples are drawn."""
        return self.label(figure).of_model or figure == VALIDATION


def read(sweep: Sweep, workdir: str | Path, allow: Sequence[str] = ()) -> Results:
    """The figures of the cells that are done.

    Args:
      sweep: the sweep.
      workdir: its folder.
      allow: fields of the protocol that may differ between cells beside those that the sweep
        varies, as of `protocols_compared.refused`.

    Raises:
      UserError: for no finished cells, a metric that this kind of run does not have, a result that
        cannot be read or is of an earlier step than the cell's last, or two that were not measured
        alike, naming the cells and the fields.
    """
    for name, metrics in {
        c.config: c.evaluate["metrics"] for c in sweep.cells if c.evaluate
    }.items():
        for metric in metric_table.named(metrics):
            metric_table.check_kind(metric, KINDS[sweep.configs[name].kind])
    workdir = Path(workdir)
    states, _ = status.look(sweep, workdir, attempts=1)
    cells = [c for c in sweep.cells if states[c.name] is State.DONE]
    if not cells:
        raise UserError(
            f"--workdir={workdir}: none of {len(sweep.cells)} cells is done: sweep.py run"
        )
    measured = {c.name: _result(workdir, c) for c in cells if c.evaluate}
    _check_alike([(c, measured[c.name]) for c in cells if c.name in measured], allow)
    logged = {name: _curves(workdir, name) for name in dict.fromkeys(c.training for c in cells)}
    notes = []
    if others := [name for name in _varied(sweep) if _of_the_loss(name)]:
        notes.append(
            f"{VALIDATION} is left out: cells differ in {', '.join(others)}, so theirs are not "
            "the same loss."
        )
    finished = [
        Finished(c, _figures(measured.get(c.name), None if others else logged[c.training]),
                 logged[c.training], _repeats(measured.get(c.name)))
        for c in cells
    ]  # fmt: skip
    labels = metric_table.labels()
    for one in measured.values():
        labels |= {n: v for n, v in one.evaluation.labels.items() if n not in labels}
    labels |= OWN_LABELS
    names = list(dict.fromkeys(name for one in finished for name in one.figures))
    bases = ordered(map(_base, names), labels)
    names.sort(key=lambda name: bases.index(_base(name)))
    return Results(sweep, finished, names, labels, notes)


def _base(figure: str) -> str:
    """A figure's name without the row that it is of."""
    return figure.split(OF_TIME)[0]


def _varied(sweep: Sweep) -> list[str]:
    return Results(sweep, (), (), {}, ()).varied


def _of_the_loss(field: str) -> bool:
    return field.startswith(OF_THE_LOSS) and not field.startswith(NOT_OF_THE_LOSS)


def _result(workdir: Path, cell: Cell) -> Result:
    """What was measured of a cell. Raises UserError where that was not its last state."""
    path = workdirs.result(workdir, cell)
    result = protocols_compared.read(path)
    final = workdirs.json_file(workdirs.folder(workdir, cell.training) / "final.json") or {}
    measured, last = result.evaluation.run.get("checkpoint"), final.get("state_sha256")
    if measured and last and measured != last:
        raise UserError(
            f"{path} measured step {result.evaluation.run.get('checkpoint_step')}, and the cell "
            f"has been trained on to step {final.get('step')} since: remove that file and run the "
            "sweep again"
        )
    return result


def _curves(workdir: Path, training: str) -> curves.Metrics | None:
    try:
        return curves.read(workdirs.folder(workdir, training) / "metrics.jsonl")
    except (OSError, ValueError):
        return None


def _figures(result: Result | None, logged: curves.Metrics | None) -> dict[str, float | None]:
    """Every figure of a cell."""
    figures: dict[str, float | None] = {}
    if result is not None:
        for row, of_row in _rows(result):
            figures |= {f"{n}{of_row}": m.value for n, m in row.metrics.items()}
            nfe = row.setting.get(NFE)
            if isinstance(nfe, int | float) and not isinstance(nfe, bool):
                figures[f"{NFE}{of_row}"] = float(nfe)
        own = protocols_compared.of_model(result.evaluation)
        figures |= {name: one.value for name, one in own.items()}
    if logged is not None and VALIDATION in logged.curves:
        figures[VALIDATION] = logged.curves[VALIDATION].newest
    return figures


def _repeats(result: Result | None) -> dict[str, Sequence[float]]:
    """The values of each set of samples, of figures that have several."""
    rows = [] if result is None else _rows(result)
    return {
        f"{name}{of_row}": one.repeats
        for row, of_row in rows
        for name, one in row.metrics.items()
        if len(one.repeats) > 1
    }


def _rows(result: Result) -> list[tuple[Row, str]]:
    """The rows of a result, each with what its figures' names end in."""
    rows = result.evaluation.rows
    several = len(rows) > 1
    return [(row, f"{OF_TIME}{protocols_compared.setting(row)}" if several else "") for row in rows]


def _check_alike(measured: Sequence[tuple[Cell, Result]], allow: Sequence[str]) -> None:
    """Raises UserError for two cells that were not measured alike.

    Those that begin with one config are compared with the first of them; how samples are drawn may
    differ between configs, which are compared by their first cells.
    """
    firsts: dict[str, tuple[Cell, Result]] = {}
    for cell, result in measured:
        first, other = firsts.setdefault(cell.config, (cell, result))
        _check_both(
            first, other, cell, result, [*allow, *_sampled_apart(first.values, cell.values)]
        )
    of_configs = [*firsts.values()]
    for cell, result in of_configs[1:]:
        _check_both(*of_configs[0], cell, result, [*allow, *OF_SAMPLING])


def _check_both(
    first: Cell, other: Result, cell: Cell, result: Result, allow: Sequence[str]
) -> None:
    both = protocols_compared.compared(other.evaluation, result.evaluation)
    if refused := protocols_compared.refused(both, [*allow, NFE]):
        raise UserError(
            f"cells {first.name} and {cell.name} were not measured alike: "
            f"{protocols_compared.told(refused)}; remove one of their results and run the "
            "sweep again, or name with --allow what may differ"
        )


def _sampled_apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[str]:
    """The fields of a protocol in which two cells differ by the sweep's own intent."""
    for field in dict.fromkeys([*a, *b]):
        if field.startswith("sample.") and a.get(field) != b.get(field):
            last = field.rpartition(".")[2]
            yield from (f"sampling.{last}", last)  # of the protocol, or of a row
