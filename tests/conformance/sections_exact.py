"""The report's sections of what is exact: points, flows, likelihoods, identities, symmetries."""

import functools
import itertools
from collections.abc import Callable

from conformance import flows, identities, laws, likelihoods, problems, symmetries, texts
from conformance.report import Say, Section, Table, verdict

part = functools.partial


def point_table(say: Say) -> Table:
    """Solvers on a point mass."""
    rows = []
    for name, sampler in laws.EXACT_ON_A_POINT.items():
        say(f"laws: {name} on a point mass")
        worst = max(laws.distance_from_the_flow_of_a_point(sampler, p) for p in problems.PATHS)
        rows.append((name, worst, verdict(worst < 1e-12)))
    header = ("solver", "largest distance from the exact flow", "verdict")
    return Table("A point mass, any grid", texts.POINT, header, rows)


def flow_table(say: Say) -> Table:
    """The adaptive ODE on a Gaussian."""
    rows = []
    kinds = [*((path, "tsit5") for path in flows.PATHS), *((p, "dopri8") for p in ("vp", "flow"))]
    for path, solver in kinds:
        say(f"laws: the ODE on {path} by {solver}")
        found = flows.flow(path, solver)
        rows.append((path, solver, *found, verdict(found.distance < flows.BOUND)))
    header = ("path", "solver", "largest distance from the exact flow", "network calls", "verdict")
    return Table("The probability-flow ODE at a tolerance of 1e-8", texts.FLOW, header, rows)


def likelihood_section(say: Say) -> Section:
    """Likelihood three ways, and the chain's terms one by one."""
    return Section([*_way_tables(say), _term_table(say)])


def _way_tables(say: Say) -> list[Table]:
    ways: dict[str, Callable[[float], tuple[likelihoods.Excess, float | None]]] = {
        "discrete bound, fixed_large": part(likelihoods.discrete, fixed="fixed_large"),
        "discrete bound, fixed_small": part(likelihoods.discrete, fixed="fixed_small"),
        "continuous bound": likelihoods.continuous,
        "probability-flow ODE": lambda variance: (likelihoods.flow(variance), None),
    }
    rows, sums = [], []
    for (name, way), variance in itertools.product(ways.items(), likelihoods.VARIANCES):
        say(f"likelihood: {name}, variance {variance}")
        excess, off = way(variance)
        # Only fixed_small's own gap is more than what is asked of the others.
        known = likelihoods.gap(variance, "fixed_small") if "fixed_small" in name else 0.0
        ok = abs(excess.mean - known) < likelihoods.BOUND + laws.Z_BOUND * excess.error
        rows.append((name, variance, known, *excess, verdict(ok)))
        if off is not None:
            sums.append((name, variance, off, verdict(off < 1e-5)))
    header = (
        "way",
        "data variance",
        "known gap",
        "bits/dim above the truth",
        "standard error",
        "verdict",
    )
    add_up = ("bound", "data variance", "largest difference, bits/dim", "verdict")
    return [
        Table("Likelihood three ways", texts.LIKELIHOOD, header, rows),
        Table("Totals and the sums of their terms", texts.SUMS, add_up, sums),
    ]


def _term_table(say: Say) -> Table:
    rows = []
    for fixed, variance in itertools.product(("fixed_small", "fixed_large"), likelihoods.VARIANCES):
        say(f"likelihood: the terms of {fixed}, variance {variance}")
        known, found = (
            way(variance, fixed) for way in (likelihoods.closed_form, likelihoods.expected)
        )
        gap = likelihoods.gap(variance, fixed)
        above = found.total - likelihoods.entropy(variance)
        apart = max(abs(above - gap), *(abs(a - b) for a, b in zip(known, found, strict=True)))
        rows.append((fixed, variance, *known, gap, above, apart, verdict(apart < 1e-8)))
    header = (
        "variance",
        "data's",
        "prior",
        "denoising",
        "decoder",
        "sum of KLs",
        "bound above the truth",
        "largest difference",
        "verdict",
    )
    return Table("The chain's terms one by one", texts.TERMS, header, rows)


def identity_section(say: Say) -> Section:
    """Round trips, identities between losses, symmetries."""
    return Section([_trip_table(say), *_loss_tables(say), _symmetry_table(say)])


def _trip_table(say: Say) -> Table:
    rows = []
    trips = {form: part(identities.round_trip, form) for form in identities.CONTINUOUS}
    trips["posterior_mean, float64"] = identities.posterior_mean_round_trip
    for name, trip in trips.items():
        say(f"identities: there and back through {name}")
        found = trip()
        bound = 1e-10 if "float64" in name else identities.ROUNDING
        ok = found.finite and max(found[:3]) < bound
        rows.append((name, *found[:3], bound, verdict(ok)))
    header = (
        "through",
        "x_0, log-SNR >= 0",
        "eps, log-SNR <= 0",
        "alpha x_0 and sigma eps, all",
        "bound",
        "verdict",
    )
    return Table("Parameterisations there and back", texts.TRIPS, header, rows)


def _loss_tables(say: Say) -> list[Table]:
    say("identities: losses and weightings")
    losses, weights = [], []
    for form, (factor, _) in identities.OF_X0.items():
        found = identities.loss_identity(form)
        losses.append((form, factor, found, verdict(found < 1e-9)))
    for name, (_, source, _) in identities.WEIGHTS.items():
        found = identities.weighting_identity(name)
        weights.append((name, source, found, verdict(found < 1e-8)))
    header = ("loss of", "is the loss of x_0 times", "largest relative difference", "verdict")
    papers = ("weighting", "on the error of x_0", "largest relative difference", "verdict")
    return [
        Table("Losses as weighted losses of x_0", texts.LOSSES, header, losses),
        Table("Weightings with any parameterisation", texts.WEIGHTINGS, papers, weights),
    ]


def _symmetry_table(say: Say) -> Table:
    rows = []
    for name, (sampler, stated) in symmetries.SAMPLERS.items():
        say(f"identities: symmetries of {name}")
        found = symmetries.measure(sampler)
        ok = max(found[:3]) < 1e-5 and found.compiled == 1 and found.calls == stated
        rows.append((name, *found, stated, verdict(ok)))
    header = (
        "sampler",
        "8 at once, one by one",
        "compiled or not",
        "1 device, 8",
        "programs for two calls",
        "network calls",
        "stated",
        "verdict",
    )
    return Table("Symmetries", texts.SYMMETRIES, header, rows)
