"""CLIP's towers: published numbers of parameters, and what may depend on what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks

from ddpm_jax.models import Clip
from ddpm_jax.models.text import BagOfWords, TextTransformer
from ddpm_jax.models.vision import ModifiedResNet, VisionTransformer, batch_statistics

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 30, (3, 7))
IMAGES = RNG.standard_normal((4, 32, 64, 3)).astype(np.float32)


def text(width, embed_dim, **fields):
    return TextTransformer(width=width, num_heads=width // 64, embed_dim=embed_dim, **fields)


vit = functools.partial(VisionTransformer, embed_dim=512)
large = functools.partial(VisionTransformer, width=1024, depth=24, num_heads=16, embed_dim=768)
# Parameters of transformers' CLIPModel, and of open_clip's CLIP, without the statistics of batches.
PUBLISHED = {
    "ViT-B/32": (vit(), text(512, 512), 224, 151_277_313),
    "ViT-B/16": (vit(patch_size=16), text(512, 512), 224, 149_620_737),
    "ViT-L/14": (large(patch_size=14), text(768, 768), 224, 427_616_513),
    "ViT-L/14@336": (large(336, patch_size=14), text(768, 768), 336, 427_944_193),
    "RN50": (ModifiedResNet(), text(512, 1024), 224, 102_007_137),
    "RN101": (
        ModifiedResNet(layers=(3, 4, 23, 3), embed_dim=512),
        text(512, 512),
        224,
        119_688_033,
    ),
    "RN50x4": (ModifiedResNet(288, (4, 6, 10, 6), 80, 40, 640), text(640, 640), 288, 178_300_601),
}
# Those of transformers' CLIPTextModel and CLIPTextModelWithProjection.
TEXT_ENCODERS = {
    "L/14": (text(768, None), 123_060_480),
    "L/14 with projection": (text(768, 768), 123_650_304),
    "H/14, 23 layers": (text(1024, None, depth=23, activation="gelu"), 340_387_840),
    "bigG/14": (text(1280, 1280, depth=32, activation="gelu"), 694_659_840),
}


def count(module, *args):
    tree = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sum(leaf.size for path, leaf in leaves if path[-1].key not in ("mean", "variance"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_of_parameters(name):
    image, reads, size, expected = PUBLISHED[name]
    assert count(Clip(image, reads), np.zeros((1, size, size, 3)), TOKENS) == expected


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_published_numbers_of_text_encoders(name):
    encoder, expected = TEXT_ENCODERS[name]
    assert count(encoder, TOKENS) == expected


def test_the_image_tower_of_rn50():
    assert count(ModifiedResNet(), np.zeros((1, 224, 224, 3))) == 38_316_896


def small_text(**fields):
    sizes = {"vocab_size": 30, "context_length": 9, "width": 12, "depth": 2, "num_heads": 3}
    return TextTransformer(**sizes | {"embed_dim": 5, "eos": 29} | fields)


def reading(network, mask=None):
    params = random_networks.random_params(network, TOKENS)
    return jax.jit(lambda tokens: network.apply({"params": params}, tokens, mask))


def changed(tokens, place):
    tokens = tokens.copy()
    tokens[:, place] = (tokens[:, place] + 7) % 29
    return tokens


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_token_sees_none_behind_it(causal):
    read = reading(small_text(causal=causal))
    before, after = read(TOKENS).last, read(changed(TOKENS, 4)).last
    moved = np.abs(before - after).max(axis=(0, 2)) > 1e-4
    np.testing.assert_array_equal(moved, np.arange(7) >= 4 if causal else True)


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_what_is_padded_is_seen_by_none(pooling):
    mask = np.arange(7)[None] < np.array([5, 2, 4])[:, None]
    read = reading(small_text(causal=False, pooling=pooling), mask)
    before, after = read(TOKENS), read(np.where(mask, TOKENS, 3))
    np.testing.assert_array_equal(before.embedding, after.embedding)
    # As many tokens alone give the same.
    for row, length in enumerate([5, 2, 4]):
        alone = reading(small_text(causal=False, pooling=pooling))(TOKENS[row : row + 1, :length])
        np.testing.assert_allclose(alone.embedding[0], before.embedding[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "tokens", "place"),
    [
        ("largest", [3, 28, 5, 29, 1], 3),
        ("largest", [3, 29, 5, 29, 1], 1),
        ("eos", [3, 28, 5, 29, 29], 3),
        ("eos", [3, 28, 5, 6, 1], 0),
        ("first", [3, 28, 5, 29, 1], 0),
        ("last", [3, 28, 5, 29, 1], 4),
    ],
)
def test_which_token_stands_for_a_text(pooling, tokens, place):
    found = reading(small_text(pooling=pooling))(np.array([tokens]))
    np.testing.assert_allclose(found.pooled, found.last[:, place], rtol=1e-5, atol=1e-5)
    assert (
        np.abs(found.last - found.last[:, place, None])
        .max(axis=2)
        .min(where=np.arange(5) != place, initial=9)
        > 0.1
    )


def test_every_state_is_given_and_the_last_is_normed():
    found = reading(small_text())(TOKENS)
    assert len(found.hidden_states) == 3
    assert found.embedding.shape == (3, 5)
    plain = small_text(embed_dim=None)
    shapes = jax.eval_shape(plain.init_with_output, jax.random.key(0), TOKENS)
    assert shapes[0].embedding.shape == (3, 12)
    assert np.abs(found.hidden_states[-1] - found.last).max() > 0.1


def test_a_bag_knows_no_order_and_no_padding():
    read = reading(BagOfWords(30, 8, 5))
    embedding = read(TOKENS).embedding
    padded = np.concatenate([TOKENS[:, ::-1], np.zeros((3, 2), int)], axis=1)
    np.testing.assert_allclose(read(padded).embedding, embedding, rtol=1e-5, atol=1e-6)
    assert np.isfinite(read(np.zeros((1, 3), int)).embedding).all()


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match="10 tokens, and the context has 9"):
        small_text().init(jax.random.key(0), np.zeros((1, 10), int))
    with pytest.raises(ValueError, match="need a pooling of largest, eos, first, last, mean"):
        small_text(pooling="middle").init(jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match="need an activation of quick_gelu"):
        small_text(activation="relu").init(jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match="5 heads do not divide a width of 12"):
        small_text(num_heads=5).init(jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match=r"need images \[B, 32, 32, C\], got \(4, 32, 64, 3\)"):
        small_vit(image_size=32).init(jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="need a norm of batch, group"):
        small_resnet(norm="layer").init(jax.random.key(0), IMAGES)


def small_vit(**fields):
    sizes = {"image_size": (32, 64), "patch_size": 12, "width": 8, "depth": 2, "num_heads": 2}
    return VisionTransformer(**sizes | {"embed_dim": 5} | fields)


def small_resnet(**fields):
    sizes = {"image_size": (32, 64), "layers": (1, 1, 1, 1), "width": 8, "num_heads": 4}
    return ModifiedResNet(**sizes | {"embed_dim": 5, "num_groups": 4} | fields)


TOWERS = {"vit": small_vit(), "batch": small_resnet(), "group": small_resnet(norm="group")}


def well_scaled(params):
    """Batch norms divide by the root of a variance, which is above 0."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.abs(leaf) + 0.5 if path[-1].key == "variance" else leaf, params
    )


@pytest.mark.wide(3)
@pytest.mark.parametrize("name", TOWERS)
def test_an_image_is_embedded_by_itself(name):
    tower = TOWERS[name]
    params = well_scaled(random_networks.random_params(tower, IMAGES))
    embed = jax.jit(lambda images: tower.apply({"params": params}, images).embedding)
    whole = embed(IMAGES)
    assert whole.std() > 1e-3
    np.testing.assert_allclose(embed(IMAGES[1:3]), whole[1:3], rtol=1e-4, atol=1e-5)
    # The derivative forward, which guidance and flow maps take, is the transpose of backward's.
    direction = np.random.default_rng(1).standard_normal(IMAGES.shape).astype(np.float32)

    @jax.jit
    def both_ways(images):
        value, slope = jax.jvp(embed, (images,), (direction,))
        (gradient,) = jax.vjp(embed, images)[1](value)
        return (value * slope).sum(), (gradient * direction).sum()

    forward, backward = both_ways(IMAGES)
    np.testing.assert_allclose(forward, backward, rtol=1e-3)


def test_statistics_of_a_batch_become_those_of_the_network():
    tower = TOWERS["batch"]
    params = random_networks.random_params(tower, IMAGES)

    @jax.jit
    def trained(params):
        def loss(params):
            embedding = tower.apply({"params": params}, IMAGES, train=True).embedding
            return embedding.sum(), embedding

        gradient, embedding = jax.grad(loss, has_aux=True)(params)
        return gradient, embedding, batch_statistics(tower, params, IMAGES)

    gradient, embedding, statistics = trained(params)

    def merged(tree, new):
        return {
            name: merged(leaf, new[name])
            if isinstance(leaf, dict) and name in new
            else new.get(name, leaf)
            for name, leaf in tree.items()
        }

    found = jax.jit(tower.apply)({"params": merged(params, statistics)}, IMAGES).embedding
    np.testing.assert_allclose(found, embedding, rtol=1e-4, atol=1e-5)
    assert not gradient["norm_0"]["mean"].any()
    assert not gradient["norm_0"]["variance"].any()
    assert gradient["norm_0"]["scale"].any()


def test_embeddings_are_of_unit_length_and_the_scale_begins_at_clips():
    clip = Clip(small_vit(), small_text())
    params = jax.jit(clip.init)(jax.random.key(0), IMAGES, TOKENS)["params"]
    image_embeds, text_embeds, scale = jax.jit(clip.apply)({"params": params}, IMAGES, TOKENS)
    np.testing.assert_allclose(jnp.linalg.norm(image_embeds, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(text_embeds, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(scale, 1 / 0.07, rtol=1e-6)
    alone = jax.jit(lambda p: clip.apply({"params": p}, TOKENS, method="embed_texts"))(params)
    np.testing.assert_allclose(alone, text_embeds, rtol=1e-5, atol=1e-6)


def test_recomputing_blocks_changes_no_gradient():
    def gradient(remat):
        network = small_text(remat=remat)
        params = random_networks.random_params(network, TOKENS)

        def loss(params):
            return (network.apply({"params": params}, TOKENS).embedding ** 2).sum()

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        gradient("none"),
        gradient("block"),
    )
