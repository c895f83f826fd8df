"""The combinations that are compared with diffusers, one row of the table each."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from conformance import parity_peers as peers
from conformance.parity import FORMS, NUM_STEPS, SCHEDULES, SIZE, SPACINGS, ZERO_SNR, Case
from ddpm_jax import samplers
from ddpm_jax.diffusion import schedules
from ddpm_jax.samplers import grids


def cases() -> list[Case]:
    """Every combination, in the table's order."""
    return [*_ddpm_cases(), *_ddim_cases(), *_euler_cases(), *_solver_cases(), *_other_cases()]


def _ddpm_cases() -> Iterator[Case]:
    for name, schedule in SCHEDULES.items():
        kind = "v_prediction" if name == "squaredcos_cap_v2" else "epsilon"
        for spacing in ("leading", "linspace") if name == "linear" else ("leading",):
            times = SPACINGS[spacing](schedule, NUM_STEPS)
            for variance in ("fixed_small", "fixed_large", "learned_range"):
                for clip in (False, True):
                    yield Case(
                        f"DDPM {name} {spacing} {variance}{' clip' * clip}",
                        schedule,
                        times,
                        functools.partial(samplers.ancestral, variance=variance, clip_x0=clip),
                        peers.ddpm(name, variance, clip, kind),
                        FORMS[kind],
                        "scan",
                        variance == "learned_range",
                    )


def _ddim_cases() -> Iterator[Case]:
    for name, schedule in SCHEDULES.items():
        for spacing in ("leading", "trailing"):
            times = SPACINGS[spacing](schedule, NUM_STEPS)
            for kind, eta, clip in (
                ("epsilon", 0.0, False),
                ("epsilon", 1.0, False),
                ("v_prediction", 0.0, True),
                ("v_prediction", 1.0, True),
                ("sample", 0.5, False),
            ):
                if (name, spacing, kind) == ("squaredcos_cap_v2", "trailing", "epsilon"):
                    continue  # it starts at alpha = 5e-5: eps tells x_0 to 4 digits in float32
                yield Case(
                    f"DDIM {name} {spacing} {kind} eta={eta:g}{' clip' * clip}",
                    schedule,
                    times,
                    functools.partial(samplers.ddim, eta=eta, clip_x0=clip),
                    peers.ddim(name, spacing, eta, clip, kind),
                    FORMS[kind],
                    "scan",
                )
    for name, schedule in ZERO_SNR.items():
        # At eta = 1 theirs takes the root of a difference that is 0 but for rounding; on
        # scaled_linear that is 8e-9 of the trajectory.
        for eta in (0.0, 1.0) if name == "linear" else (0.0, 0.9):
            yield Case(
                f"DDIM {name} zero SNR trailing v_prediction eta={eta:g}",
                schedule,
                grids.uniform(schedule, NUM_STEPS),
                functools.partial(samplers.ddim, eta=eta),
                peers.ddim(name, "trailing", eta, False, "v_prediction", zero_snr=True),
                "v",
                "scan",
            )


def _euler_cases() -> Iterator[Case]:
    kinds = {
        "EulerDiscreteScheduler": (samplers.euler, None, False),
        "EulerAncestralDiscreteScheduler": (samplers.euler_ancestral, "scan", False),
        "HeunDiscreteScheduler": (samplers.heun, None, True),
    }
    for kind, (sampler, noisy, two_calls) in kinds.items():
        for name, schedule in SCHEDULES.items():
            for spacing in SPACINGS:
                if name == "squaredcos_cap_v2" and spacing != "leading":
                    continue  # eps where alpha is 5e-5: conditioned by 2e4, in either code
                build = peers.scheduler(
                    kind, schedule, num_train_timesteps=SIZE, timestep_spacing=spacing
                )
                yield Case(
                    f"{kind.removesuffix('Scheduler')} {name} {spacing}",
                    schedule,
                    SPACINGS[spacing](schedule, NUM_STEPS),
                    sampler,
                    peers.by_sigma(build, scaled=True, two_calls=two_calls),
                    noisy=noisy,
                )


def _solver_cases() -> Iterator[Case]:
    for name, schedule in SCHEDULES.items():
        times = grids.leading(schedule, NUM_STEPS)
        for order in (1, 2, 3):
            for sde in (False, True):
                yield Case(
                    f"DPMSolverMultistep {name} order {order}{' sde' * sde}",
                    schedule,
                    times,
                    functools.partial(
                        samplers.dpm_solver_pp, order=order, form="published", sde=sde
                    ),
                    peers.dpm(name, order, sde, "midpoint", False, "epsilon"),
                    noisy="evaluations" if sde else None,
                )
            for variant in ("bh1", "bh2"):
                yield Case(
                    f"UniPC {name} order {order} {variant}",
                    schedule,
                    times[:-1],  # theirs divides by zero on the way to sigma = 0
                    functools.partial(
                        samplers.unipc, order=order, form="published", variant=variant
                    ),
                    peers.unipc(name, order, variant, False),
                )
        for sde in (False, True):
            yield Case(
                f"DPMSolverMultistep {name} order 2 heun{' sde' * sde}",
                schedule,
                times,
                functools.partial(samplers.dpm_solver_pp, order=2, form="exact", sde=sde),
                peers.dpm(name, 2, sde, "heun", False, "epsilon"),
                noisy="evaluations" if sde else None,
            )
    schedule = SCHEDULES["linear"]
    few = grids.leading(schedule, 8)
    for order in (2, 3):
        yield Case(
            f"DPMSolverMultistep linear order {order}, 8 steps, lower_order_final",
            schedule,
            few,
            functools.partial(
                samplers.dpm_solver_pp, order=order, form="published", lower_order_final=True
            ),
            peers.dpm("linear", order, False, "midpoint", True, "epsilon"),
        )
        yield Case(
            f"UniPC linear order {order}, 8 steps, lower_order_final",
            schedule,
            few,
            functools.partial(
                samplers.unipc, order=order, form="published", lower_order_final=True
            ),
            peers.unipc("linear", order, "bh2", True),
        )
    yield Case(
        "DPMSolverMultistep scaled_linear order 2 karras v_prediction",
        SCHEDULES["scaled_linear"],
        grids.karras(SCHEDULES["scaled_linear"], NUM_STEPS, sigma_min=0.03),
        functools.partial(samplers.dpm_solver_pp, order=2, form="published"),
        peers.dpm("scaled_linear", 2, False, "midpoint", False, "v_prediction"),
        form="v",
    )


def _other_cases() -> Iterator[Case]:
    for shift in (1.0, 3.0):
        schedule = schedules.flow(shift)
        yield Case(
            f"FlowMatchEuler shift {shift:g}",
            schedule,
            grids.uniform(schedule, NUM_STEPS),
            samplers.euler,
            peers.flow(schedule),
            form="flow",
            # The noise level u = shift t / (1 + (shift - 1) t), solved for t.
            clock=lambda u, shift=shift: u / (shift - (shift - 1) * u),
        )
    path = schedules.edm()
    times = grids.karras(path, NUM_STEPS)

    def clock(time: jax.Array) -> jax.Array:
        return jnp.exp(4 * time) / 80

    yield Case(
        "EDMEuler",
        path,
        times,
        samplers.euler,
        peers.edm("EDMEulerScheduler"),
        form="edm",
        clock=clock,
    )
    for order in (1, 2, 3):
        # Their order 3 has no SDE form: it ends in an error.
        for sde in (False, True) if order < 3 else (False,):
            yield Case(
                f"EDMDPMSolverMultistep order {order}{' sde' * sde}",
                path,
                times,
                functools.partial(samplers.dpm_solver_pp, order=order, form="published", sde=sde),
                peers.edm(
                    "EDMDPMSolverMultistepScheduler",
                    solver_order=order,
                    lower_order_final=False,
                    algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
                ),
                form="edm",
                noisy="evaluations" if sde else None,
                clock=clock,
            )
