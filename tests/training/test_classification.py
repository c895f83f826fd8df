"""The classifier's objective, against a classifier that is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import schedules, time_draws
from ddpm_jax.training.objectives.classify import classification

DATA = oracles.Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.3, 0.1])
SCHEDULE = schedules.cosine(100)


def exact(variables, xt, time, *, train, rngs):
    """log p(class | x_t), sharpened by `slope`, leaning by `lean`; (0, 0) is Bayes' own."""
    # The network's time counts steps from 0.
    log_posterior = DATA.log_posterior(SCHEDULE, xt, (time + 1) / 100)
    lean = jnp.stack([variables["params"]["lean"], jnp.zeros(())])
    return jnp.exp(variables["params"]["slope"]) * log_posterior + lean[None]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    label = rng.choice(2, size=20_000, p=DATA.weights)
    std = np.sqrt(DATA.variances)[label, None]
    image = np.array(DATA.means)[label] + std * rng.standard_normal((len(label), 2))
    return {"x0": image.astype(np.float32), "label": label.astype(np.int32)}


def test_no_classifier_does_better_than_bayes(batch):
    objective = classification(exact, SCHEDULE, time_draw=time_draws.stratified())

    @jax.jit
    def losses(params):
        return objective(params, batch, jax.random.key(0), True, {}).loss

    bayes = {"slope": jnp.zeros(()), "lean": jnp.zeros(())}
    least = losses(bayes).mean()
    # At least 0 and, as x_t tells something of the label, below the label's own entropy.
    assert 0.1 < least < -sum(p * np.log(p) for p in DATA.weights) - 0.1
    for slopes in jax.jacfwd(losses)(bayes).values():
        assert abs(slopes.mean()) < 3 * slopes.std() / np.sqrt(len(slopes))
    for name in bayes:
        for change in (-0.3, 0.3):
            assert losses(bayes | {name: jnp.asarray(change)}).mean() > least + 0.002


@pytest.mark.wide(3)
def test_an_outcome_tells_each_examples_loss_and_time(batch):
    few = {name: value[:64] for name, value in batch.items()}
    params = {"slope": jnp.zeros(()), "lean": jnp.zeros(())}
    objective = classification(exact, SCHEDULE, time_draw=time_draws.uniform())
    outcome = objective(params, few, jax.random.key(1), True, {"kept": 1})
    assert outcome.loss.shape == outcome.t.shape == (64,)
    assert (outcome.loss >= 0).all()
    assert outcome.extra == {"kept": 1}
    # Little noise leaves little doubt.
    assert outcome.loss[outcome.t < 0.3].mean() < outcome.loss[outcome.t > 0.7].mean() - 0.1
