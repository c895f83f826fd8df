"""A decoder that reads features of an image: its shapes, what may depend on what, and GPT-2's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks

from ddpm_jax.diffusion import autoregressive
from ddpm_jax.models import Captioner, LanguageModel
from ddpm_jax.models.vision import VisionTransformer
from ddpm_jax.runtime import leaves

RNG = np.random.default_rng(0)
WIDTH, FEATURES = 24, 64  # of the decoder, and of what it reads
DECODER = LanguageModel(7, 5, width=WIDTH, depth=2, num_heads=3, reads=True)
TOKENS = RNG.integers(0, 7, (4, 5)).astype(np.int32)
READ = RNG.standard_normal((4, 6, FEATURES)).astype(np.float32)
PARAMS = random_networks.random_params(DECODER, TOKENS, None, READ)


@jax.jit
def logits_of(tokens, features):
    return DECODER.apply({"params": PARAMS}, tokens, None, features)


def test_queries_are_of_the_decoder_and_keys_and_values_of_what_is_read():
    shapes = {name: leaf.shape for name, leaf in leaves.named(PARAMS["encoder"]).items()}
    for k in range(2):
        assert shapes[f"block_{k}/cross_query/kernel"] == (WIDTH, WIDTH)
        assert shapes[f"reading_{k}/key/kernel"] == (FEATURES, WIDTH)
        assert shapes[f"reading_{k}/value/kernel"] == (FEATURES, WIDTH)
        assert shapes[f"block_{k}/cross_out/kernel"] == (WIDTH, WIDTH)
    # Of two blocks, a norm, two projections of WIDTH and two of FEATURES, with biases.
    more = 2 * (2 * WIDTH + 2 * (WIDTH + 1) * WIDTH + 2 * (FEATURES + 1) * WIDTH)
    plain = DECODER.clone(reads=False)
    without = jax.eval_shape(plain.init, jax.random.key(0), TOKENS)["params"]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (PARAMS, without)]
    assert sizes[0] - sizes[1] == more


def test_another_image_is_another_law_and_each_sums_to_one():
    probs = jax.nn.softmax(logits_of(TOKENS, READ))
    np.testing.assert_allclose(probs.sum(axis=-1), 1, rtol=1e-5)
    other = logits_of(TOKENS, READ[::-1])
    assert (np.abs(other - logits_of(TOKENS, READ)).max(axis=-1) > 1e-3).all()


def test_all_texts_of_an_image_sum_to_one():
    """Every text of three tokens of three, each given the same image."""
    tiny = LanguageModel(3, 3, width=8, depth=1, num_heads=2, reads=True)
    every = np.indices((3, 3, 3)).reshape(3, -1).T.astype(np.int32)
    features = np.broadcast_to(READ[:1], (27, *READ.shape[1:]))
    params = random_networks.random_params(tiny, every, None, features)
    logits = jax.jit(tiny.apply)({"params": params}, every, None, features)
    law = np.exp(np.asarray(autoregressive.log_prob(logits, jnp.asarray(every)), np.float64))
    assert law.sum() == pytest.approx(1, abs=1e-6)
    assert law.max() > 3 * law.min()


def test_features_are_read_in_any_order():
    order = RNG.permutation(READ.shape[1])
    expected = logits_of(TOKENS, READ)
    np.testing.assert_allclose(logits_of(TOKENS, READ[:, order]), expected, atol=1e-5)


@pytest.mark.parametrize("place", range(5))
def test_a_token_changes_what_follows_it_alone(place):
    other = TOKENS.copy()
    other[:, place] = (other[:, place] + 1) % 7
    one, two = logits_of(TOKENS, READ), logits_of(other, READ)
    np.testing.assert_array_equal(one[:, : place + 1], two[:, : place + 1])
    assert (np.abs(one[:, place + 1 :] - two[:, place + 1 :]).max(axis=-1) > 1e-4).all()


CAPTIONER = Captioner(
    VisionTransformer(image_size=8, patch_size=4, width=16, depth=1, num_heads=2),
    DECODER,
    mean=(0.5,),
    std=(0.25,),
)
IMAGES = RNG.uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
OF_IMAGES = {"params": random_networks.random_params(CAPTIONER, TOKENS, {"image": IMAGES})}


@jax.jit
def captioned(tokens, images):
    return CAPTIONER.apply(OF_IMAGES, tokens, {"image": images})


def test_token_by_token_it_is_the_whole_at_once():
    @jax.jit
    def stepped(tokens, images):
        carry = CAPTIONER.apply(OF_IMAGES, len(tokens), {"image": images}, method="begin")
        found = []
        for place in range(tokens.shape[1]):
            before = tokens[:, place - 1] if place else jnp.full(len(tokens), -1)
            step = functools.partial(CAPTIONER.apply, OF_IMAGES, method="step")
            logits, carry = step(carry, jnp.int32(place), before)
            found.append(logits)
        return jnp.stack(found, axis=1)

    whole = captioned(TOKENS, IMAGES)
    np.testing.assert_allclose(stepped(TOKENS, IMAGES), whole, atol=2e-5 * np.std(whole))


def test_what_is_read_of_an_image_has_mean_0_and_keeps_its_places():
    params = jax.tree.map(np.zeros_like, OF_IMAGES["params"]["norm_image"])
    variables = {"params": OF_IMAGES["params"] | {"norm_image": params | {"scale": np.ones(16)}}}
    read = jax.jit(functools.partial(CAPTIONER.apply, method="features"))(variables, IMAGES)
    assert read.shape == (4, 5, 16)  # four patches and the class token
    np.testing.assert_allclose(read.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(read.std(axis=-1), 1, atol=1e-3)


@pytest.mark.parametrize(("reads", "features"), [(True, None), (False, READ)])
def test_features_belong_to_a_decoder_that_reads(reads, features):
    with pytest.raises(ValueError, match="features to read, got"):
        DECODER.clone(reads=reads).apply({"params": PARAMS}, TOKENS, None, features)


def test_it_is_transformers_gpt2_with_cross_attention():
    """Theirs reads features of its own width: those here, projected, whose product is ours."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=23,
        n_positions=9,
        n_embd=WIDTH,
        n_layer=2,
        n_head=3,
        bos_token_id=22,
        add_cross_attention=True,
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
    to_theirs = RNG.standard_normal((FEATURES, WIDTH)).astype(np.float32) / 8

    def norm(name):
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def dense(name, part=0, parts=1, before=None):
        rows = slice(WIDTH * part, WIDTH * (part + 1)) if parts > 1 else slice(None)
        kernel = tensors[f"{name}.weight"][:, rows]
        kernel = kernel if before is None else before @ kernel
        return {"kernel": kernel, "bias": tensors[f"{name}.bias"][rows]}

    def block(k):
        own = {
            name: dense(f"h.{k}.attn.c_attn", n, 3)
            for n, name in enumerate(("query", "key", "value"))
        }
        return own | {
            "out": dense(f"h.{k}.attn.c_proj"),
            "norm_0": norm(f"h.{k}.ln_1"),
            "norm_cross": norm(f"h.{k}.ln_cross_attn"),
            "cross_query": dense(f"h.{k}.crossattention.q_attn"),
            "cross_out": dense(f"h.{k}.crossattention.c_proj"),
            "norm_1": norm(f"h.{k}.ln_2"),
            "mlp_0": dense(f"h.{k}.mlp.c_fc"),
            "mlp_1": dense(f"h.{k}.mlp.c_proj"),
        }

    def reading(k):
        name = f"h.{k}.crossattention.c_attn"
        return {own: dense(name, n, 2, to_theirs) for n, own in enumerate(("key", "value"))}

    words = tensors["wte.weight"]
    of_blocks = {f"block_{k}": block(k) for k in range(2)}
    params = {
        "token_embedding": {"embedding": words},
        "first": words[22],
        "places": tensors["wpe.weight"],
        "encoder": of_blocks | {f"reading_{k}": reading(k) for k in range(2)},
        "norm_out": norm("ln_f"),
        "head": {"kernel": words.T},
    }
    tokens = RNG.integers(0, 22, (4, 9))
    before = np.concatenate([np.full((4, 1), 22), tokens[:, :-1]], axis=1)
    with torch.no_grad():
        read = torch.from_numpy(READ @ to_theirs)
        expected = theirs(torch.from_numpy(before), encoder_hidden_states=read).logits.numpy()
    ours = LanguageModel(23, 9, width=WIDTH, depth=2, num_heads=3, reads=True)
    found = jax.jit(ours.apply)({"params": params}, tokens, None, READ)
    np.testing.assert_allclose(found, expected, atol=2e-5 * expected.std())
