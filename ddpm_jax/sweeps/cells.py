"""The cells of a sweep: from a base config and overrides to names that stay."""

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax.config import checks, config_files, defaults
from ddpm_jax.errors import UserError, suggest
from ddpm_jax.sweeps.overrides import Overrides, WorkdirOf

SEED = "seed"
CONFIG = "config"  # which of the sweep file's configs a cell begins with
# Not what a run is, but where its data lie: a sweep has the same cells on every machine.
PLACES = ("data.data_dir",)
DIGITS = 8  # of a digest, in a name
MOST_LETTERS = 120  # of a name before its digest; file systems take 255
FOLDER = "cells"  # of a sweep's workdir


@dataclasses.dataclass(frozen=True)
class Cell:
    """One set of overrides.

    Attributes:
      name: the config that it begins with, what differs from that, its seed, and a digest of its
        config: of no other cell, and no other once cells are added.
      setting: the values of all that the sweep varies but the seed, "learning_rate=0.001"; "base"
        where that is nothing.
      seed: of the training.
      training: the name of its training, which cells share that differ only in how they are
        sampled: its workdir is cells/TRAINING.
      overrides: of the training, {field: value}.
      sampling: overrides of config.sample that leave the training as it is.
      values: {field: value} of all that the sweep varies of its config but the seed, and CONFIG
        where it names one; of a field that is another cell's workdir, what tells that cell from
        others.
      config: the name of the config that it begins with; "" for the base.
      needs: {field: training} of the fields that are other cells' workdirs.
      evaluate: what is measured of it: flags of the evaluate command; {} for nothing.
    """

    name: str
    setting: str
    seed: int
    training: str
    overrides: Overrides
    sampling: Overrides
    values: Overrides
    config: str = ""
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    evaluate: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Cells:
    """Makes cells from overrides of the configs of a sweep file; thousands in a second.

    Args:
      configs: by name, "" for the base.
      cells: the overrides of all, of which the fields that vary are known.
    """

    def __init__(self, configs: Mapping[str, ConfigDict], cells: Iterable[Overrides]):
        varied: dict[str, dict[str, None]] = {name: {} for name in configs}
        for one in cells:  # a field of some configs is no field of others
            names = (name for field in one for name, _ in _flat(field, one[field]))
            varied[one.get(CONFIG, "")] |= dict.fromkeys(names)
        self._makers = {
            name: _Maker(name, config, [n for n in varied[name] if n not in (SEED, CONFIG)])
            for name, config in configs.items()
        }

    def cell(self, overrides: Overrides) -> Cell:
        """The cell of these overrides. Raises UserError for what no config can have."""
        given = {n: v for field, value in overrides.items() for n, v in _flat(field, value)}
        name = given.pop(CONFIG, "")
        if name not in self._makers:
            raise UserError(f"config={name}: no cell of the sweep begins with it")
        maker = self._makers[name]
        seed = given.get(SEED, maker.seed)
        others = {n: v for n, v in given.items() if isinstance(v, WorkdirOf)}
        needs = {n: self.cell({SEED: seed, **v.overrides}).training for n, v in others.items()}
        given |= {field: f"{FOLDER}/{training}" for field, training in needs.items()}
        shown = {field: _told(other) for field, other in others.items()}
        return dataclasses.replace(maker.cell(given, shown), needs=needs)


class _Maker:
    """Makes cells that begin with one config."""

    def __init__(self, name: str, base: ConfigDict, varied: Sequence[str]):
        self._config = name
        self._varied = varied
        self._named = {CONFIG: name} if name else {}
        self._fields = config_files.fields(base)
        self._names = _short_names(self._fields)
        self._usual = _defaults(base)
        self._scratch = ConfigDict(base.to_dict())
        self.seed = base.seed

    def cell(self, overrides: Overrides, shown: Overrides) -> Cell:
        """A cell of overrides by field; `shown` are those that are told otherwise than they are."""
        whole = self._fields | self._checked(overrides)
        named = self._named
        differs = {n: whole[n] for n in overrides if whole[n] != self._fields.get(n, ...)}
        differs = named | differs | shown
        seed = whole[SEED]
        # Where samples choose the checkpoint, how they are drawn is a matter of training.
        of_samples = () if whole.get("train.evaluate_every") else ("sample.",)
        sampling = {n: v for n, v in overrides.items() if n.startswith(of_samples)}
        sampling = sampling if of_samples else {}
        trained = {n: v for n, v in overrides.items() if n not in sampling}
        ours = _unusual(whole, self._usual, of_samples)
        # Of configs of several kinds, equal differences from other defaults are no equal runs.
        ours = {"kind": whole.get("kind"), **ours} if named else ours
        training = self._name({n: v for n, v in differs.items() if n not in sampling}, seed, ours)
        name = training
        if sampling:
            name = self._name(differs, seed, [ours, _unusual(whole, self._usual)])
        values = named | {n: shown.get(n, whole[n]) for n in self._varied if n in whole}
        return Cell(
            name=name,
            setting=self._text({n: v for n, v in values.items() if v is not None}) or "base",
            seed=seed,
            training=training,
            overrides=trained,
            sampling=sampling,
            values=values,
            config=self._config,
        )

    def _checked(self, overrides: Overrides) -> Overrides:
        """The overrides as the config holds them: 1 for a float is 1.0."""
        held = {}
        try:
            for field, value in overrides.items():
                held[field] = self._set(field, value)
            checks.check_ranges(self._scratch)
            checks.image_shape(self._scratch)
        except UserError as error:
            text = self._text(self._named | overrides, seed=True)
            raise UserError(f"cell {text}: {error}") from error
        finally:
            for field in overrides:
                self._restore(field)
        return held

    def _set(self, field: str, value: Any) -> Any:
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

    def _name(self, differs: Overrides, seed: int, ours: Any) -> str:
        text = ",".join(filter(None, [self._text(differs), f"seed={seed}"]))
        plain = re.sub(r"[^\w.,=+-]+", "_", text, flags=re.ASCII)[:MOST_LETTERS]
        return f"{plain}-{config_files.sha256(ours)[:DIGITS]}"

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


def _told(other: WorkdirOf) -> str:
    """What tells another cell from those beside it, in the name of one that needs its workdir."""
    told = (
        (name, _told(value) if isinstance(value, WorkdirOf) else _spelt(value))
        for field, given in other.overrides.items()
        for name, value in _flat(field, given)
    )
    return "+".join(f"seed {text}" if name == SEED else text for name, text in told) or "base"


def _flat(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A dict of options as its entries."""
    if not isinstance(value, Mapping):
        yield field, value
        return
    for name, inner in value.items():
        yield from _flat(f"{field}.{name}", inner)


def setting_named(
    asked: str | Mapping[str, Any], cells: Iterable[Cell], base: ConfigDict
) -> str | None:
    """The one setting of that name, or with these values.

    Args:
      asked: the name of a setting or cell, or {field: value}.
      cells: the sweep's.
      base: its config: fields that are not asked for may be of any cell, and of several settings
        it is the one that has them as the base config has.

    Returns:
      The setting; None where no cell has it, or several.
    """
    if isinstance(asked, str):
        found = {cell.setting for cell in cells if asked in (cell.setting, cell.name)}
        return found.pop() if found else None
    named = [cell for cell in cells if dict(asked).items() <= cell.values.items()]
    found = {cell.setting for cell in named}
    if len(found) > 1:
        usual = config_files.fields(base)
        whole = {n: asked.get(n, usual.get(n)) for cell in named for n in cell.values}
        found = {cell.setting for cell in named if {**whole, **cell.values} == whole}
    return found.pop() if len(found) == 1 else None


def compared(base: ConfigDict) -> Overrides:
    """The fields of a base config by which sweeps are told apart: those that are no defaults.

    So a field that comes with a later version makes it no other sweep.
    """
    return _unusual(config_files.fields(base), _defaults(base))


def _unusual(
    whole: Overrides, usual: Mapping[str, Any], without: tuple[str, ...] = ()
) -> Overrides:
    """What makes a config: its fields that are no defaults, but for places and groups left out."""
    left_out = (*PLACES, *without)
    return {n: v for n, v in whole.items() if not n.startswith(left_out) and usual.get(n, ...) != v}


def _defaults(base: ConfigDict) -> dict[str, Any]:
    """The default of every field of the base config's kind."""
    return config_files.fields(defaults.get_config(base.get("kind", "denoiser")))
