"""Whole trajectories beside those of diffusers: equal networks, grids and injected noise."""

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from conformance import parity, parity_cases, parity_differences

CASES = parity_cases.cases()
BY_NAME = {case.name: case for case in CASES}
SCHEDULERS = [
    "DDPM",
    "DDIM",
    "DPMSolverMultistep",
    "UniPC",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "FlowMatchEuler",
    "EDMEuler",
    "EDMDPMSolverMultistep",
    "KarrasVe",
]


@pytest.mark.wide(90)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_trajectory_is_that_of_diffusers(case):
    assert parity.difference(case, np.float64) < 1e-10
    assert parity.difference(case, np.float32) < 1e-5


def test_every_combination_has_a_case():
    assert len(BY_NAME) == len(CASES)
    assert {name.split(" ")[0] for name in BY_NAME} == set(SCHEDULERS)
    for name in SCHEDULERS[:7]:
        for schedule in parity.SCHEDULES:
            for spacing in parity.SPACINGS:
                found = any(case.startswith(f"{name} {schedule} {spacing} ") for case in BY_NAME)
                # Theirs steps past its own list there, or corrects what ours does not:
                # `test_a_difference_is_as_reported`.
                differs = name == "DDIM" and spacing == "linspace"
                differs |= (f"{name}Scheduler", schedule, spacing) in parity_cases.TOO_LONG
                assert found != differs, (name, schedule, spacing)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DPMSolverMultistep linear leading epsilon order 3", {"form": "exact"}),
        ("DPMSolverMultistep linear leading epsilon order 3 sde", {"form": "exact"}),
        ("DPMSolverMultistep linear leading epsilon order 2 heun", {"form": "published"}),
        ("UniPC linear leading epsilon order 2 bh1", {"variant": "bh2"}),
        ("DDIM linear leading epsilon eta=1", {"eta": 0.9}),
        ("DDIM linear leading epsilon eta=0 clip_x0", {"clip_x0": False}),
        ("DDPM linear linspace epsilon fixed_small", {"variance": "fixed_large"}),
        ("KarrasVe churn", {"S_noise": 1.0}),
    ],
)
@pytest.mark.wide(4)
def test_a_wrong_method_is_seen(name, options):
    case = BY_NAME[name]
    sampler = functools.partial(case.sampler, **options)
    assert parity.difference(dataclasses.replace(case, sampler=sampler), np.float64) > 1e-6


def test_a_wrong_grid_is_seen():
    # Their levels are their own, not those of our grid put there.
    case = BY_NAME["EulerDiscrete linear leading epsilon"]
    for times in (case.times * 0.999, np.delete(case.times, 3)):
        with pytest.raises(AssertionError, match="Not equal"):
            parity.difference(dataclasses.replace(case, times=times), np.float64)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.wide(2)
def test_the_whole_chain_of_ho_et_al(variance):
    case = parity_cases.ddpm(
        "linear", "trailing", variance, "epsilon", num_steps=parity.SIZE, clip_x0=True
    )
    assert parity.difference(case, np.float64) < 1e-10
    assert parity.difference(case, np.float32) < 1e-5


@pytest.mark.wide(4)
@pytest.mark.parametrize(
    "one", parity_differences.DIFFERENCES, ids=lambda one: f"{one.scheduler}: {one.what}"
)
def test_a_difference_is_as_reported(one):
    found, as_reported = one.measure()
    assert as_reported, found
