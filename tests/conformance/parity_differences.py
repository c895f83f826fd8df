"""Where diffusers cannot be compared as it is: what it does there, measured.

Each function of DIFFERENCES answers (figure, whether the figure shows what the report says of it).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from conformance import parity, parity_cases, parity_peers
from conformance import parity_solver_cases as solvers
from conformance.parity import NUM_STEPS, SCHEDULES, SIZE, ZERO_SNR, Case
from ddpm_jax import samplers
from ddpm_jax.samplers import grids

LINEAR = SCHEDULES["linear"]


class Difference(NamedTuple):
    """Which scheduler, what it does, and the measurement that shows it."""

    scheduler: str
    what: str
    measure: Callable[[], tuple[Any, bool]]


def _far(case: Case, least: float = 1e-3) -> tuple[float, bool]:
    """How far apart the trajectories are, in units of theirs, where they are no longer the same."""
    found = parity.difference(case, np.float64)
    return found, found > least


def _made(kind: str, num_steps: int = NUM_STEPS, **options: Any) -> Any:
    """A scheduler on the linear schedule with its grid, in float64."""
    with parity.in_float64():
        peer = parity_peers.scheduler(kind, **{"name": "linear"} | options)()
        peer.set_timesteps(num_steps)
        return peer


def _raises(run: Callable[[], Any]) -> tuple[str, bool]:
    try:
        run()
    except (NotImplementedError, UnboundLocalError) as error:
        return type(error).__name__, True
    return "no error", False


def _linspace_levels() -> tuple[float, bool]:
    """In units of indices, of the largest of the 20 times."""
    theirs = _made("EulerDiscreteScheduler", 20, timestep_spacing="linspace").timesteps.numpy()
    ours = parity_peers.indices(grids.linspace(LINEAR, 20))
    found = float(np.abs(theirs - ours).max())
    return found, 0.1 < found <= 0.5


def _correction_from_alpha_near_0() -> tuple[str, bool]:
    """Away from ours as it is, and from ours without its bound."""
    found, unbounded = [], []
    for kind, name, spacing in parity_cases.TOO_LONG:
        case = parity_cases.euler(kind, name, spacing, "v_prediction")
        found.append(parity.difference(case, np.float64))
        sampler = functools.partial(case.sampler, largest_correction=np.inf)
        case = dataclasses.replace(case, sampler=sampler)
        unbounded.append(parity.difference(case, np.float64))
    ok = min(found) > 0.1 and max(unbounded) < 1e-10
    return f"{max(found):.3f}; without our bound {max(unbounded):.1e}", ok


def _last_call() -> tuple[int, bool]:
    peers = [_made(kind, timestep_spacing="leading") for kind in (solvers.DPM, solvers.UNIPC)]
    last = [int(peer.timesteps[-1]) for peer in peers]
    return last[0], last == [90, 90] and grids.leading(LINEAR, NUM_STEPS)[-2] == 1 / SIZE


def _rounded_times() -> tuple[float, bool]:
    peer = _made(solvers.DPM, use_karras_sigmas=True)
    found = float(
        np.abs(peer.timesteps.numpy() - grids.karras(LINEAR, NUM_STEPS)[:-1] * SIZE + 1).max()
    )
    return found, 0.1 < found < 0.51


def _end_of_unipc() -> tuple[str, bool]:
    ends = []
    for order in (2, 3):
        case = solvers.unipc("linear", "leading", order, "bh2", "epsilon", to_zero=True)
        try:
            _, theirs = parity.trajectories(case, np.float64)
        except Exception as error:  # torch's own, of a singular matrix
            ends.append(type(error).__name__.removeprefix("_"))
        else:
            ends.append(str(abs(float(theirs[-1, 0, 0]))))
    return ", ".join(ends), ends == ["inf", "LinAlgError"]


def _third_order_sde() -> tuple[str, bool]:
    path = parity_cases.EDM
    options = {"solver_order": 3, "algorithm_type": "sde-dpmsolver++", "lower_order_final": False}
    build = parity_peers.scheduler("EDMDPMSolverMultistepScheduler", **options)
    case = Case(
        "EDM 3M SDE",
        path,
        grids.karras(path, NUM_STEPS),
        functools.partial(samplers.dpm_solver_pp, order=3, sde=True),
        parity_peers.by_level(build, path, nodes=False),
        "edm",
        "evaluations",
        clock=parity_cases.edm_clock,
    )
    return _raises(lambda: parity.trajectories(case, np.float64))


def _root_of_a_rounding() -> tuple[str, bool]:
    found = []
    for num_steps in (20, 25):
        case = parity_cases.ddim(
            "scaled_linear", "trailing", "v_prediction", 1.0, zero_snr=True, num_steps=num_steps
        )
        found.append(parity.difference(case, np.float64))
    return ", ".join(f"{one:.1e}" for one in found), not max(found) < 1e-10


def _eps_at_small_alpha() -> tuple[float, bool]:
    case = parity_cases.ddim("squaredcos_cap_v2", "trailing", "epsilon", 0.0)
    double, single = (parity.difference(case, dtype) for dtype in (np.float64, np.float32))
    return single, double < 1e-10 and single > 1e-5


def _risen_snr() -> tuple[float, bool]:
    peer = _made("EulerDiscreteScheduler", rescale_betas_zero_snr=True)
    found = float(peer.alphas_cumprod[-1] / peer.alphas_cumprod[-2])
    return found, found > 1


def _floor() -> tuple[float, bool]:
    case = parity_cases.euler(
        "EulerDiscreteScheduler", "linear", "trailing", "v_prediction", zero_snr=True
    )
    _, theirs = parity.trajectories(case, np.float64)
    zero = parity.our_trajectory(dataclasses.replace(case, schedule=ZERO_SNR["linear"]), np.float64)
    found = float(np.abs(zero - theirs).max() / np.abs(theirs).max())
    return found, 1e-7 < found < 1e-2


def _shifted_twice() -> tuple[float, bool]:
    kind = "FlowMatchEulerDiscreteScheduler"
    peer = _made(kind, name=None, shift=3.0)
    once = 3e-3 / (1 + 2e-3)
    found = float(peer.sigmas[-2])
    return found, abs(found / (3 * once / (1 + 2 * once)) - 1) < 1e-9


def _limit_of_pixels() -> tuple[float, bool]:
    case = parity_cases.ddim("linear", "leading", "epsilon", 0.0, threshold=0.7, largest=1.0)
    return _far(case)


def _tables() -> tuple[float, bool]:
    """Of DDPM's whole chain of 1000 steps, theirs as it is."""
    case = parity_cases.ddpm(
        "linear", "leading", "fixed_small", "epsilon", num_steps=SIZE, clip_x0=True
    )
    ours = parity.our_trajectory(case, np.float64)
    with jax.enable_x64(True):
        noise = parity.noise_of(SIZE, case.noisy, np.float64)
        theirs = case.peer(case.times, parity.model_of(case), noise, ours[0])
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return found, 1e-7 < found < 1e-3


_ddim, _ddpm = parity_cases.ddim, parity_cases.ddpm
DIFFERENCES = [
    Difference(
        "all",
        "float32 tables, levels and samples, under which DDPM's chain of 1000 moves by",
        _tables,
    ),
    Difference(
        "all but DDPM",
        'beta_schedule="sigmoid"',
        lambda: _raises(lambda: _made(solvers.DPM, name=None, beta_schedule="sigmoid")),
    ),
    Difference(
        "DDIM, linspace",
        "steps by T // N = 100 indices where its list goes by 111: away from ours by",
        lambda: _far(_ddim("linear", "linspace", "epsilon", 0.0)),
    ),
    Difference(
        "DDIM, trailing, 30 steps",
        "steps by T // N = 33 indices where its list goes by 33 or 34: away from ours by",
        lambda: _far(_ddim("linear", "trailing", "epsilon", 0.0, num_steps=30), 1e-4),
    ),
    Difference(
        "DDIM, clip_sample",
        "eps of before the clipping, unless use_clipped_model_output: away from ours by",
        lambda: _far(_ddim("linear", "leading", "epsilon", 0.0, clip_x0=True, rederive=False)),
    ),
    Difference(
        "DDIM, zero SNR, eta = 1",
        "the root of a rounding error, or of -1 times it: 20 and 25 steps away from ours by",
        _root_of_a_rounding,
    ),
    Difference(
        "DDPM, trailing, fixed_large",
        "noise in the last step, to t = 0 (learned_range too): away from ours by",
        lambda: _far(_ddpm("linear", "trailing", "fixed_large", "epsilon", quiet_end=False)),
    ),
    Difference(
        "all, thresholding",
        "sample_max_value = 1 by default: clips, does not scale: away from Imagen's by",
        _limit_of_pixels,
    ),
    Difference(
        "Euler, EulerAncestral, Heun, linspace, 20 steps",
        "times between the nodes, levels interpolated; largest distance from a node",
        _linspace_levels,
    ),
    Difference(
        "Heun, cosine, linspace and trailing",
        "corrects a first step from alpha = 5e-5, where ours is Euler's: away from ours by",
        _correction_from_alpha_near_0,
    ),
    Difference(
        "EulerAncestral",
        'prediction_type="sample"',
        lambda: _raises(
            lambda: parity.trajectories(
                parity_cases.euler(
                    "EulerAncestralDiscreteScheduler", "linear", "leading", "sample"
                ),
                np.float64,
            )
        ),
    ),
    Difference(
        "Euler, EulerAncestral, DPMSolver, UniPC, zero SNR",
        "alpha_bar ends at 2^-24, not 0; with 0, a trajectory moves by",
        _floor,
    ),
    Difference(
        "the same, linear",
        "2^-24 is above alpha_bar of the step before: the SNR rises by the factor",
        _risen_snr,
    ),
    Difference(
        "DPMSolver, UniPC, leading",
        "spacing of N + 1 steps without index 0: last asks the network at index",
        _last_call,
    ),
    Difference(
        "DPMSolver, UniPC, karras",
        "the network's time is rounded to an index; by at most",
        _rounded_times,
    ),
    Difference(
        "DPMSolver, lower_order_final, 20 steps",
        "ignored from 15 steps on: away from ours by",
        lambda: _far(
            solvers.dpm("linear", "leading", 3, False, "epsilon", final=True, num_steps=20), 1e-6
        ),
    ),
    Difference(
        "UniPC, without lower_order_final",
        "divides by 0 in the step to sigma = 0: orders 2 and 3 end in",
        _end_of_unipc,
    ),
    Difference(
        "EDMDPMSolver, order 3, SDE",
        "has no such update",
        _third_order_sde,
    ),
    Difference(
        "FlowMatchEuler, shift 3",
        "its own list shifts the smallest level, 0.003, twice, to",
        _shifted_twice,
    ),
    Difference(
        "all, eps where alpha is 5e-5 (cosine, trailing)",
        "eps tells x_0 to 3 digits in float32, in either code: apart by",
        _eps_at_small_alpha,
    ),
]
