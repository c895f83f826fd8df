import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ddpm_jax.evaluation import neighbours

BLOCKS = [(1024, 1024), (7, 300), (300, 11), (1, 1)]


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(61, 3, 2, 1)), rng.normal(size=(40, 3, 2, 1))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("num", [1, 4, 61])
def test_the_nearest_are_scipys(sets, num, block):
    references, queries = sets
    distances = cdist(queries.reshape(40, -1), references.reshape(61, -1))
    found = neighbours.nearest(references, queries, num, block=block)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, axis=1)[:, :num])
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :num], rtol=1e-13)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_set_has_neighbours_beside_itself(sets, block):
    references = sets[0]
    distances = cdist(references.reshape(61, -1), references.reshape(61, -1))
    np.fill_diagonal(distances, np.inf)
    found = neighbours.nearest(references, references, 60, leave_out_self=True, block=block)
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :60], rtol=1e-13)
    assert (found.indices != np.arange(61)[:, None]).all()
    with pytest.raises(ValueError, match="1 <= num <= 60 references to choose from, got num=61"):
        neighbours.nearest(references, references, 61, leave_out_self=True)


def test_many_references_need_no_sorting_to_be_found():
    # More than a narrow first block, so that the rest is filtered; nearest last, then first.
    line = np.arange(2000.0)[:, None]
    for references in (line, line[::-1]):
        found = neighbours.nearest(references, np.array([[1999.2], [-3.0]]), 3)
        np.testing.assert_array_equal(references[found.indices, 0], [[1999, 1998, 1997], [0, 1, 2]])
        np.testing.assert_allclose(found.distances, [[0.2, 1.2, 2.2], [3, 4, 5]], rtol=1e-10)


def test_exact_copies_are_at_0_however_far_from_0_they_lie():
    rng = np.random.default_rng(0)
    references = (1e4 + rng.normal(size=(3000, 12)) / 255).astype(np.float32)
    found = neighbours.nearest(references, references[1000:1100])
    assert (found.distances == 0).all()
    np.testing.assert_array_equal(references[found.indices[:, 0]], references[1000:1100])


def test_8_bit_images_do_not_wrap_around():
    white, black = np.full((1, 4, 4, 3), 255, np.uint8), np.zeros((1, 4, 4, 3), np.uint8)
    found = neighbours.nearest(white, black)
    assert found.distances[0, 0] == pytest.approx(255 * np.sqrt(48), rel=1e-14)


def test_copies_are_told_from_what_lies_between():
    train = np.array([[0.0], [10.0], [30.0], [30.0]])
    held_out = np.array([[14.0], [34.0]])
    samples = np.array([[10.0], [1.0], [5.0], [30.0]])
    found = neighbours.copies(train, held_out, samples)
    np.testing.assert_allclose(found.ratios, [0, 1 / 9, 1, 0])
    np.testing.assert_array_equal(found.distances, [0, 1, 5, 0])
    assert list(found.nearest[:2]) == [1, 0]
    assert found.nearest[3] in (2, 3)
    assert found.memorisation == pytest.approx((0 + 1 + 5 + 0) / 4 / 4)


def test_what_does_not_fit_is_refused(sets):
    references, queries = sets
    with pytest.raises(ValueError, match="got 6 and 12 dimensions"):
        neighbours.nearest(np.ones((4, 12)), queries)
    with pytest.raises(ValueError, match="queries: row 3 of 40 is not finite"):
        neighbours.nearest(references, np.where(np.arange(40)[:, None] == 3, np.nan, 1.0))
    with pytest.raises(ValueError, match=r"references: need \[N, ...\], got shape \(5,\)"):
        neighbours.nearest(np.ones(5), queries)
    with pytest.raises(ValueError, match="references to choose from, got num=0"):
        neighbours.nearest(references, queries, 0)
    with pytest.raises(ValueError, match="held_out: every image is in the training set"):
        neighbours.copies(references, references[:5], queries)
