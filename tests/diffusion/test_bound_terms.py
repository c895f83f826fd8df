"""The terms of the discrete bound one by one, as the conformance report measures them."""

import numpy as np
import pytest
from conformance import likelihoods

FIXED = ["fixed_small", "fixed_large"]


@pytest.mark.parametrize("variance", likelihoods.VARIANCES)
@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.wide(4)
def test_each_term_is_its_closed_form(fixed, variance):
    found, known = (way(variance, fixed) for way in (likelihoods.expected, likelihoods.closed_form))
    np.testing.assert_allclose(found, known, rtol=1e-10)


@pytest.mark.parametrize("variance", likelihoods.VARIANCES)
@pytest.mark.parametrize("fixed", FIXED)
def test_the_terms_add_up_to_the_entropy_and_the_chains_gap(fixed, variance):
    # Two derivations: from q(x_{i-1} | x_i, x_0), and from q(x_{i-1} | x_i).
    total = likelihoods.closed_form(variance, fixed).total
    assert abs(total - likelihoods.entropy(variance) - likelihoods.gap(variance, fixed)) < 1e-12


@pytest.mark.parametrize(("variance", "gap"), [(1.0, 0.835), (0.25, 0.822), (0.05, 0.792)])
def test_the_gap_of_fixed_small_is_about_0_8(variance, gap):
    assert likelihoods.gap(variance, "fixed_small") == pytest.approx(gap, abs=5e-4)
