"""A sweep file, read and checked: its base config, its cells, and what is measured of them."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config import checks, config_files, defaults
from ddpm_jax.errors import UserError, suggest
from ddpm_jax.sweeps.overrides import Overrides, grid

# What `evaluate` of a sweep file may name, beside `samplers`: flags of the evaluate command.
EVALUATE = (
    "metrics",
    "num_samples",
    "repeats",
    "guidance_scale",
    "extractor",
    "inception_weights",
    "resize",
    "reference",
    "num_reference",
    "kid_subsets",
    "num_terms",
    "seed",
    "step",
    "raw_params",
)
SAMPLERS = "samplers"
SEED = "seed"
# Not what a run is, but where its data lie: a sweep has the same cells on every machine.
PLACES = ("data.data_dir",)
DIGITS = 8  # of a digest, in a name
MOST_LETTERS = 120  # of a name before its digest; file systems take 255


@dataclasses.dataclass(frozen=True)
class Cell:
    """One set of overrides.

    Attributes:
      name: what differs from the base config, its seed, and a digest of its config: of no other
        cell, and no other once cells are added.
      setting: the values of all that the sweep varies but the seed, "learning_rate=0.001"; "base"
        where that is nothing.
      seed: of the training.
      training: the name of its training, which cells share that differ only in how they are
        sampled: its workdir is cells/TRAINING.
      overrides: of the training, {field: value}.
      sampling: overrides of config.sample that leave the training as it is.
      values: {field: value} of all that the sweep varies but the seed.
    """

    name: str
    setting: str
    seed: int
    training: str
    overrides: Overrides
    sampling: Overrides
    values: Overrides


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
      path: absolute, of the file.
      base: the config that its `get_config` returns.
      base_digest: of `base`, for telling sweeps apart.
      cells: in the file's order.
      evaluate: what is measured of each cell: flags of the evaluate command; {} for nothing.
      baseline: the setting that others are compared with; None for none.
      slurm: options of sbatch.
    """

    path: Path
    base: ConfigDict
    base_digest: str
    cells: tuple[Cell, ...]
    evaluate: Mapping[str, Any]
    baseline: str | None
    slurm: Mapping[str, Any]

    def trainings(self) -> dict[str, Overrides]:
        """The overrides of each training, by its name; in order."""
        return {cell.training: cell.overrides for cell in self.cells}


def read(path: str | Path) -> Sweep:
    """Read and check a sweep file: it is run, as a config file is.

    Raises:
      UserError: for a file that is none or raises, for no cells or two alike, and for a field that
        is unknown, of the wrong type or out of range, naming the cell.
    """
    names = _run(path)
    with _raising(path, "get_config"):
        base = names["get_config"]()
    with _raising(path, "sweep"):
        cells = [dict(one) for one in names["sweep"]()]
    if not isinstance(base, ConfigDict):
        raise UserError(f"--sweep={path}: get_config() must return a config, got {base!r:.80}")
    evaluate = _group(path, names, "evaluate", (*EVALUATE, SAMPLERS))
    if evaluate and not evaluate.get("metrics"):
        raise UserError(f"--sweep={path}: evaluate must name metrics=(...)")
    if samplers := evaluate.pop(SAMPLERS, ()):
        with _raising(path, "evaluate"):
            cells = grid(cells, [{f"sample.{n}": v for n, v in one.items()} for one in samplers])
    if not cells:
        raise UserError(f"--sweep={path}: the sweep is empty: sweep() returned no cells")
    maker = _Cells(base, cells)
    made = tuple(maker.cell(overrides) for overrides in cells)
    _check_different(path, made, bool(evaluate))
    baseline = names.get("baseline")
    if baseline is not None:
        baseline = _named(path, baseline, base, made)
    return Sweep(
        path=Path(path).absolute(),
        base=base,
        base_digest=digest(_compared(base)),
        cells=made,
        evaluate=evaluate,
        baseline=baseline,
        slurm=_group(path, names, "slurm", None),
    )


def digest(content: Any) -> str:
    """The sha256 of what JSON can hold, tuples as lists."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def setting_named(asked: str | Mapping[str, Any], cells: Iterable[Cell]) -> str | None:
    """The one setting of that name, or with these values; None where no cell has it, or several."""
    found = {
        cell.setting
        for cell in cells
        if asked in (cell.setting, cell.name)
        or (isinstance(asked, Mapping) and dict(asked).items() <= cell.values.items())
    }
    return found.pop() if len(found) == 1 else None


class _Cells:
    """Makes cells of overrides of one base config; thousands in a second."""

    def __init__(self, base: ConfigDict, cells: Iterable[Overrides]):
        self._fields = config_files.fields(base)
        varied = (name for one in cells for field in one for name, _ in _flat(field, one[field]))
        self._varied = [name for name in dict.fromkeys(varied) if name != SEED]
        self._names = _short_names(self._fields)
        self._usual = config_files.fields(defaults.get_config(base.get("kind", "denoiser")))
        self._scratch = ConfigDict(base.to_dict())

    def cell(self, overrides: Overrides) -> Cell:
        """The cell of these overrides. Raises UserError for what no config can have."""
        overrides = {
            name: value for field, given in overrides.items() for name, value in _flat(field, given)
        }
        whole = self._fields | self._checked(overrides)
        differs = {n: whole[n] for n in overrides if whole[n] != self._fields.get(n, ...)}
        seed = whole[SEED]
        # Where samples choose the checkpoint, how they are drawn is a matter of training.
        of_samples = () if whole.get("train.evaluate_every") else ("sample.",)
        sampling = {n: v for n, v in overrides.items() if n.startswith(of_samples)}
        sampling = sampling if of_samples else {}
        trained = {n: v for n, v in overrides.items() if n not in sampling}
        ours = self._compared(whole, of_samples)
        training = self._name({n: v for n, v in differs.items() if n in trained}, seed, ours)
        name = training
        if sampling:
            name = self._name(differs, seed, [ours, self._compared(whole, ())])
        values = {n: whole[n] for n in self._varied if n in whole}
        return Cell(
            name=name,
            setting=self._text(values) or "base",
            seed=seed,
            training=training,
            overrides=trained,
            sampling=sampling,
            values=values,
        )

    def _checked(self, overrides: Overrides) -> Overrides:
        """The overrides as the config holds them: 1 for a float is 1.0."""
        held = {}
        try:
            for field, value in overrides.items():
                held[field] = self._set(field, value, overrides)
            checks.check_ranges(self._scratch)
            checks.image_shape(self._scratch)
        except UserError as error:
            raise UserError(f"cell {self._text(overrides, seed=True)}: {error}") from error
        finally:
            for field in overrides:
                self._restore(field)
        return held

    def _set(self, field: str, value: Any, overrides: Overrides) -> Any:
        group, key = self._place(field)
        is_option = field.count(".") == 2
        if not is_option and field not in self._fields:
            raise UserError(f"no such config field {field}{suggest(field, [*self._fields])}")
        if not isinstance(value, str | int | float | bool | tuple | list | None):
            raise UserError(f"config.{field}={value!r}: need text, numbers or a tuple of them")
        try:
            group[key] = tuple(value) if isinstance(value, list) else value
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"config.{field}={value!r}: {reason}") from error
        return group[key]

    def _restore(self, field: str) -> None:
        try:
            group, key = self._place(field)
        except UserError:
            return
        if field in self._fields:
            with contextlib.suppress(TypeError, ValueError):
                group[key] = self._fields[field]
        elif field.count(".") == 2 and key in group:
            del group[key]

    def _place(self, field: str) -> tuple[Any, str]:
        """The group of the scratch config that holds a field, and its key there."""
        *groups, key = field.split(".")
        place: Any = self._scratch
        for name in groups:
            if not isinstance(place.get(name), ConfigDict):
                raise UserError(f"no such config field {field}{suggest(field, [*self._fields])}")
            place = place[name]
        if isinstance(place.get(key), ConfigDict):
            raise UserError(f"config.{field} is a group of fields: name one of them")
        return place, key

    def _compared(self, whole: Overrides, without: tuple[str, ...]) -> Overrides:
        """What makes this config: its difference from the defaults, so that a default of a field
        that comes with a later version moves no cell."""
        return {
            n: v
            for n, v in whole.items()
            if not n.startswith((*PLACES, *without)) and self._usual.get(n, ...) != v
        }

    def _name(self, differs: Overrides, seed: int, ours: Any) -> str:
        text = ",".join(filter(None, [self._text(differs), f"seed={seed}"]))
        plain = re.sub(r"[^\w.,=+-]+", "_", text, flags=re.ASCII)[:MOST_LETTERS]
        return f"{plain}-{digest(ours)[:DIGITS]}"

    def _text(self, differs: Overrides, *, seed: bool = False) -> str:
        """What differs, by names as short as the config allows."""
        return ",".join(
            f"{self._names.get(n, n)}={_spelt(v)}" for n, v in differs.items() if seed or n != SEED
        )


def _short_names(fields: Mapping[str, Any]) -> dict[str, str]:
    """The last word of each field, where no other field ends in it; the whole name elsewhere.

    Of the config alone: adding a cell gives no other cell another name.
    """
    last = [field.rpartition(".")[2] for field in fields]
    return {
        field: word if last.count(word) == 1 else field
        for field, word in zip(fields, last, strict=True)
    }


def _spelt(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "x".join(map(_spelt, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flat(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A dict of options as its entries."""
    if not isinstance(value, Mapping):
        yield field, value
        return
    for name, inner in value.items():
        yield from _flat(f"{field}.{name}", inner)


def _compared(base: ConfigDict) -> Overrides:
    return {n: v for n, v in config_files.fields(base).items() if n not in PLACES}


def _run(path: str | Path) -> dict[str, Any]:
    if not (str(path).endswith(".py") and os.path.isfile(path)):
        raise UserError(f"--sweep={path}: is no Python file; see configs/sweeps/")
    folder = str(Path(path).absolute().parent)
    with _raising(path):
        before = list(sys.path)
        try:
            names = runpy.run_path(str(path))
        finally:
            sys.path[:] = before
    for name in ("get_config", "sweep"):
        if not callable(names.get(name)):
            raise UserError(
                f"--sweep={path}: has no function {name}(); a sweep file has get_config(), which "
                f"returns the base config, and sweep(), which returns overrides ({folder})"
            )
    return names


@contextlib.contextmanager
def _raising(path: str | Path, where: str = "") -> Iterator[None]:
    """What the user's code raises, as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        place = f" in {where}()" if where else ""
        raise UserError(f"--sweep={path}: cannot load it{place} ({reason})") from error


def _group(
    path: str | Path, names: Mapping[str, Any], name: str, known: tuple[str, ...] | None
) -> dict[str, Any]:
    """A dict of a sweep file, with names that are known."""
    group = names.get(name) or {}
    if not isinstance(group, Mapping):
        raise UserError(f"--sweep={path}: {name} must be a dict, got {group!r:.80}")
    for key in group:
        if known is not None and key not in known:
            raise UserError(f"--sweep={path}: {name} has no {key!r}{suggest(str(key), [*known])}")
    return dict(group)


def _named(path: str | Path, asked: Any, base: ConfigDict, cells: tuple[Cell, ...]) -> str:
    found = setting_named(asked, cells)
    if found is None:
        settings = " / ".join(dict.fromkeys(cell.setting for cell in cells))
        raise UserError(
            f"--sweep={path}: baseline={asked!r} is no cell, or several; settings: {settings:.300}"
        )
    return found


def _check_different(path: str | Path, cells: tuple[Cell, ...], measured: bool) -> None:
    trainings: dict[str, Cell] = {}
    names: dict[str, Cell] = {}
    for cell in cells:
        if cell.name in names:
            raise UserError(f"--sweep={path}: two cells are the same: {cell.name}")
        names[cell.name] = cell
        other = trainings.setdefault(cell.training, cell)
        if other is not cell and not measured:
            raise UserError(
                f"--sweep={path}: {other.name} and {cell.name} differ only in how they are "
                "sampled, which nothing measures: name evaluate = dict(metrics=(...))"
            )
