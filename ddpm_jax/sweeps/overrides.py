"""What differs between the cells of a sweep: lists of overrides, {"optim.learning_rate": 1e-3}."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Overrides = dict[str, Any]
# A field with its values, or overrides that another helper made.
Part = Mapping[str, Sequence[Any]] | Iterable[Overrides]
Draw = Callable[[np.random.Generator], Any]
MOST_DRAWS = 100  # for each combination that is asked for: most may be there already


@dataclasses.dataclass(frozen=True)
class WorkdirOf:
    """The workdir of another cell, as the value of a field. See `workdir_of`."""

    overrides: Mapping[str, Any]


def workdir_of(overrides: Mapping[str, Any]) -> WorkdirOf:
    """The workdir of another cell, for a field that names one: that cell is trained first.

      grid([{"config": "latent", "data.codec": workdir_of({"config": "autoencoder"})}], seeds(3))

    Args:
      overrides: that cell's, which must be in the sweep; without "seed" of the cell's own seed.

    Raises:
      ValueError: for what are no overrides.
    """
    if not isinstance(overrides, Mapping):
        raise ValueError(f"workdir_of({overrides!r}): need that cell's overrides, {{field: value}}")
    return WorkdirOf(dict(overrides))


def grid(*parts: Part) -> list[Overrides]:
    """Every combination: `grid({"optim.learning_rate": (1e-3, 3e-4)}, seeds(2))` has 4.

    Args:
      *parts: {field: values} of several fields, each with each; or what another helper returned.

    Returns:
      The overrides of each cell; the last part changes fastest.

    Raises:
      ValueError: for a field that two parts set, or values that are no sequence.
    """
    lists = [one for part in parts for one in _lists(part)]
    return [_joined(combination) for combination in itertools.product(*lists)]


def zip_(*parts: Part) -> list[Overrides]:
    """The first values together, the second ones together, and so on.

    Args:
      *parts: as of `grid`; all fields and lists of one length.

    Raises:
      ValueError: for different lengths, or as `grid`.
    """
    lists = [one for part in parts for one in _lists(part)]
    if len({len(one) for one in lists}) > 1:
        lengths = ", ".join(f"{'/'.join(one[0]) if one else '?'}: {len(one)}" for one in lists)
        raise ValueError(f"zip_ needs as many values of each, got {lengths}")
    return [_joined(together) for together in zip(*lists, strict=True)]


def seeds(n: int, first: int = 0) -> list[Overrides]:
    """The training seeds first, first + 1, ..., n of them.

    Raises:
      ValueError: for n below 1.
    """
    if n < 1:
        raise ValueError(f"seeds({n}): need at least 1")
    return [{"seed": first + k} for k in range(n)]


def random(n: int, seed: int, fields: Mapping[str, Draw | Sequence[Any]]) -> list[Overrides]:
    """n different random combinations: of a larger n, the first ones are those of a smaller.

    Args:
      n: how many.
      seed: of the draws.
      fields: what each is drawn from: `uniform(low, high)`, `log_uniform(low, high)`, or a
        sequence of values, each as likely.

    Raises:
      ValueError: for n below 1, no values, or fewer combinations than n.

    Source: Bergstra and Bengio 2012, why random and not a grid.
    """
    if n < 1:
        raise ValueError(f"random({n}): need at least 1")
    draws = {
        field: values if callable(values) else choice(*values) for field, values in fields.items()
    }
    drawn: dict[tuple[Any, ...], Overrides] = {}
    for k in range(MOST_DRAWS * n):
        one = {
            field: draw(np.random.default_rng([seed, k, place]))
            for place, (field, draw) in enumerate(draws.items())
        }
        drawn.setdefault(tuple(one.values()), one)
        if len(drawn) == n:
            return [*drawn.values()]
    raise ValueError(f"random({n}): there are but {len(drawn)} different combinations")


def uniform(low: float, high: float) -> Draw:
    """A number in [low, high], of three significant digits. For `random`.

    Raises:
      ValueError: unless low < high.
    """
    if not low < high:
        raise ValueError(f"uniform({low}, {high}): need low < high")
    return lambda rng: _short(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
    """A number in [low, high] whose logarithm is uniform, of three significant digits.

    Raises:
      ValueError: unless 0 < low < high.
    """
    if not 0 < low < high:
        raise ValueError(f"log_uniform({low}, {high}): need 0 < low < high")
    return lambda rng: _short(math.exp(rng.uniform(math.log(low), math.log(high))))


def choice(*values: Any) -> Draw:
    """One of these values, each as likely. For `random`.

    Raises:
      ValueError: for none.
    """
    if not values:
        raise ValueError("choice(): need at least one value")
    return lambda rng: values[int(rng.integers(len(values)))]


def _short(number: float) -> float:
    """Three significant digits: what stands in a cell's name is the very value."""
    return float(f"{number:.3g}")


def _lists(part: Part) -> list[list[Overrides]]:
    if not isinstance(part, Mapping):
        return [[dict(one) for one in part]]
    for field, values in part.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"{field}: need a sequence of values, got {values!r}")
    return [[{field: value} for value in values] for field, values in part.items()]


def _joined(combination: Iterable[Overrides]) -> Overrides:
    joined: Overrides = {}
    for one in combination:
        for field, value in one.items():
            if field in joined:
                raise ValueError(f"{field} is set twice: {joined[field]!r} and {value!r}")
            joined[field] = value
    return joined
