"""Our measures of the same features are torch-fidelity's own, to what its float32 leaves."""

import numpy as np
import pytest
from fidelity_peer import torch_fidelity

from ddpm_jax.evaluation import frechet, inception_score, kernel_distance, manifold, moments


@pytest.fixture(scope="module")
def peer():
    return torch_fidelity()


def sets(dimensions, numbers=(500, 400)):
    """Two sets of correlated features, their means apart, as torch's float64 and as numpy's."""
    import torch

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)
    a = rng.normal(size=(numbers[0], dimensions)) @ mixing
    b = 0.3 + 1.2 * rng.normal(size=(numbers[1], dimensions)) @ mixing
    return (a, b), (torch.from_numpy(a), torch.from_numpy(b))


@pytest.mark.parametrize("dimensions", [4, 64])
def test_the_frechet_distance(peer, dimensions):
    from torch_fidelity import metric_fid

    (a, b), theirs = sets(dimensions)
    statistics = [metric_fid.fid_features_to_statistics(x) for x in theirs]
    found = metric_fid.fid_statistics_to_metric(*statistics, False)
    ours = frechet.frechet_distance(moments.of(a), moments.of(b))
    assert ours > 0.1
    assert ours == pytest.approx(found["frechet_inception_distance"], rel=1e-6)


def test_the_kernel_distance_of_one_subset(peer):
    from torch_fidelity import metric_kid

    (a, b), (x, y) = sets(8, (100, 100))
    found = metric_kid.kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=100, verbose=False
    )
    ours = kernel_distance.unbiased(a, b).value
    assert ours > 0.1
    assert ours == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-9)


def test_precision_and_recall(peer):
    from torch_fidelity import metric_prc

    (a, b), theirs = sets(3)
    found = metric_prc.prc_features_to_metric(*theirs, prc_neighborhood=3, verbose=False)
    ours = manifold.prdc(a, b, k=3, num_groups=0)
    assert 0.1 < ours.precision < 0.99
    assert 0.1 < ours.recall < 0.99
    assert ours.precision == pytest.approx(found["precision"], abs=1e-6)
    assert ours.recall == pytest.approx(found["recall"], abs=1e-6)


def test_the_inception_score(peer):
    from torch_fidelity import metric_isc

    (logits, _), (x, _) = sets(10)
    found = metric_isc.isc_features_to_metric(3 * x, splits=7, shuffle=False)
    ours = inception_score.inception_score(3 * logits, splits=7)
    assert ours.mean > 1.5
    assert ours.mean == pytest.approx(found["inception_score_mean"], rel=1e-9)
    assert ours.std == pytest.approx(found["inception_score_std"], rel=1e-6)
