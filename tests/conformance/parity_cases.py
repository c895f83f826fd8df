"""The combinations that are compared with diffusers, one row of the table each."""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from conformance import parity_peers as peers
from conformance import parity_solver_cases as solvers
from conformance.parity import FLOORED, FORMS, NUM_STEPS, SCHEDULES, SIZE, SPACINGS, ZERO_SNR, Case
from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import grids

part = functools.partial
EDM = schedules.edm()


def cases() -> list[Case]:
    """Every combination, in the table's order."""
    parts = (_ddpm_cases, _ddim_cases, _euler_cases, _euler_forms, solvers.cases)
    return [case for part in (*parts, _flow_cases, _edm_cases) for case in part()]


def _form_of(name: str) -> str:
    """What networks predict by default: where alpha is 5e-5, eps tells x_0 to 3 digits only."""
    return "v_prediction" if name == "squaredcos_cap_v2" else "epsilon"


def ddpm(
    name: str,
    spacing: str,
    variance: str,
    kind: str,
    *,
    zero_snr: bool = False,
    num_steps: int = NUM_STEPS,
    quiet_end: bool = True,
    **bounds: object,
) -> Case:
    """quiet_end: without the noise that theirs adds at the end of "trailing"; bounds: of x_0."""
    schedule = (ZERO_SNR if zero_snr else SCHEDULES)[name]
    options = {
        "variance_type": variance,
        "prediction_type": kind,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
        "clip_sample": bool(bounds.get("clip_x0")),
        **_thresholding(**bounds),
    }
    said = " ".join(key for key in bounds)
    return Case(
        f"DDPM {name}{' zero SNR' * zero_snr} {spacing} {kind} {variance} {said}".strip(),
        schedule,
        SPACINGS[spacing](schedule, num_steps),
        part(samplers.ancestral, variance=variance, **bounds),
        peers.by_index(peers.scheduler("DDPMScheduler", name, **options), quiet_end=quiet_end),
        FORMS[kind],
        "scan",
        variance == "learned_range",
    )


def _ddpm_cases() -> Iterator[Case]:
    variances = ("fixed_small", "fixed_large", "learned_range")
    for name, spacing, variance in itertools.product(SCHEDULES, SPACINGS, variances):
        yield ddpm(name, spacing, variance, _form_of(name))
    for variance in variances:
        yield ddpm("linear", "leading", variance, "epsilon", clip_x0=True)
    for kind in ("v_prediction", "sample"):
        yield ddpm("linear", "trailing", "fixed_small", kind)
        yield ddpm("linear", "trailing", "fixed_small", kind, clip_x0=True)
    yield ddpm("linear", "leading", "fixed_large", "epsilon", threshold=0.7)
    for name, variance in itertools.product(ZERO_SNR, variances):
        yield ddpm(name, "trailing", variance, "v_prediction", zero_snr=True)


def ddim(
    name: str,
    spacing: str,
    kind: str,
    eta: float,
    *,
    zero_snr: bool = False,
    num_steps: int = NUM_STEPS,
    rederive: bool = True,
    largest: float = np.inf,
    **bounds: object,
) -> Case:
    """rederive: eps from the bounded x_0, as here, where x_t = alpha x_0 + sigma eps holds.

    largest: what the quantile of thresholding may be; Imagen has no limit.
    """
    schedule = (ZERO_SNR if zero_snr else SCHEDULES)[name]
    options = {
        "prediction_type": kind,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
        "clip_sample": bool(bounds.get("clip_x0")),
        **_thresholding(**bounds, largest=largest),
    }
    step = {"eta": eta, "use_clipped_model_output": bool(bounds) and rederive}
    said = " ".join(key for key in bounds)
    return Case(
        f"DDIM {name}{' zero SNR' * zero_snr} {spacing} {kind} eta={eta:g} {said}".strip(),
        schedule,
        SPACINGS[spacing](schedule, num_steps),
        part(samplers.ddim, eta=eta, **bounds),
        peers.by_index(peers.scheduler("DDIMScheduler", name, **options), **step),
        FORMS[kind],
        "scan",
    )


def _ddim_cases() -> Iterator[Case]:
    for name, spacing in itertools.product(SCHEDULES, ("leading", "trailing")):
        for eta in (0.0, 1.0):
            yield ddim(name, spacing, _form_of(name), eta)
    for spacing, eta in itertools.product(("leading", "trailing"), (0.0, 1.0)):
        yield ddim("linear", spacing, "epsilon", eta, clip_x0=True)
        yield ddim("linear", spacing, "v_prediction", eta, clip_x0=True)
    for kind, eta in itertools.product(("v_prediction", "sample"), (0.0, 0.5)):
        yield ddim("linear", "trailing", kind, eta)
    yield ddim("linear", "leading", "epsilon", 0.0, threshold=0.7)
    for name in ZERO_SNR:
        yield ddim(name, "trailing", "v_prediction", 0.0, zero_snr=True)
        # At eta = 1 theirs takes the root of a rounding error: in `parity_differences`.
        yield ddim(name, "trailing", "v_prediction", 0.9, zero_snr=True)


def _thresholding(
    threshold: object = None, largest: float = np.inf, **others: object
) -> dict[str, object]:
    if threshold is None:
        return {}
    return {
        "thresholding": True,
        "dynamic_thresholding_ratio": threshold,
        "sample_max_value": largest,
    }


EULER = {
    "EulerDiscreteScheduler": (samplers.euler, None),
    "EulerAncestralDiscreteScheduler": (samplers.euler_ancestral, "scan"),
    "HeunDiscreteScheduler": (samplers.heun, None),
}

# From an alpha of 5e-5 ours leaves the correction out: in `parity_differences`.
TOO_LONG = [
    ("HeunDiscreteScheduler", "squaredcos_cap_v2", spacing) for spacing in ("linspace", "trailing")
]


def euler(kind: str, name: str, spacing: str, form: str, *, zero_snr: bool = False) -> Case:
    sampler, noisy = EULER[kind]
    schedule = (FLOORED if zero_snr else SCHEDULES)[name]
    zero = {"rescale_betas_zero_snr": True} if zero_snr else {}
    build = peers.scheduler(kind, name, prediction_type=form, timestep_spacing=spacing, **zero)
    heun = kind == "HeunDiscreteScheduler"
    return Case(
        f"{kind.removesuffix('Scheduler')} {name}{' zero SNR' * zero_snr} {spacing} {form}",
        schedule,
        SPACINGS[spacing](schedule, NUM_STEPS),
        sampler,
        peers.by_level(build, schedule, scaled=True, two_calls=heun),
        FORMS[form],
        noisy,
    )


def _euler_cases() -> Iterator[Case]:
    for kind, name, spacing in itertools.product(EULER, SCHEDULES, SPACINGS):
        if (kind, name, spacing) not in TOO_LONG:
            yield euler(kind, name, spacing, _form_of(name))


def _euler_forms() -> Iterator[Case]:
    for kind in EULER:
        yield euler(kind, "linear", "trailing", "v_prediction")
        if kind != "EulerAncestralDiscreteScheduler":  # whose "sample" is not implemented
            yield euler(kind, "linear", "trailing", "sample")
        if kind != "HeunDiscreteScheduler":  # which has no zero SNR
            for name in ZERO_SNR:
                yield euler(kind, name, "trailing", "v_prediction", zero_snr=True)
    linear = SCHEDULES["linear"]
    build = peers.scheduler("HeunDiscreteScheduler", "linear", clip_sample=True)
    yield Case(
        "HeunDiscrete linear linspace epsilon clip_x0",
        linear,
        grids.linspace(linear, NUM_STEPS),
        part(samplers.heun, clip_x0=True),
        peers.by_level(build, linear, scaled=True, two_calls=True),
    )
    for word, times in (
        ("karras", grids.karras(linear, NUM_STEPS)),
        ("exponential", solvers.to_the_first_node(grids.log_snr_uniform(linear, NUM_STEPS))),
    ):
        build = peers.scheduler("EulerDiscreteScheduler", "linear", **{f"use_{word}_sigmas": True})
        peer = peers.by_level(build, linear, scaled=True, nodes=False)
        yield Case(f"EulerDiscrete linear {word} epsilon", linear, times, samplers.euler, peer)


def _flow_cases() -> Iterator[Case]:
    for shift in (1.0, 3.0):
        schedule = schedules.flow(shift)
        kind = "FlowMatchEulerDiscreteScheduler"
        build = peers.scheduler(kind, num_train_timesteps=SIZE, shift=shift)
        # Its own list runs down to its smallest level, shifted once more (`parity_differences`).
        smallest = float(schedule.values(np.array([1 / SIZE]))[1][0])
        for said, times, levels in (
            (" own levels", np.append(np.linspace(1, smallest, NUM_STEPS), 0), None),
            ("", grids.uniform(schedule, NUM_STEPS), lambda times: times[:-1]),
        ):
            yield Case(
                f"FlowMatchEuler shift {shift:g}{said}",
                schedule,
                times,
                samplers.euler,
                peers.by_level(build, schedule, level="sigma", nodes=False, levels=levels),
                form="flow",
                clock=solvers.unshifted(shift),
            )


def edm_clock(time: jax.Array) -> jax.Array:
    return jnp.exp(4 * time) / 80


def _edm_cases() -> Iterator[Case]:
    all_times = {
        "karras": grids.karras(EDM, NUM_STEPS),
        "exponential": grids.log_snr_uniform(EDM, NUM_STEPS),
    }
    for (word, times), kind in itertools.product(all_times.items(), ("epsilon", "v_prediction")):
        build = peers.scheduler("EDMEulerScheduler", sigma_schedule=word, prediction_type=kind)
        sign = -1 if kind == "v_prediction" else 1  # it subtracts where it adds
        peer = peers.by_level(build, EDM, nodes=False, sign=sign)
        yield Case(
            f"EDMEuler {word} {kind}",
            EDM,
            times,
            samplers.euler,
            peer,
            "edm",
            None,
            False,
            edm_clock,
        )
    yield from solvers.edm_cases(EDM, all_times, edm_clock)
    for said, churn in {
        "no churn": {"S_churn": 0.0},
        "churn": {"S_churn": 3.0, "S_max": 50.0, "S_noise": 1.007},
        "clipped churn": {"S_churn": 40.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003},
    }.items():
        # Theirs has other defaults, those of Karras et al.'s table 5.
        full = {"S_min": 0.0, "S_max": np.inf, "S_noise": 1.0} | churn
        options = {name.lower(): value for name, value in full.items()}
        yield Case(
            f"KarrasVe {said}",
            EDM,
            all_times["karras"],
            part(samplers.edm_stochastic, **churn),
            peers.karras_ve(EDM, **options),
            noisy="stirs",
            clock=edm_clock,
        )
