"""A sweep's figures, over seeds: a table for each, a row for each setting."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.reporting.report.labels import Label
from ddpm_jax.sweeps import statistics
from ddpm_jax.sweeps.cells import Cell, setting_named
from ddpm_jax.sweeps.results import Finished, Results
from ddpm_jax.sweeps.statistics import Difference, Optimism, Summary

BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class Row:
    """A setting's figure.

    Attributes:
      setting: its name.
      values: {field: value} of all that the sweep varies but the seed.
      seeds: {seed: figure}, where it is defined.
      undefined: seeds whose figure is no finite number.
      summary: over seeds; None for none.
      sample_std: standard deviation between sets of samples of one training, pooled over seeds;
        None where each was measured on one set.
      difference: to the baseline; None for the baseline itself, or without one.
      p: the difference's, corrected for how many settings are compared; None for none.
      word: what the difference comes to; BASELINE of the baseline itself, "" without one.
    """

    setting: str
    values: Mapping[str, Any]
    seeds: Mapping[int, float]
    undefined: int
    summary: Summary | None
    sample_std: float | None = None
    difference: Difference | None = None
    p: float | None = None
    word: str = ""

    @property
    def flags(self) -> list[str]:
        """What a reader should know before believing the row."""
        few = [f"n < {statistics.FEW}"] if len(self.seeds) < statistics.FEW else []
        return few + ([f"{self.undefined} undefined"] if self.undefined else [])


@dataclasses.dataclass(frozen=True)
class Best:
    """The best setting of a figure.

    Attributes:
      setting: its name.
      ties: others of the same mean.
      num: settings among which it is the best.
      optimism: how much of that is luck; None where there are too few seeds to tell.
    """

    setting: str
    ties: Sequence[str]
    num: int
    optimism: Optimism | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A figure of all settings.

    Attributes:
      figure: its name.
      label: what is said of it.
      rows: of all settings that have finished cells, in the file's order.
      best: None where neither way is better, or fewer than two settings have it.
    """

    figure: str
    label: Label
    rows: Sequence[Row]
    best: Best | None

    def is_best(self, row: Row) -> bool:
        """No row has a better mean."""
        if self.best is None or row.summary is None or row.undefined:
            return False
        winner = next(one for one in self.rows if one.setting == self.best.setting)
        return row.setting in self.best.ties or row.seeds == winner.seeds


@dataclasses.dataclass(frozen=True)
class Report:
    """What a sweep came to.

    Attributes:
      results: what it is made of.
      settings: {name: its finished cells}, in the file's order.
      baseline: the setting that others are compared with; None for none.
      tables: of each figure.
    """

    results: Results
    settings: Mapping[str, Sequence[Finished]]
    baseline: str | None
    tables: Sequence[Table]

    @property
    def counts(self) -> str:
        """How much of the sweep is in it, in a sentence."""
        results = self.results
        seeds = {one.cell.seed for one in results.cells}
        return (
            f"Cells done: {len(results.cells):,} of {len(results.sweep.cells):,}; "
            f"settings: {len(self.settings):,}; seeds: {len(seeds):,}."
        )


def aggregate(results: Results, baseline: str | None = None) -> Report:
    """Every figure over seeds.

    Args:
      results: of the finished cells.
      baseline: the setting, or the name of a cell of it, that others are compared with; None for
        the sweep file's own, if it names one.

    Raises:
      UserError: for a baseline that is no cell.
    """
    sweep = results.sweep
    setting = sweep.baseline
    if baseline is not None:
        setting = setting_named(baseline, sweep.cells, sweep.base)
        if setting is None:
            names = " / ".join(dict.fromkeys(cell.setting for cell in sweep.cells))
            raise UserError(f"--baseline={baseline} is no cell; settings: {names:.300}")
    settings: dict[str, list[Finished]] = {}
    for one in results.cells:
        settings.setdefault(one.cell.setting, []).append(one)
    tables = [_table(results, settings, name, setting) for name in results.figures]
    return Report(results, settings, setting, tables)


def _table(
    results: Results,
    settings: Mapping[str, Sequence[Finished]],
    figure: str,
    baseline: str | None,
) -> Table:
    label = results.label(figure)
    # What is no figure of samples is the training's: settings that share one are compared once.
    key = _trained if results.of_training(figure) else _setting
    # Of configs of several kinds, each has figures of its own.
    settings = {
        n: cells for n, cells in settings.items() if any(figure in c.figures for c in cells)
    }
    groups: dict[str, list[Finished]] = {}
    for cells in settings.values():
        groups.setdefault(key(cells[0].cell), []).extend(cells)
    rows = {name: _row(cells, figure) for name, cells in groups.items()}
    of_setting = {name: key(cells[0].cell) for name, cells in settings.items()}
    best = _best(rows, label.better)
    if best is not None:
        first = {group: name for name, group in reversed(of_setting.items())}
        ties = [first[group] for group in best.ties]
        best = dataclasses.replace(best, setting=first[best.setting], ties=ties)
    if baseline in of_setting and not results.counted(figure):
        rows = _compared(rows, of_setting[baseline], label.better)
    named = [
        dataclasses.replace(rows[group], setting=name, values=settings[name][0].cell.values)
        for name, group in of_setting.items()
    ]
    return Table(figure, label, named, best)


def _setting(cell: Cell) -> str:
    return cell.setting


def _trained(cell: Cell) -> str:
    """What differs between trainings, but the seed."""
    return repr({name: v for name, v in cell.values.items() if name not in cell.sampling})


def _row(cells: Sequence[Finished], figure: str) -> Row:
    values = {one.cell.seed: one.figures.get(figure) for one in cells}
    seeds = {s: v for s, v in sorted(values.items()) if v is not None and np.isfinite(v)}
    summary = statistics.summary([*seeds.values()]) if seeds else None
    sets = [one.repeats[figure] for one in cells if figure in one.repeats]
    return Row("", {}, seeds, len(values) - len(seeds), summary, statistics.pooled_std(sets))


def _best(rows: Mapping[str, Row], better: str) -> Best | None:
    """The best row, by its key."""
    # Of a setting that failed in some seeds, those that are left say nothing of it.
    whole = {name: row for name, row in rows.items() if row.summary and not row.undefined}
    winners = statistics.best({n: [*row.seeds.values()] for n, row in whole.items()}, better)
    if not winners:
        return None
    common = sorted(set.intersection(*({*row.seeds} for row in whole.values())))
    values = np.array([[row.seeds[seed] for seed in common] for row in whole.values()])
    return Best(winners[0], winners[1:], len(whole), statistics.optimism(values, better))


def _compared(rows: Mapping[str, Row], base: str, better: str) -> dict[str, Row]:
    """The rows with their differences to one of them, corrected for how many there are."""
    found = {
        name: difference
        for name, row in rows.items()
        if name != base
        and (difference := statistics.paired(row.seeds, rows[base].seeds, better)) is not None
    }
    raw = {name: one.p for name, one in found.items() if one.p is not None}
    p = dict(zip(raw, statistics.holm([*raw.values()]), strict=True))
    words = {name: statistics.word(one, p.get(name), better) for name, one in found.items()}
    words[base] = BASELINE
    return {
        name: dataclasses.replace(
            row, difference=found.get(name), p=p.get(name), word=words.get(name, "")
        )
        for name, row in rows.items()
    }
