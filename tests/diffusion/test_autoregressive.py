"""Sequences token by token: enumerated in full, by hand, and as often as they are likely."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ddpm_jax.diffusion import autoregressive

WORDS = ("I", "you", "can", "cannot", "swim")
RNG = np.random.default_rng(0)
V, L = 3, 4
# A law of all sequences, without any structure: p[x_1, x_2, x_3, x_4].
LAW = RNG.dirichlet(np.full(V**L, 0.5)).reshape((V,) * L)
EVERY = np.array(list(itertools.product(range(V), repeat=L)), np.int32)


def conditional(prefix):
    """p(x_i | prefix), [V], by adding up the law."""
    part = LAW[tuple(prefix)]
    joint = part.reshape(V, -1).sum(axis=1)
    return joint / joint.sum()


def logits_of(tokens):
    """The law's conditionals as a model gives them: [B, L, V], up to a constant of each."""
    rows = [[conditional(row[:i]) for i in range(L)] for row in np.asarray(tokens)]
    return jnp.asarray(np.log(rows) + RNG.standard_normal((len(tokens), L, 1)))


TABLE = jnp.stack(
    [
        jnp.stack(
            [
                jnp.asarray(np.log(conditional(prefix[:place])))
                for prefix in itertools.product(range(V), repeat=L)
            ]
        )
        for place in range(L)
    ]
)  # [L, V**L, V]


def step(carry, place, before):
    """The same, a place at a time: what is carried is the sequence so far as a number."""
    number = jnp.where(place > 0, carry + before * V ** (L - place), carry)
    return TABLE[place, number], number


def test_the_chain_rule_of_a_sentence():
    """Five words, each as likely after any: p("you can swim") = 0.2 x 0.2 x 0.2."""
    sentence = jnp.asarray([[WORDS.index(word) for word in ("you", "can", "swim")]])
    found = autoregressive.log_prob(jnp.zeros((1, 3, 5)), sentence)
    assert math.exp(found[0]) == pytest.approx(0.2 * 0.2 * 0.2, rel=1e-6)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0.3, 0.55, 0.9), ("you", "can", "swim")),  # F is 0.2, 0.4, 0.6, 0.8 and 1
        ((0.0, 0.65, 0.81), ("I", "cannot", "swim")),
        ((0.1999, 0.4001, 0.999), ("I", "can", "swim")),
    ],
)
def test_the_cumulative_rule_with_given_numbers(numbers, said):
    def uniform(carry, place, before):
        return jnp.zeros((1, 5)), carry

    drawn = autoregressive.draw(uniform, (), jnp.asarray([numbers]))
    assert tuple(WORDS[k] for k in drawn.tokens[0]) == said
    np.testing.assert_allclose(drawn.log_probs, np.log(0.2), rtol=1e-6)


def test_a_number_draws_the_word_that_it_falls_to():
    probs = jnp.asarray([0.0, 0.25, 0.0, 0.75, 0.0])
    numbers = jnp.asarray([0.0, 0.2499, 0.2501, 0.5, np.nextafter(1, 0, dtype=np.float32)])
    drawn = autoregressive.by_cumulative(jnp.broadcast_to(jnp.log(probs), (5, 5)), numbers)
    assert drawn.tolist() == [1, 1, 3, 3, 3]  # never one of probability 0, at either end


def test_probabilities_of_all_sequences_sum_to_one():
    found = np.exp(np.asarray(autoregressive.log_prob(logits_of(EVERY), jnp.asarray(EVERY))))
    np.testing.assert_allclose(found, LAW.ravel(), rtol=2e-5)
    assert found.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("num_given", [1, 3])
def test_later_tokens_given_earlier_ones(num_given):
    """X = (X1, X2): p(x2 | x1) = p(x1, x2) / p(x1), both added up from the law."""
    logits = logits_of(EVERY)
    given = autoregressive.log_prob(logits, jnp.asarray(EVERY), num_given=num_given)
    first = LAW.reshape(V**num_given, -1)
    expected = first / first.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(given), expected.ravel(), rtol=2e-5)
    each = autoregressive.log_prob(
        logits, jnp.asarray(EVERY), num_given=jnp.full(len(EVERY), num_given)
    )
    np.testing.assert_allclose(each, given, rtol=1e-6)


def test_masked_tokens_count_nothing():
    mask = jnp.asarray(np.arange(L)[None, :] < np.array([[2]] * len(EVERY)))
    found = autoregressive.log_prob(logits_of(EVERY), jnp.asarray(EVERY), mask)
    first = LAW.reshape(V * V, -1).sum(axis=1)
    np.testing.assert_allclose(np.exp(found), first.repeat(V * V), rtol=2e-5)


def pvalue(tokens, law):
    places = (tokens * V ** np.arange(L)[::-1]).sum(axis=1)
    counts = np.bincount(places, minlength=V**L)
    possible = law > 0
    assert not counts[~possible].any()
    law = law[possible] / law.sum()
    return scipy.stats.chisquare(counts[possible], law * len(tokens)).pvalue


def test_sequences_are_drawn_as_often_as_they_are_likely():
    uniforms = jax.random.uniform(jax.random.key(0), (20_000, L))
    drawn = jax.jit(lambda u: autoregressive.draw(step, jnp.zeros(len(u), jnp.int32), u))(uniforms)
    tokens = np.asarray(drawn.tokens)
    assert pvalue(tokens, LAW.ravel()) > 1e-3
    law = LAW[tuple(tokens[:100].T)]
    np.testing.assert_allclose(np.exp(drawn.log_probs[:100].sum(axis=1)), law, rtol=2e-5)


def test_a_prefix_is_completed_as_often_as_its_rest_is_likely():
    num = 20_000
    uniforms = jax.random.uniform(jax.random.key(1), (num, L))
    given = jnp.broadcast_to(jnp.asarray([2, 0, 1, 1]), (num, L))
    drawn = autoregressive.draw(step, jnp.zeros(num, jnp.int32), uniforms, given=given, num_given=2)
    tokens = np.asarray(drawn.tokens)
    assert (tokens[:, :2] == [2, 0]).all()
    law = np.zeros_like(LAW)
    law[2, 0] = LAW[2, 0]
    assert pvalue(tokens, law.ravel()) > 1e-3
    # Every sequence may keep another number of tokens, and as many numbers draw the rest.
    kept = jnp.arange(num) % (L + 1)
    each = autoregressive.draw(
        step, jnp.zeros(num, jnp.int32), uniforms, given=given, num_given=kept
    )
    np.testing.assert_array_equal(each.tokens[2::5], tokens[2::5])
    np.testing.assert_array_equal(each.tokens[4::5], np.asarray(given[4::5]))


def test_temperature_and_top_k_change_what_is_drawn_from():
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.15, 0.05]))
    colder = jax.nn.softmax(autoregressive.adjusted(0.5)(logits))
    squares = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(colder, squares / squares.sum(), rtol=1e-5)
    best = jax.nn.softmax(autoregressive.adjusted(top_k=2)(logits))
    np.testing.assert_allclose(best, [0.625, 0.375, 0, 0], rtol=1e-5)
    for k in (None, 4, 9):
        np.testing.assert_array_equal(autoregressive.adjusted(top_k=k)(logits), logits)


def test_guidance_goes_from_without_to_with():
    one, other = jnp.asarray(RNG.standard_normal((2, 5)))
    for scale, expected in ((0.0, other), (1.0, one)):
        np.testing.assert_allclose(
            autoregressive.mixed(one, other, scale), expected, rtol=1e-6, atol=1e-6
        )
    beyond = jax.nn.softmax(autoregressive.mixed(one, other, 2.0))
    expected = jax.nn.softmax(one) ** 2 / jax.nn.softmax(other)  # p_w ~ p(x|y)^w p(x)^(1 - w)
    np.testing.assert_allclose(beyond, expected / expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: autoregressive.token_log_probs(jnp.zeros((2, 3, 5)), jnp.zeros((2, 4), int)),
         r"logits \[..., L, V\]"),
        (lambda: autoregressive.log_prob(
            jnp.zeros((2, 3, 5)), jnp.zeros((2, 3), int), jnp.ones((2, 1), bool)), r"\(2, 3\)"),
        (lambda: autoregressive.by_cumulative(jnp.zeros((2, 5)), jnp.zeros(3)), "a number for"),
        (lambda: autoregressive.adjusted(0.0), "temperature above 0, got 0.0"),
        (lambda: autoregressive.adjusted(top_k=0), "top_k of at least 1"),
        (lambda: autoregressive.draw(step, 0, jnp.zeros((2, 4)), given=jnp.zeros((2, 3), int)),
         r"need \(2, 4\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(act, said):
    with pytest.raises(ValueError, match=said):
        act()


def test_tokens_outside_of_the_vocabulary_are_no_number():
    found = autoregressive.token_log_probs(jnp.zeros((1, 3, 4)), jnp.asarray([[-1, 3, 4]]))
    assert np.isnan(found).tolist() == [[True, False, True]]
