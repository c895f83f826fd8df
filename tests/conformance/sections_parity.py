"""The report's section beside diffusers."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

from conformance import texts
from conformance.report import DIFFERS, FAILS, Say, Section, Table, verdict
from ddpm_jax.errors import UserError


def parity_section(say: Say) -> Section:
    """Whole trajectories and tables beside diffusers', and what cannot be compared."""
    if not all(importlib.util.find_spec(name) for name in ("diffusers", "torch")):
        raise UserError("--only=parity needs diffusers and torch: pip install -e '.[parity]'")
    cases = _measure_cases(say)
    tables = [_schedule_table(say), _case_table(cases), _difference_table(say)]
    return Section(tables, details=cases)


def _schedule_table(say: Say) -> Table:
    from conformance import parity, parity_peers

    rows = []
    for name in (*parity.SCHEDULES, *parity.ZERO_SNR):
        zero = len(rows) >= len(parity.SCHEDULES)
        say(f"parity: the table of {name}")
        build = parity_peers.scheduler("DDPMScheduler", name, rescale_betas_zero_snr=zero)
        single = build()
        with parity.in_float64():
            double = build()
        schedule = (parity.ZERO_SNR if zero else parity.SCHEDULES)[name]
        with jax.enable_x64(True):
            t = jnp.arange(1, parity.SIZE + 1) / parity.SIZE
            ours = {"betas": schedule.betas, "alphas_cumprod": schedule.alpha(t) ** 2}
        found = [
            [
                np.abs(getattr(peer, field).numpy() - np.asarray(own)).max()
                for field, own in ours.items()
            ]
            for peer in (double, single)
        ]
        ok = max(found[0]) < 1e-12
        rows.append((f"{name}{', zero SNR' * zero}", *map(float, found[0] + found[1]), verdict(ok)))
    header = (
        "schedule",
        "betas, float64",
        "alpha_bar, float64",
        "betas, theirs as they are",
        "alpha_bar, theirs as they are",
        "verdict",
    )
    return Table("Schedules beside diffusers'", texts.TABLES, header, rows)


def _case_table(found: dict[str, tuple[float, float]]) -> Table:
    groups: dict[str, list[tuple[float, float]]] = {}
    for name, one in found.items():
        groups.setdefault(name.split(" ")[0], []).append(one)
    rows = []
    for name, group in groups.items():
        double, single = (float(worst) for worst in np.max(group, axis=0))  # NaN, if one is
        rows.append((name, len(group), double, single, verdict(double < 1e-10 and single < 1e-5)))
    header = ("scheduler", "cases", "largest difference, float64", "float32", "verdict")
    return Table("Beside diffusers", texts.PARITY, header, rows)


def _measure_cases(say: Say) -> dict[str, tuple[float, float]]:
    from conformance import parity, parity_cases

    found = {}
    for case in parity_cases.cases():
        say(f"parity: {case.name}")
        double, single = (parity.difference(case, dtype) for dtype in (np.float64, np.float32))
        found[case.name] = (double, single)
    return found


def _difference_table(say: Say) -> Table:
    from conformance import parity_differences

    rows = []
    for one in parity_differences.DIFFERENCES:
        say(f"parity: where {one.scheduler} differs")
        found, ok = one.measure()
        rows.append((one.scheduler, one.what, found, DIFFERS if ok else FAILS))
    header = ("scheduler of diffusers", "what it does", "measured", "verdict")
    return Table("Where diffusers differs", texts.DIFFERENCES, header, rows)
