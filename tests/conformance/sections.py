"""The report's sections: what is measured, beside what it should be."""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import oracles

from conformance import laws, orders, problems, report, texts
from conformance.report import DEVIATES, HOLDS, Line, Panel, Say, Section, Table, verdict
from conformance.sections_exact import (
    flow_table,
    identity_section,
    likelihood_section,
    point_table,
)
from conformance.sections_guidance import guidance_section
from conformance.sections_parity import parity_section
from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import grids

SIZES = (32, 64, 128, 256)
# Other names of Euler's method, of DPM-Solver++ 2M and, to a hair, of 3M: not drawn twice.
SAME_CURVES = ("DDIM", "DPM-Solver++ 1", "UniP-1", "UniP-2", "UniP-3")
part = functools.partial


def order_section(say: Say) -> Section:
    """Orders of convergence."""
    exact = {name: orders.curve(s.sampler, SIZES) for name, s in _each(orders.SOLVERS, say)}
    published = {name: orders.curve(s.sampler, SIZES) for name, s in _each(orders.PUBLISHED, say)}
    tables = [
        _order_table("Orders of convergence", texts.ORDERS, exact, orders.SOLVERS, report.FAILS),
        _order_table("Published forms", texts.PUBLISHED, published, orders.PUBLISHED, DEVIATES),
    ]
    trap, trap_lines = _trap_table(say)
    tables += [trap, _path_table(say)]
    shown = {name: curve for name, curve in exact.items() if name not in SAME_CURVES}
    lines = [
        Line(
            f"{name} ({orders.SOLVERS[name].order})", c.sizes, c.errors, orders.SOLVERS[name].order
        )
        for name, c in shown.items()
    ]
    ylabel = "largest error of x / alpha"
    return Section(
        tables,
        [
            Panel("Order of convergence (in brackets: theory)", ylabel, lines),
            Panel("From log(alpha / sigma) = -1; dashed: published", ylabel, trap_lines),
        ],
    )


def _each(solvers: dict[str, orders.Solver], say: Say) -> Iterator[tuple[str, orders.Solver]]:
    for name, solver in solvers.items():
        say(f"orders: {name}")
        yield name, solver


def _order_table(
    title: str,
    text: str,
    curves: dict[str, orders.Curve],
    solvers: dict[str, orders.Solver],
    otherwise: str,
) -> Table:
    rows = []
    for name, curve in curves.items():
        theory = solvers[name].order
        # Where errors cancel at first, the last stretch tells; where not, both agree.
        ok = min(curve.slope, curve.local[-1]) >= theory - orders.SHORTFALL
        rows.append(
            (name, theory, curve.errors, curve.local, curve.slope, HOLDS if ok else otherwise)
        )
    header = ("solver", "theory", "errors at 32, 64, 128, 256", "local slopes", "fitted", "verdict")
    return Table(title, text, header, rows)


def _trap_table(say: Say) -> tuple[Table, list[Line]]:
    kinds = {
        "3M exact": (orders.SOLVERS["DPM-Solver++ 3M"].sampler, 3, False),
        "3M exact, first step of order 1": (orders.exact_3m_without_opening, 3, True),
        "3M published": (orders.PUBLISHED["DPM-Solver++ 3M"].sampler, 3, True),
        "UniP-3 exact": (orders.SOLVERS["UniP-3"].sampler, 3, False),
        "UniP-3 published": (orders.PUBLISHED["UniP-3"].sampler, 3, True),
        "UniPC-3 exact": (orders.SOLVERS["UniPC-3"].sampler, 4, False),
        "UniPC-3 published": (orders.PUBLISHED["UniPC-3 (bh2)"].sampler, 4, True),
    }
    rows, lines = [], []
    for name, (sampler, theory, published) in kinds.items():
        for start in (-4.6, -2.0, -1.0):
            say(f"orders: {name} from {start}")
            curve = orders.curve(sampler, SIZES, start=start)
            ok = curve.local[-1] >= theory - orders.SHORTFALL
            known = HOLDS if ok else DEVIATES if published else report.FAILS
            rows.append((name, str(start), theory, curve.local, curve.errors[-1], known))
        lines.append(Line(f"{name} ({theory})", curve.sizes, curve.errors, theory, published))
    header = ("solver", "start", "theory", "local slopes to 256", "error at 256", "verdict")
    return Table("Where third order is lost", texts.TRAP, header, rows), lines


def _path_table(say: Say) -> Table:
    names = ("Euler", "Heun", "DPM-Solver++ 2M", "DPM-Solver++ 3M", "DPM-Solver++ 3S", "UniPC-3")
    spacings = {"edm": "karras", "ve": "karras"}
    rows = []
    for name, path in itertools.product(names, problems.PATHS):
        say(f"orders: {name} on {path}")
        solver, spacing = orders.SOLVERS[name], spacings.get(path, "time")
        curve = orders.curve(solver.sampler, (128, 256), path=path, spacing=spacing)
        ok = curve.slope >= solver.order - orders.SHORTFALL
        row = (name, path, spacing, solver.order, curve.errors, curve.slope, verdict(ok))
        rows.append(row)
    header = (
        "solver",
        "path",
        "equal strides of",
        "theory",
        "errors at 128, 256",
        "slope",
        "verdict",
    )
    return Table("Other paths and uneven strides", texts.PATHS, header, rows)


def law_section(say: Say) -> Section:
    """Laws of noisy samplers, and exactness."""
    tables, lines = [], []
    rows = []
    for name, noisy in laws.NOISY.items():
        say(f"laws: {name}")
        sizes = (64, 128, 256)
        means, variances = zip(*(laws.bias(noisy.sampler, "vp", n) for n in sizes), strict=True)
        fitted = report.slope(sizes, variances)
        ok = fitted >= noisy.order - orders.SHORTFALL
        known = DEVIATES if name == laws.SIGN_ERROR and not ok else verdict(ok)
        rows.append((name, noisy.order, max(means), variances, fitted, known))
        if "published" not in name:
            lines.append(Line(f"{name} ({noisy.order})", sizes, variances, noisy.order))
    header = ("sampler", "order", "mean", "variance at 64, 128, 256", "fitted", "verdict")
    tables.append(Table("Bias of noisy samplers, without a draw", texts.BIAS, header, rows))
    tables += [_draw_table(say), _ancestral_table(say), point_table(say), flow_table(say)]
    say("laws: a mixture by ancestral sampling")
    checks = laws.mixture_checks(samplers.ancestral, num_steps=1000, count=100_000)
    tables.append(_check_table("A mixture", texts.MIXTURE, checks))
    checks = []
    for path, predictor in laws.CORRECTED:
        say(f"laws: predictor-corrector on {path} by {predictor}")
        checks += laws.corrected(path, predictor)
    tables.append(_check_table("Predictor-corrector's last marginal", texts.CORRECTED, checks))
    panel = Panel("Bias of the variance on Gaussian data", "relative bias", lines)
    return Section(tables, [panel])


def _draw_table(say: Say) -> Table:
    schedule, rows = problems.PATHS["vp"], []
    times = grids.uniform(schedule, 25)
    start = laws.Law(0.0, float(schedule.values(np.array([1.0]))[1][0]) ** 2)
    for name, noisy in laws.NOISY.items():
        say(f"laws: draws of {name}")
        law = laws.linear_map(noisy.sampler, schedule, times).of(start)
        samples = laws.drawn(noisy.sampler, laws.DATA, schedule, times, (100_000, 1))
        z = laws.scores(samples, law)
        ok = max(map(abs, z)) < laws.Z_BOUND
        rows.append((name, law.variance / laws.DATA.variance, *z, verdict(ok)))
    for step_size in (0.1, 0.5, 1.5):
        z = laws.langevin_scores(step_size, 100_000)
        ok = max(map(abs, z)) < laws.Z_BOUND
        law, level = laws.langevin_law(step_size)
        ratio = law.variance / level.variance
        rows.append((f"Langevin, step {step_size} sigma²", ratio, *z, verdict(ok)))
    header = ("sampler", "variance / data's", "z of the mean", "z of the variance", "verdict")
    return Table("100,000 draws against the law of the sampler", texts.DRAWS, header, rows)


def _ancestral_table(say: Say) -> Table:
    schedule, nodes, rows = schedules.linear(), np.arange(1000, -1, -1), []
    for fixed, known in (("fixed_small", 0.967), ("fixed_large", 1.008)):
        say(f"laws: ancestral sampling in 1000 steps, {fixed}")
        law = laws.Law(*oracles.ancestral_law(schedule.betas, nodes, 0.6, 0.05, fixed))
        sampler = part(samplers.ancestral, variance=fixed)
        samples = laws.drawn(sampler, laws.DATA, schedule, nodes / 1000, (100_000, 1))
        z = laws.scores(samples, law)
        ratios = law.variance / 0.05, float(samples.var(dtype=np.float64)) / 0.05
        ok = abs(ratios[0] - known) < 5e-4 and max(map(abs, z)) < laws.Z_BOUND
        rows.append((fixed, known, *ratios, *z, verdict(ok)))
    header = (
        "variance",
        "known ratio",
        "closed form",
        "drawn",
        "z, mean",
        "z, variance",
        "verdict",
    )
    return Table("Ancestral sampling at T = 1000", texts.ANCESTRAL, header, rows)


def _check_table(title: str, text: str, checks: list[laws.Check]) -> Table:
    rows = [
        (c.what, c.truth, c.measured, c.bound, verdict(abs(c.measured - c.truth) < c.bound))
        for c in checks
    ]
    return Table(title, text, ("number", "truth", "drawn", "bound", "verdict"), rows)


SECTIONS: dict[str, Callable[[Say], Section]] = {
    "orders": order_section,
    "laws": law_section,
    "likelihood": likelihood_section,
    "identities": identity_section,
    "guidance": guidance_section,
    "parity": parity_section,
}
