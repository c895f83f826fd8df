"""A causal transformer: what may depend on what, all sequences enumerated, and GPT-2's function."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks
import scipy.stats

from ddpm_jax.diffusion import autoregressive
from ddpm_jax.models import LanguageModel

RNG = np.random.default_rng(0)
SMALL = LanguageModel(7, 6, width=16, depth=2, num_heads=2, num_classes=3)
TOKENS = RNG.integers(0, 7, (4, 6)).astype(np.int32)
LABELS = {"label": np.array([0, 2, -1, 1], np.int32)}
PARAMS = random_networks.random_params(SMALL, TOKENS)
VARIABLES = {"params": PARAMS}


@jax.jit
def logits_of(tokens, conditions):
    return SMALL.apply(VARIABLES, tokens, conditions)


@pytest.mark.parametrize("place", range(6))
def test_a_token_changes_what_follows_it_and_nothing_before(place):
    other = TOKENS.copy()
    other[:, place] = (other[:, place] + 1) % 7
    one, two = logits_of(TOKENS, LABELS), logits_of(other, LABELS)
    np.testing.assert_array_equal(one[:, : place + 1], two[:, : place + 1])
    assert (np.abs(one[:, place + 1 :] - two[:, place + 1 :]).max(axis=-1) > 1e-4).all()


@jax.jit
def stepped(tokens, conditions):
    carry = SMALL.apply(VARIABLES, len(tokens), conditions, method="begin")
    found = []
    for place in range(tokens.shape[1]):
        before = tokens[:, place - 1] if place else jnp.full(len(tokens), -1)
        logits, carry = SMALL.apply(VARIABLES, carry, jnp.int32(place), before, method="step")
        found.append(logits)
    return jnp.stack(found, axis=1)


def test_token_by_token_it_is_the_whole_at_once():
    whole = logits_of(TOKENS, LABELS)
    np.testing.assert_allclose(stepped(TOKENS, LABELS), whole, atol=2e-5 * np.std(whole))


def test_a_shorter_sequence_is_the_beginning_of_a_longer_one():
    short = logits_of(TOKENS[:, :4], LABELS)
    np.testing.assert_allclose(short, logits_of(TOKENS, LABELS)[:, :4], atol=1e-5)


def test_a_label_counts_and_minus_one_is_none():
    with_labels, without = logits_of(TOKENS, LABELS), logits_of(TOKENS, None)
    np.testing.assert_array_equal(with_labels[2], without[2])
    assert (np.abs(with_labels - without)[[0, 1, 3]].max(axis=-1) > 1e-4).all()


TINY = LanguageModel(3, 3, width=8, depth=1, num_heads=2)
TINY_PARAMS = {"params": random_networks.random_params(TINY, np.zeros((1, 3), np.int32))}
EVERY = np.array(list(itertools.product(range(3), repeat=3)), np.int32)


@functools.cache
def tiny_law():
    logits = jax.jit(TINY.apply)(TINY_PARAMS, EVERY)
    return np.exp(np.asarray(autoregressive.log_prob(logits, jnp.asarray(EVERY)), np.float64))


def test_probabilities_of_all_sequences_sum_to_one():
    law = tiny_law()
    assert law.sum() == pytest.approx(1, abs=1e-6)
    assert law.max() > 3 * law.min()  # and it is no uniform one


def test_sequences_are_drawn_as_often_as_they_are_likely():
    num = 20_000

    @jax.jit
    def draw(key):
        def step(carry, place, before):
            return TINY.apply(TINY_PARAMS, carry, place, before, method="step")

        carry = TINY.apply(TINY_PARAMS, num, method="begin")
        return autoregressive.draw(step, carry, jax.random.uniform(key, (num, 3))).tokens

    places = np.asarray(draw(jax.random.key(0))) @ np.array([9, 3, 1])
    counts = np.bincount(places, minlength=27)
    law = tiny_law()
    assert scipy.stats.chisquare(counts, law / law.sum() * num).pvalue > 1e-3


def test_dropout_draws_where_it_is_given_a_key():
    dropping = SMALL.clone(dropout=0.5)
    plain = jax.jit(dropping.apply)(VARIABLES, TOKENS)
    np.testing.assert_allclose(plain, logits_of(TOKENS, None), atol=1e-5)
    dropped = jax.jit(lambda key: dropping.apply(VARIABLES, TOKENS, rngs={"dropout": key}))
    one, same, other = (dropped(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
    ("tokens", "conditions", "said"),
    [
        (np.zeros((1, 7), int), None, "7 tokens, and the model has 6 places"),
        (TOKENS, {"label": np.zeros(4, np.float32)}, "labels must be integers"),
        (TOKENS, {"colour": np.zeros(4, int)}, "not conditioned on colour"),
    ],
)
def test_what_does_not_fit_is_refused(tokens, conditions, said):
    with pytest.raises(ValueError, match=said):
        SMALL.apply(VARIABLES, tokens, conditions)


def test_it_is_transformers_gpt2():
    """With the beginning's embedding before the first token, and the output tied to the input."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=9, n_embd=24, n_layer=2, n_head=3, bos_token_id=22
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            if "weight" in name and parameter.ndim == 2:
                parameter *= 5  # attention that is far from even
    tensors = {name: one.numpy() for name, one in theirs.transformer.state_dict().items()}

    def norm(name):
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def dense(name, part=slice(None)):
        return {"kernel": tensors[f"{name}.weight"][:, part], "bias": tensors[f"{name}.bias"][part]}

    def block(k):
        thirds = {
            name: dense(f"h.{k}.attn.c_attn", slice(24 * n, 24 * n + 24))
            for n, name in enumerate(("query", "key", "value"))
        }
        return thirds | {
            "out": dense(f"h.{k}.attn.c_proj"),
            "norm_0": norm(f"h.{k}.ln_1"),
            "norm_1": norm(f"h.{k}.ln_2"),
            "mlp_0": dense(f"h.{k}.mlp.c_fc"),
            "mlp_1": dense(f"h.{k}.mlp.c_proj"),
        }

    words = tensors["wte.weight"]
    params = {
        "token_embedding": {"embedding": words},
        "first": words[22],
        "places": tensors["wpe.weight"],
        "encoder": {"block_0": block(0), "block_1": block(1)},
        "norm_out": norm("ln_f"),
        "head": {"kernel": words.T},
    }
    tokens = RNG.integers(0, 22, (5, 9))
    before = np.concatenate([np.full((5, 1), 22), tokens[:, :-1]], axis=1)
    with torch.no_grad():
        expected = theirs(torch.tensor(before)).logits.numpy()
    ours = LanguageModel(23, 9, width=24, depth=2, num_heads=3)
    found = jax.jit(ours.apply)({"params": params}, tokens.astype(np.int32))
    assert np.abs(found - expected).max() < 2e-5 * expected.std()
