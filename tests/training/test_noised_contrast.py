"""The objective of a CLIP of noised images, against a CLIP that is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from ddpm_jax.diffusion import process, schedules, time_draws
from ddpm_jax.training.objectives.contrast import noised_contrast

DATA = oracles.Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.3, 0.1])
SCHEDULE = schedules.cosine(100)
SIZE, BATCHES = 8, 2000


def rows(params, xt, time, batch, key, train):
    """Products log p(class | x_t) / p(class), sharpened by `slope`, leaning by `lean`."""
    logits = DATA.log_posterior(SCHEDULE, xt, (time + 1) / 100) - jnp.log(jnp.array([DATA.weights]))
    lean = jnp.stack([params["lean"], jnp.zeros(())])[None] * xt[:, :1]
    image = jnp.exp(params["slope"]) * logits + lean
    return {"image": image, "text": jax.nn.one_hot(batch["text"], 2)}


OBJECTIVE = noised_contrast(
    rows, lambda params: jnp.ones(()), SCHEDULE, time_draw=time_draws.uniform()
)


def batches():
    """Pairs of an image and its class."""
    rng = np.random.default_rng(0)
    text = rng.choice(2, size=(BATCHES, SIZE), p=DATA.weights)
    std = np.sqrt(DATA.variances)[text][..., None]
    x0 = np.array(DATA.means)[text] + std * rng.standard_normal((BATCHES, SIZE, 2))
    return {"x0": x0.astype(np.float32), "text": text.astype(np.int32)}


def test_no_clip_of_noised_images_does_better_than_bayes():
    """At log p(x_t, c) / (p(x_t) p(c)) the loss is flat, and higher all around."""
    given, keys = batches(), jax.random.split(jax.random.key(0), BATCHES)

    @jax.jit
    def losses(params):
        def one(batch, key):
            return OBJECTIVE(params, batch, key, True, {}).loss.mean()

        return jax.vmap(one)(given, keys)

    bayes = {"slope": jnp.zeros(()), "lean": jnp.zeros(())}
    least = losses(bayes).mean()
    for name, slopes in jax.jacfwd(losses)(bayes).items():
        assert abs(slopes.mean()) < 3 * slopes.std() / np.sqrt(BATCHES), name
    for name in bayes:
        for change in (-0.5, 0.5):
            assert losses(bayes | {name: jnp.asarray(change)}).mean() > least + 0.001, name


def test_an_outcome_tells_what_was_drawn():
    batch = {name: value[0] for name, value in batches().items()}
    params = {"slope": jnp.zeros(()), "lean": jnp.zeros(())}
    key = jax.random.key(1)
    outcome = OBJECTIVE(params, batch, key, True, {"kept": 1})
    drawn = OBJECTIVE.draws(params, batch, key, True, {})
    np.testing.assert_array_equal(outcome.t, drawn["t"])
    assert len(np.unique(outcome.t)) > SIZE // 2
    assert outcome.extra == {"kept": 1}
    # The loss is that of these x_t, written out.
    xt = process.add_noise(SCHEDULE, batch["x0"], drawn["t"], drawn["eps"])
    logits = np.asarray(DATA.log_posterior(SCHEDULE, xt, drawn["t"])) - np.log(DATA.weights)
    table = logits[:, batch["text"]]
    of_images = np.log(np.exp(table).sum(axis=1)) - np.diag(table)
    of_texts = np.log(np.exp(table).sum(axis=0)) - np.diag(table)
    np.testing.assert_allclose(outcome.loss, (of_images + of_texts) / 2, rtol=2e-3, atol=2e-3)
