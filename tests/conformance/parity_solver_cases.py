"""DPM-Solver++ and UniPC beside diffusers: the rows of the table."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from conformance import parity_peers as peers
from conformance.parity import FLOORED, FORMS, NUM_STEPS, SCHEDULES, SIZE, SPACINGS, ZERO_SNR, Case
from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import grids

part = functools.partial
ORDERS = (1, 2, 3)
DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
# Clipping is thresholding to at most 1: theirs have no other.
BOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": ({}, {}),
    " clip_x0": ({"clip_x0": True}, {"thresholding": True, "sample_max_value": 1.0}),
    " threshold": (
        {"threshold": 0.7},
        {
            "thresholding": True,
            "sample_max_value": np.inf,
            "dynamic_thresholding_ratio": 0.7,
        },
    ),
}


def cases() -> Iterator[Case]:
    for name, spacing, order in itertools.product(SCHEDULES, SPACINGS, ORDERS):
        form = "v_prediction" if name == "squaredcos_cap_v2" else "epsilon"
        for sde in (False, True):
            yield dpm(name, spacing, order, sde, form)
        for variant in ("bh1", "bh2"):
            yield unipc(name, spacing, order, variant, form)
    for order, sde in itertools.product((2, 3), (False, True)):
        for form in ("v_prediction", "sample"):
            yield dpm("linear", "trailing", order, sde, form)
        for said in list(BOUNDS)[1:]:
            yield dpm("linear", "leading", order, sde, "epsilon", said)
    for name, sde in itertools.product(("linear", "scaled_linear"), (False, True)):
        yield dpm(name, "leading", 2, sde, "epsilon", heun=True)
    for order in (2, 3):
        for form in ("v_prediction", "sample"):
            yield unipc("linear", "trailing", order, "bh2", form)
        for said in list(BOUNDS)[1:]:
            yield unipc("linear", "leading", order, "bh2", "epsilon", said)
        # Fewer than 15 steps, or theirs ignores it; UniPC then goes on to 0.
        yield dpm("linear", "leading", order, False, "epsilon", final=True)
        yield unipc("linear", "leading", order, "bh2", "epsilon", final=True)
    for name, order in itertools.product(ZERO_SNR, ORDERS):
        for sde in (False, True):
            yield dpm(name, "trailing", order, sde, "v_prediction", zero_snr=True)
        yield unipc(name, "trailing", order, "bh2", "v_prediction", zero_snr=True)
    yield from _spaced_cases()
    yield from _flow_cases()


def solver_grid(schedule: schedules.Schedule, spacing: str, num_steps: int) -> np.ndarray:
    """Their spacing: for "leading" and "linspace" that of one step more, without index 0."""
    if spacing == "trailing":
        return grids.uniform(schedule, num_steps)
    return np.delete(SPACINGS[spacing](schedule, num_steps + 1), -2)


def dpm(
    name: str,
    spacing: str,
    order: int,
    sde: bool,
    form: str,
    bound: str = "",
    *,
    heun: bool = False,
    final: bool = False,
    zero_snr: bool = False,
    num_steps: int = NUM_STEPS,
) -> Case:
    """heun: their solver_type "heun", which is the exact form of order 2."""
    schedule = (FLOORED if zero_snr else SCHEDULES)[name]
    ours, theirs = BOUNDS[bound]
    options = {
        "solver_order": order,
        "algorithm_type": "sde-dpmsolver++" if sde else "dpmsolver++",
        "solver_type": "heun" if heun else "midpoint",
        "lower_order_final": final,
        "prediction_type": form,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
    }
    more = {"lower_order_final": True} if final else {}
    said = f"{' sde' * sde}{' heun' * heun}{' lower_order_final' * final}{bound}"
    return Case(
        f"DPMSolverMultistep {name}{' zero SNR' * zero_snr} {spacing} {form} order {order}{said}",
        schedule,
        solver_grid(schedule, spacing, num_steps),
        part(
            samplers.dpm_solver_pp,
            order=order,
            form="exact" if heun else "published",
            sde=sde,
            **more,
            **ours,
        ),
        peers.by_level(peers.scheduler(DPM, name, **options, **theirs), schedule),
        FORMS[form],
        "evaluations" if sde else None,
    )


def unipc(
    name: str,
    spacing: str,
    order: int,
    variant: str,
    form: str,
    bound: str = "",
    *,
    final: bool = False,
    zero_snr: bool = False,
    to_zero: bool = False,
) -> Case:
    """to_zero: down to sigma = 0, where theirs divides by 0 unless the order is lowered before."""
    schedule = (FLOORED if zero_snr else SCHEDULES)[name]
    ours, theirs = BOUNDS[bound]
    options = {
        "solver_order": order,
        "solver_type": variant,
        "lower_order_final": final,
        "prediction_type": form,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
    }
    times = solver_grid(schedule, spacing, NUM_STEPS)
    more = {"lower_order_final": True} if final else {}
    said = f"{variant}{' lower_order_final' * final}{bound}"
    return Case(
        f"UniPC {name}{' zero SNR' * zero_snr} {spacing} {form} order {order} {said}",
        schedule,
        times if final or to_zero else times[:-1],
        part(samplers.unipc, order=order, form="published", variant=variant, **more, **ours),
        peers.by_level(peers.scheduler(UNIPC, name, **options, **theirs), schedule),
        FORMS[form],
    )


def to_the_first_node(times: np.ndarray) -> np.ndarray:
    """The grid with its last level at i = 1 exactly, as theirs."""
    return np.append(times[:-2], [1 / SIZE, 0])


def _spaced_cases() -> Iterator[Case]:
    """Levels that are spaced by themselves, between the table's own ends."""
    schedule = SCHEDULES["scaled_linear"]
    even = to_the_first_node(grids.log_snr_uniform(schedule, NUM_STEPS))
    for option, times in {
        "karras_sigmas": grids.karras(schedule, NUM_STEPS),
        "exponential_sigmas": even,
        "lu_lambdas": even,
    }.items():
        options = {"lower_order_final": False, "prediction_type": "v_prediction"}
        options[f"use_{option}"] = True
        build = peers.scheduler(DPM, "scaled_linear", **options)
        yield Case(
            f"DPMSolverMultistep scaled_linear {option.split('_')[0]} v_prediction order 2",
            schedule,
            times,
            part(samplers.dpm_solver_pp, order=2, form="published"),
            peers.by_level(build, schedule, nodes=False),
            "v",
        )
        if option == "lu_lambdas":
            continue  # UniPC has none
        yield Case(
            f"UniPC scaled_linear {option.split('_')[0]} v_prediction order 2 bh2",
            schedule,
            times[:-1],
            part(samplers.unipc, order=2, form="published"),
            peers.by_level(
                peers.scheduler(UNIPC, "scaled_linear", **options), schedule, nodes=False
            ),
            "v",
        )


@functools.cache
def unshifted(shift: float) -> Callable[[jax.Array], jax.Array]:
    """The time of a flow's noise level u = shift t / (1 + (shift - 1) t)."""
    return lambda u: u / (shift - (shift - 1) * u)


def _flow_cases() -> Iterator[Case]:
    shift = 3.0
    schedule = schedules.flow(shift)
    # Theirs begins one of 1000 steps below alpha = 0.
    times = np.linspace(1 - 1e-3, 0, NUM_STEPS + 1)
    options = {
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "prediction_type": "flow_prediction",
        "lower_order_final": False,
    }
    for order, sde in itertools.product((2, 3), (False, True)):
        more = {
            "solver_order": order,
            "algorithm_type": "sde-dpmsolver++" if sde else "dpmsolver++",
        }
        yield Case(
            f"DPMSolverMultistep flow, shift 3, order {order}{' sde' * sde}",
            schedule,
            times,
            part(samplers.dpm_solver_pp, order=order, form="published", sde=sde),
            peers.by_level(
                peers.scheduler(DPM, **options, **more), schedule, level="sigma", nodes=False
            ),
            "flow",
            "evaluations" if sde else None,
            clock=unshifted(shift),
        )


def edm_cases(
    path: schedules.Schedule,
    all_times: dict[str, np.ndarray],
    clock: Callable[[jax.Array], jax.Array],
) -> Iterator[Case]:
    """diffusers' DPM-Solver++ on EDM's own path."""

    def case(
        order: int,
        *,
        sde: bool = False,
        heun: bool = False,
        word: str = "karras",
        bound: str = "",
        form: str = "epsilon",
    ) -> Case:
        ours, theirs = BOUNDS[bound]
        build = peers.scheduler(
            "EDMDPMSolverMultistepScheduler",
            solver_order=order,
            lower_order_final=False,
            algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
            solver_type="heun" if heun else "midpoint",
            sigma_schedule=word,
            prediction_type=form,
            **theirs,
        )
        sign = -1 if form == "v_prediction" else 1
        said = f"{' sde' * sde}{' heun' * heun}{bound}"
        return Case(
            f"EDMDPMSolverMultistep {word} {form} order {order}{said}",
            path,
            all_times[word],
            part(
                samplers.dpm_solver_pp,
                order=order,
                form="exact" if heun else "published",
                sde=sde,
                **ours,
            ),
            peers.by_level(build, path, nodes=False, sign=sign),
            "edm",
            "evaluations" if sde else None,
            clock=clock,
        )

    for order in ORDERS:
        # Their order 3 has no SDE form: it ends in an error (`parity_differences`).
        for sde in (False, True) if order < 3 else (False,):
            yield case(order, sde=sde)
        yield case(order, word="exponential")
    for sde in (False, True):
        yield case(2, sde=sde, heun=True)
    yield case(2, bound=" clip_x0")
    yield case(2, form="v_prediction")
