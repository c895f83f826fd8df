"""What "forward" means, on an example small enough to count.

A diffusion model has two directions. *Forward* destroys data by a chain of random steps that we
choose; nothing is learned. *Backward* undoes them, and there the laws follow from Bayes' rule.

The lecture notes' example has two forward steps on 2x2 images. With I the identity and J the
exchange matrix,

    Y_0 = [[5, 5], [5, 5]]
    Y_1 = Y_0 + I  with probability 0.4,   Y_0 - I  with probability 0.6
    Y_2 = Y_1 - J  with probability 0.2 and  Y_1 + J  with 0.8,   if step 1 was +I
    Y_2 = Y_1 + J  with probability 0.3 and  Y_1 - J  with 0.7,   if step 1 was -I

The tests below read off it, in order: the chain rule (forward), Bayes' rule (backward), and the
same three laws for the Gaussian steps that DDPM uses, where they have closed forms in
`ddpm_jax.diffusion.process`:

    here                      in DDPM                                      in `process`
    the step p(Y_2 | Y_1)     q(x_t | x_s) = N(.., beta I)                 transition
    the law of Y_2            q(x_t | x_0) = N(alpha x_0, sigma² I)        marginal
    backward, q(Y_1 | Y_2)    q(x_s | x_t, x_0) = N(mu-tilde, beta-tilde)  posterior
"""

from collections import defaultdict
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules

Y0 = ((5, 5), (5, 5))
IDENTITY = ((1, 0), (0, 1))
EXCHANGE = ((0, 1), (1, 0))


def add(y, sign, matrix):
    return tuple(
        tuple(a + sign * b for a, b in zip(*rows, strict=True))
        for rows in zip(y, matrix, strict=True)
    )


def first_step():
    """p(Y_1): {Y_1: probability}."""
    return {add(Y0, +1, IDENTITY): Fraction("0.4"), add(Y0, -1, IDENTITY): Fraction("0.6")}


def second_step(y1):
    """p(Y_2 | Y_1): {Y_2: probability}."""
    if y1 == add(Y0, +1, IDENTITY):
        return {add(y1, -1, EXCHANGE): Fraction("0.2"), add(y1, +1, EXCHANGE): Fraction("0.8")}
    return {add(y1, +1, EXCHANGE): Fraction("0.3"), add(y1, -1, EXCHANGE): Fraction("0.7")}


def paths():
    """p(Y_1, Y_2) by the chain rule: {(Y_1, Y_2): p(Y_1) p(Y_2 | Y_1)}."""
    return {
        (y1, y2): p1 * p2 for y1, p1 in first_step().items() for y2, p2 in second_step(y1).items()
    }


def backward(seen):
    """q(Y_1 | what was seen of Y_2) by Bayes' rule: {observation: {Y_1: probability}}."""
    joint = defaultdict(lambda: defaultdict(Fraction))
    for (y1, y2), p in paths().items():
        joint[seen(y2)][y1] += p
    return {
        observation: {y1: p / sum(part.values()) for y1, p in part.items()}
        for observation, part in joint.items()
    }


def corner(y):
    """Only the top right pixel is seen, an entry that step 1 leaves alone."""
    return y[0][1]


def total(y):
    return sum(map(sum, y))


UP, DOWN = ((6, 5), (5, 6)), ((4, 5), (5, 4))  # the two values of Y_1


def test_forward_the_first_step():
    assert first_step() == {UP: Fraction("0.4"), DOWN: Fraction("0.6")}


def test_forward_the_chain_rule_multiplies_along_a_path():
    probabilities = defaultdict(Fraction)
    for (_, y2), p in paths().items():
        probabilities[y2] += p
    assert probabilities == {
        ((6, 4), (4, 6)): Fraction("0.08"),  # 0.4 x 0.2
        ((6, 6), (6, 6)): Fraction("0.32"),  # 0.4 x 0.8
        ((4, 6), (6, 4)): Fraction("0.18"),  # 0.6 x 0.3
        ((4, 4), (4, 4)): Fraction("0.42"),  # 0.6 x 0.7
    }
    assert sum(probabilities.values()) == 1


def test_backward_the_whole_of_y2_tells_y1():
    # The diagonal of Y_2 is that of Y_1: one path leads to each Y_2, so q(Y_1 | Y_2) is certain.
    assert backward(lambda y2: y2) == {
        ((6, 4), (4, 6)): {UP: 1},
        ((6, 6), (6, 6)): {UP: 1},
        ((4, 6), (6, 4)): {DOWN: 1},
        ((4, 4), (4, 4)): {DOWN: 1},
    }


def test_backward_a_part_of_y2_leaves_y1_uncertain():
    # Two paths lead to a 6 in the corner, 0.4 x 0.8 and 0.6 x 0.3: Bayes' rule weighs them.
    assert backward(corner) == {
        6: {UP: Fraction(32, 32 + 18), DOWN: Fraction(18, 32 + 18)},
        4: {UP: Fraction(8, 8 + 42), DOWN: Fraction(42, 8 + 42)},
    }
    # +I-J and -I+J both leave the sum of 20 unchanged.
    assert backward(total) == {
        20: {UP: Fraction(8, 8 + 18), DOWN: Fraction(18, 8 + 18)},
        24: {UP: 1},
        16: {DOWN: 1},
    }


@pytest.mark.parametrize("seen", [corner, total])
def test_backward_agrees_with_simulating_forward(seen):
    rng = np.random.default_rng(0)
    counts = defaultdict(lambda: defaultdict(int))
    for first, second in rng.uniform(size=(20_000, 2)):
        y1 = add(Y0, +1 if first < 0.4 else -1, IDENTITY)
        if y1 == UP:
            y2 = add(y1, -1 if second < 0.2 else +1, EXCHANGE)
        else:
            y2 = add(y1, +1 if second < 0.3 else -1, EXCHANGE)
        counts[seen(y2)][y1] += 1
    for observation, law in backward(seen).items():
        n = sum(counts[observation].values())
        for y1, p in law.items():
            error = counts[observation][y1] / n - float(p)
            assert abs(error) <= 4 * np.sqrt(float(p * (1 - p)) / n)


# From here on the steps are Gaussian: x_1 given x_0, then x_2 given x_1, with betas 0.3 and 0.6.
CHAIN = schedules.from_betas([0.3, 0.6])
IMAGE = jnp.asarray(Y0, jnp.float32)[None] / 5


def test_gaussian_forward_one_step_shrinks_and_adds_noise():
    step = process.transition(CHAIN, IMAGE, 0.5, 1.0)  # from x_1 (t = 1/2) to x_2 (t = 2/2)
    np.testing.assert_allclose(step.mean, np.full((1, 2, 2), np.sqrt(0.4)), rtol=1e-6)
    np.testing.assert_allclose(step.variance, 0.6, rtol=1e-6)


def test_gaussian_forward_the_chain_rule_has_a_closed_form():
    # Two steps by hand: 0.7 x 0.4 = 0.28 of the signal's power is left, the rest is noise.
    marginal = process.marginal(CHAIN, IMAGE, 1.0)
    np.testing.assert_allclose(marginal.mean, np.full((1, 2, 2), np.sqrt(0.28)), rtol=1e-6)
    np.testing.assert_allclose(marginal.variance, 0.72, rtol=1e-6)
    # And by walking the chain with the project's own steps.
    n = 5_000
    z = jax.random.normal(jax.random.key(0), (2, n, 2, 2))
    x1 = process.transition(CHAIN, jnp.broadcast_to(IMAGE, (n, 2, 2)), 0.0, 0.5).sample(z[0])
    x2 = np.asarray(process.transition(CHAIN, x1, 0.5, 1.0).sample(z[1]))
    assert abs(x2.mean() - np.sqrt(0.28)) < 4 * np.sqrt(0.72 / x2.size)
    assert abs(x2.var() / 0.72 - 1) < 4 * np.sqrt(2 / x2.size)


def test_gaussian_backward_is_bayes_rule_by_simulation():
    # As with the corner above: walk forward many times, keep the walks that end near x_2 = 1,
    # and look where they were at x_1. mu-tilde and beta-tilde say it without walking.
    n, window = 400_000, 0.05
    rng = np.random.default_rng(1)
    x1 = np.sqrt(0.7) * 1.0 + np.sqrt(0.3) * rng.normal(size=n)
    x2 = np.sqrt(0.4) * x1 + np.sqrt(0.6) * rng.normal(size=n)
    kept = x1[abs(x2 - 1.0) < window]
    posterior = process.posterior(CHAIN, jnp.ones((1, 1)), jnp.ones((1, 1)), 0.5, 1.0)
    mean, variance = float(posterior.mean[0, 0]), float(posterior.variance)
    assert variance < 0.3  # seeing x_2 narrows what x_0 alone says of x_1
    assert abs(kept.mean() - mean) < 4 * np.sqrt(variance / kept.size) + window / 20
    assert abs(kept.var() / variance - 1) < 4 * np.sqrt(2 / kept.size) + window / 20
