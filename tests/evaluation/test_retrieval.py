"""Recall of embeddings against closed forms: perfect, at random, all alike, several right ones."""

import itertools

import numpy as np
import pytest

from ddpm_jax.evaluation.retrieval import class_embeds, retrieval, zero_shot_accuracy

RNG = np.random.default_rng(0)


def directions(*shape):
    x = RNG.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_what_is_paired_finds_all_and_shifted_pairs_find_none():
    embeds = directions(60, 16)
    perfect = retrieval(embeds, embeds)
    for way in perfect:
        assert [way[k].value for k in (1, 5, 10)] == [1, 1, 1]
        assert 0.9 < way[1].low < way[1].high <= 1
    shifted = retrieval(embeds, np.roll(embeds, 1, axis=0))
    assert shifted.texts[1].value == shifted.images[1].value == 0
    assert shifted.texts[1].high < 0.1


@pytest.mark.parametrize("ids", [None, np.arange(40) // 2])
def test_embeddings_that_are_all_alike_find_what_chance_does(ids):
    """k of 40 drawn: of one right text k / 40; of two, 1 less both missed."""
    embeds = np.broadcast_to(directions(8), (40, 8)).astype(np.float32)
    found = retrieval(embeds, embeds, image_ids=ids, text_ids=ids)
    for k in (1, 5, 10):
        expected = k / 40 if ids is None else 1 - (40 - k) * (39 - k) / (40 * 39)
        for way in found:
            np.testing.assert_allclose(way[k].value, expected, rtol=1e-9)


def test_independent_embeddings_find_one_in_as_many_as_there_are():
    num, repeats = 50, 40
    found = [
        [way[k].value for way in retrieval(directions(num, 24), directions(num, 24))]
        for _ in range(repeats)
        for k in (1, 10)
    ]
    means = np.mean(np.reshape(found, (repeats, 2, 2)), axis=0)
    for mean, chance in zip(means, (1 / num, 10 / num), strict=True):
        # Queries of one set share its texts, so a little more than independent draws.
        error = np.sqrt(chance * (1 - chance) / (num * repeats))
        np.testing.assert_allclose(mean, chance, atol=6 * error)


def test_ties_are_what_every_order_gives_in_the_mean():
    """Rounded products tie often: the mean over all orders of the texts that break them."""
    image, text = directions(5, 3).round(0), directions(5, 3).round(0)
    ids = np.array([0, 0, 1, 2, 3])
    expected = np.zeros(2)
    for order in itertools.permutations(range(5)):
        ranked = np.argsort(-(image @ text.T)[:, order], axis=1, kind="stable")
        right = (ids[np.array(order)][ranked] == ids[:, None])[:, :2]
        expected += [right[:, 0].mean() / 120, right.any(axis=1).mean() / 120]
    found = retrieval(image, text, image_ids=ids, text_ids=ids, ks=(1, 2)).texts
    np.testing.assert_allclose([found[1].value, found[2].value], expected, rtol=1e-9)


def test_texts_that_say_the_same_are_all_right():
    embeds = directions(20, 8)
    twice = np.concatenate([embeds, embeds])
    found = retrieval(embeds, twice, image_ids=np.arange(20), text_ids=np.arange(40) % 20)
    assert found.texts[1].value == found.images[1].value == 1


def test_zero_shot_accuracy_of_known_directions():
    centres = np.eye(4)
    prompts = centres[:, None] * np.array([1.0, 30.0])[:, None]  # lengths that must not count
    prompts[:, 1] += 30 * np.roll(centres, 1, axis=1)
    classes = class_embeds(prompts)
    # By hand: the sum of e_c and (e_c + e_next) / sqrt(2), to unit length.
    expected = centres * (1 + 0.5**0.5) + np.roll(centres, 1, axis=1) * 0.5**0.5
    np.testing.assert_allclose(classes, expected / np.linalg.norm(expected[0]), rtol=1e-12)
    labels = np.arange(80) % 4
    assert zero_shot_accuracy(classes[labels], classes, labels).value == 1
    assert zero_shot_accuracy(classes[labels], classes, (labels + 1) % 4).value == 0
    alike = zero_shot_accuracy(np.ones((80, 4)), classes, labels)
    np.testing.assert_allclose(alike.value, 0.25)


def test_bad_input_is_refused():
    embeds = directions(6, 3)
    with pytest.raises(ValueError, match="6 images and 5 texts do not pair by their places"):
        retrieval(embeds, embeds[:5])
    with pytest.raises(ValueError, match="need 6 image_ids"):
        retrieval(embeds, embeds, image_ids=[1, 2], text_ids=np.arange(6))
    with pytest.raises(ValueError, match="nothing is right for query 5, of number 5"):
        retrieval(embeds, embeds, image_ids=np.arange(6), text_ids=np.arange(6) % 5)
    with pytest.raises(ValueError, match="need ks of whole numbers from 1"):
        retrieval(embeds, embeds, ks=(0,))
    with pytest.raises(ValueError, match="need 6 labels in"):
        zero_shot_accuracy(embeds, embeds, np.full(6, 6))
    with pytest.raises(ValueError, match="need prompts"):
        class_embeds(embeds)
    with pytest.raises(ValueError, match="has no direction"):
        class_embeds(np.zeros((1, 2, 3)))
