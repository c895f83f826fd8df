"""Whole trajectories beside those of diffusers: equal networks, grids and injected noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from conformance import parity, parity_cases  # noqa: E402

from ddpm_jax import samplers  # noqa: E402
from ddpm_jax.diffusion import schedules  # noqa: E402
from ddpm_jax.samplers import base, grids  # noqa: E402

CASES = parity_cases.cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_trajectory_is_that_of_diffusers(case):
    assert parity.difference(case, np.float64) < 1e-10
    assert parity.difference(case, np.float32) < 1e-5


def test_every_scheduler_of_the_table_has_cases():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for start in [
        "DDPM",
        "DDIM",
        "DPMSolverMultistep",
        "UniPC",
        "EulerDiscrete",
        "EulerAncestral",
        "HeunDiscrete",
        "FlowMatchEuler",
        "EDMEuler",
        "EDMDPMSolver",
    ]:
        assert any(name.startswith(start) for name in names), start


def test_a_wrong_method_is_seen():
    # The comparison tells the exact third order from the published one, and eta 0.9 from 1.
    by_name = {case.name: case for case in CASES}
    for name, options in {
        "DPMSolverMultistep linear order 3": {"form": "exact"},
        "DPMSolverMultistep linear order 3 sde": {"form": "exact"},
        "DDIM linear leading epsilon eta=1": {"eta": 0.9},
    }.items():
        case = by_name[name]
        wrong = parity.dataclasses.replace(
            case, sampler=functools.partial(case.sampler.func, **case.sampler.keywords | options)
        )
        assert parity.difference(wrong, np.float64) > 1e-3 if "form" not in options else True
        assert parity.difference(wrong, np.float64) > 1e-6


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_whole_chain_of_ho_et_al_and_diffusers_as_it_is(variance):
    schedule = schedules.linear()
    case = parity.Case(
        "chain",
        schedule,
        grids.uniform(schedule, 1000),
        functools.partial(samplers.ancestral, variance=variance, clip_x0=True),
        parity_cases.peers.ddpm("linear", variance, True, "epsilon"),
        noisy="scan",
    )
    assert parity.difference(case, np.float64) < 1e-10
    assert parity.difference(case, np.float32) < 1e-5
    # Its own float32 tables move a trajectory by 3e-5 of its size and more.
    x = jax.random.normal(jax.random.key(0), (4, 3))
    key, denoise = jax.random.key(1), parity.DATA.denoiser(schedule)
    run = jax.jit(
        lambda x: case.sampler(denoise, schedule, case.times, key, x, return_trajectory=True)[1]
    )
    noise = np.asarray(
        jax.vmap(lambda k: base.normal(jax.random.fold_in(key, k), x))(jnp.arange(1000))
    )
    output = jax.jit(lambda x, t: denoise(x, t).eps)
    theirs = case.peer(
        case.times,
        lambda x, t: np.array(output(jnp.asarray(x, jnp.float32), jnp.full(4, t, jnp.float32))),
        noise,
        np.asarray(x),
    )
    assert np.abs(np.asarray(run(x)) - theirs).max() < 3e-4 * np.abs(theirs).max()
