"""Identities of parameterisations and losses, as the conformance report measures them."""

import pytest
from conformance import identities

from ddpm_jax.diffusion import prediction


@pytest.mark.parametrize("form", identities.CONTINUOUS)
@pytest.mark.wide(4)
def test_every_form_and_back_from_log_snr_20_to_minus_20(form):
    found = identities.round_trip(form)
    assert found.finite
    assert max(found[:3]) < identities.ROUNDING


def test_the_posterior_mean_and_back_at_every_step():
    found = identities.posterior_mean_round_trip()
    assert found.finite
    assert max(found[:3]) < 1e-10


@pytest.mark.parametrize("form", identities.OF_X0)
def test_a_loss_is_a_weighted_loss_of_x0(form):
    assert identities.loss_identity(form) < 1e-9


@pytest.mark.parametrize("name", identities.WEIGHTS)
@pytest.mark.wide(4)
def test_a_weighting_is_the_papers_whatever_is_predicted(name):
    assert identities.weighting_identity(name) < 1e-8


def test_every_form_is_measured():
    assert set(identities.OF_X0) | {"x0"} == set(prediction.PARAMETERISATIONS)
