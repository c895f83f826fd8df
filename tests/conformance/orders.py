"""Orders of convergence: the fitted slope of the error against the number of steps."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance import problems
from ddpm_jax import samplers
from ddpm_jax.samplers import dpm_solver, evaluations

part = functools.partial
# Where the fit is made. Below 32 steps not every error is asymptotic yet, and above 128 order 4
# comes near the reference's own 1e-12.
SIZES = (32, 64, 128)
SHORTFALL = 0.15  # that a fitted slope may have against the theory


@dataclasses.dataclass(frozen=True)
class Solver:
    """A sampler and the order that theory gives it."""

    sampler: Callable[..., Any]
    order: int


def _dpm(order: int, **options: Any) -> Any:
    return part(samplers.dpm_solver_pp, order=order, **options)


def _unipc(order: int, **options: Any) -> Any:
    return part(samplers.unipc, order=order, **options)


SOLVERS = {
    "Euler": Solver(samplers.euler, 1),
    "DDIM": Solver(samplers.ddim, 1),
    "Heun": Solver(samplers.heun, 2),
    "DPM-Solver++ 1": Solver(_dpm(1), 1),
    "DPM-Solver++ 2M": Solver(_dpm(2), 2),
    "DPM-Solver++ 3M": Solver(_dpm(3), 3),
    "DPM-Solver++ 2S": Solver(_dpm(2, method="singlestep"), 2),
    "DPM-Solver++ 3S": Solver(_dpm(3, method="singlestep"), 3),
    "UniP-1": Solver(_unipc(1, corrector=False), 1),
    "UniP-2": Solver(_unipc(2, corrector=False), 2),
    "UniP-3": Solver(_unipc(3, corrector=False), 3),
    "UniPC-1": Solver(_unipc(1), 2),
    "UniPC-2": Solver(_unipc(2), 3),
    "UniPC-3": Solver(_unipc(3), 4),
}
# As the papers and diffusers write them; the order that each claims.
PUBLISHED = {
    "DPM-Solver++ 2M": Solver(_dpm(2, form="published"), 2),
    "DPM-Solver++ 3M": Solver(_dpm(3, form="published"), 3),
    "DPM-Solver++ 2S": Solver(_dpm(2, method="singlestep", form="published"), 2),
    "UniP-2 (bh1)": Solver(_unipc(2, corrector=False, form="published", variant="bh1"), 2),
    "UniP-2 (bh2)": Solver(_unipc(2, corrector=False, form="published"), 2),
    "UniP-3": Solver(_unipc(3, corrector=False, form="published"), 3),
    "UniPC-1 (bh1)": Solver(_unipc(1, form="published", variant="bh1"), 2),
    "UniPC-1 (bh2)": Solver(_unipc(1, form="published"), 2),
    "UniPC-2 (bh1)": Solver(_unipc(2, form="published", variant="bh1"), 3),
    "UniPC-2 (bh2)": Solver(_unipc(2, form="published"), 3),
    "UniPC-3 (bh1)": Solver(_unipc(3, form="published", variant="bh1"), 4),
    "UniPC-3 (bh2)": Solver(_unipc(3, form="published"), 4),
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Errors, the largest over points and components of y = x / alpha, at numbers of steps."""

    sizes: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def slope(self) -> float:
        """The fitted order: of a line through log error against log number of steps."""
        return float(-np.polyfit(np.log(self.sizes), np.log(self.errors), 1)[0])

    @property
    def local(self) -> tuple[float, ...]:
        """The slope between each two neighbours."""
        pairs = itertools.pairwise(zip(self.sizes, self.errors, strict=True))
        return tuple(float(-np.log(e / d) / np.log(n / m)) for (m, d), (n, e) in pairs)


def curve(
    sampler: Callable[..., Any],
    sizes: Sequence[int] = SIZES,
    *,
    path: str = "vp",
    spacing: str = "lam",
    start: float = problems.START,
) -> Curve:
    """A sampler's errors on the mixture, between half log-SNRs `start` and problems.END."""
    truth = problems.solution(start)
    found = [
        problems.solve(sampler, path, problems.grid(path, size, spacing, start), start)
        for size in sizes
    ]
    return Curve(tuple(sizes), tuple(float(np.abs(y - truth).max()) for y in found))


def exact_3m_without_opening(denoise: Any, schedule: Any, times: Any, key: Any, x: Any) -> Any:
    """Exact DPM-Solver++ 3M but for its first step, which is of first order as the published one's.

    The package does not offer it: it is here to show what the opening is for.
    """
    rows, lams = [], []
    for t, s in itertools.pairwise(evaluations.plan(schedule, times)):
        lams = [t.lam, *lams][:3]
        rows.append(dpm_solver._step(t, s, lams, "exact", sde=False))
    return evaluations.run(denoise, rows, times, key, x)
