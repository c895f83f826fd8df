"""Drawn shapes: a pure function of (seed, index), told and read back without error."""

import collections

import numpy as np
import pytest

from ddpm_jax.data import build_source
from ddpm_jax.data.shape_captions import KINDS, TEMPLATES, UNSEEN
from ddpm_jax.data.shapes import (
    ATTRIBUTES,
    COLOURS,
    LENGTH,
    SHAPES,
    agrees,
    caption,
    describe,
    shapes,
)
from ddpm_jax.errors import UserError


def attributes(example):
    return {name: example[name] for name in ATTRIBUTES}


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def many():
    source = shapes("train")
    return [source[k] for k in range(2000)]


def test_an_example_is_its_seed_and_number_alone():
    source = shapes("train")
    last = source[LENGTH - 1]
    assert same(source[5], shapes("train")[5])
    assert same(last, source[-1])
    assert not np.array_equal(source[5]["image"], source[6]["image"])
    for other in (shapes("validation"), shapes("train", seed=1)):
        assert np.mean([same(source[k], other[k]) for k in range(50)]) < 0.1
    with pytest.raises(IndexError):
        source[LENGTH]


@pytest.mark.parametrize("size", [16, 20, 32, 64])
def test_what_is_drawn_is_read_back(size):
    source = shapes("train", size)
    told = [source[k] for k in range(500)]
    right = [describe(example["image"]) == attributes(example) for example in told]
    assert np.mean(right) >= 0.99


def test_small_errors_of_a_model_do_not_change_the_description(many):
    rng = np.random.default_rng(0)
    right = []
    for example in many[:300]:
        noisy = example["image"] + rng.normal(0, 6, example["image"].shape)
        found = describe(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        right.append(found == attributes(example))
    assert np.mean(right) >= 0.99


def test_what_is_no_such_image_has_no_description(many):
    blank = np.zeros((32, 32, 3), np.uint8)
    assert describe(blank) is None
    rng = np.random.default_rng(0)
    quarters = [many[k]["image"] for k in range(4)]
    full = blank.copy()
    for place in range(4):  # an object in every quarter
        example = next(e for e in many if e["position"] == place and e["background"] == 0)
        rows, columns = (slice(16 * k, 16 * k + 16) for k in divmod(place, 2))
        full[rows, columns] = example["image"][rows, columns]
    assert describe(full) is None
    assert quarters
    describe(rng.integers(0, 256, (32, 32, 3), np.uint8))  # whatever it says, it says it
    for bad in (blank[:, :31], blank.astype(np.float32), blank[..., :1]):
        with pytest.raises(ValueError, match=r"uint8 \[S, S, 3\]"):
            describe(bad)


def test_every_value_is_as_likely_as_the_others(many):
    for name, values in ATTRIBUTES.items():
        counts = collections.Counter(example[name] for example in many)
        drawn = [counts[k] for k, value in enumerate(values) if value != "none"]
        if name.startswith("position"):  # in reading order the first object is rather at the top
            assert min(drawn) > 0 or drawn[0] == 0
            continue
        expected = sum(drawn) / len(drawn)
        # Pearson's statistic: mean k - 1, variance 2 (k - 1).
        statistic = sum((n - expected) ** 2 / expected for n in drawn)
        assert statistic < len(drawn) - 1 + 5 * np.sqrt(2 * (len(drawn) - 1)), name
    second = np.mean([ATTRIBUTES["shape_2"][e["shape_2"]] != "none" for e in many])
    assert abs(second - 0.5) < 5 * 0.5 / np.sqrt(len(many))


def test_a_silhouette_holds_what_is_not_background(many):
    for example in many[:200]:
        corner = example["image"][0, 0].astype(int)
        differs = np.abs(example["image"].astype(int) - corner).max(axis=-1)
        mask = example["silhouette"][..., 0]
        assert (differs[mask] > 0).all()
        # Less than half covered pixels are the only ones that differ outside it.
        assert (differs[~mask] <= 128).all()
        edge = example["outline"][..., 0]
        assert edge.any()
        assert (mask | ~edge).all()
        wide = np.pad(mask, 1)
        beside = np.stack([wide[1:-1, 2:], wide[1:-1, :-2], wide[2:, 1:-1], wide[:-2, 1:-1]])
        np.testing.assert_array_equal(edge[1:-1, 1:-1], (mask & ~beside.all(axis=0))[1:-1, 1:-1])


def test_a_caption_says_every_attribute(many):
    for example in many[:300]:
        said = example["caption"]
        objects, background = said.rsplit(" on a ", 1)
        assert background == f"{ATTRIBUTES['background'][example['background']]} background"
        for text, suffix in zip(objects.split(" and "), ("", "_2"), strict=False):
            article, size, colour, shape, *place = text.split(" ")
            assert (article, place[:2]) == ("a", ["at", "the"])
            for name, word in (("size", size), ("colour", colour), ("shape", shape)):
                assert ATTRIBUTES[name + suffix][example[name + suffix]] == word
            found = ATTRIBUTES["position" + suffix][example["position" + suffix]]
            assert found == " ".join(place[2:])
        assert len(objects.split(" and ")) == 1 + (example["shape_2"] < len(SHAPES))
    assert caption(attributes(many[0])) == many[0]["caption"]


def test_other_captions_are_of_the_same_images(many):
    for captions, names in KINDS.items():
        source = shapes("train", captions=captions)
        counts = collections.Counter(source.template(k) for k in range(600))
        assert counts.keys() == set(names)
        assert min(counts.values()) > 600 / len(names) / 2
        for k in range(50):
            assert source[k]["caption"] == source.caption(k)
            assert same({"image": many[k]["image"]}, {"image": source[k]["image"]})
            assert attributes(source[k]) == attributes(many[k])


def test_what_templates_are_held_out_say_is_in_words_that_the_others_have(many):
    seen, unseen = (
        {word.strip(",") for k in range(1500) for word in source.caption(k).split()}
        for source in (shapes("train", captions="varied"), shapes("train", captions="unseen"))
    )
    assert unseen <= seen
    assert len(TEMPLATES) == 12
    told = [attributes(example) for example in many[:200]]
    texts = {name: {caption(one, name) for one in told} for name in TEMPLATES}
    for name in UNSEEN:
        assert not any(texts[name] & texts[other] for other in set(TEMPLATES) - set(UNSEEN))


def test_relations_hold_in_the_pixels(many):
    checked = collections.Counter()
    for example in many[:600]:
        colours = [[*COLOURS.values()][example[f"colour{n}"] % len(COLOURS)] for n in ("", "_2")]
        if example["shape_2"] == len(SHAPES) or colours[0] == colours[1]:
            continue
        # Where the pixels of each colour are in the middle, (row, column).
        middles = {}
        for suffix, colour in zip(("", "_2"), colours, strict=True):
            near = np.abs(example["image"].astype(int) - colour).max(axis=-1) < 8
            name = " ".join(
                ATTRIBUTES[part + suffix][example[part + suffix]] for part in ("colour", "shape")
            )
            middles[name] = np.argwhere(near).mean(axis=0)
        for template in ("relation", "reverse", "corner"):
            said = caption(attributes(example), template)
            first, second = sorted(middles, key=said.index)
            down, right = middles[second] - middles[first]
            for words, holds in (
                ("above", down > 4),
                ("below", down < -4),
                ("left of", right > 4),
                ("right of", right < -4),
            ):
                if words in said:
                    assert holds, said
                    checked[words] += 1
    assert min(checked.values()) > 30
    assert len(checked) == 4


def test_a_caption_agrees_with_the_images_it_is_true_of(many):
    right, shuffled = [], []
    for template in TEMPLATES:
        for first, second in zip(many[:40], many[40:80], strict=True):
            right.append(agrees(first["image"], attributes(first), template))
            shuffled.append(agrees(second["image"], attributes(first), template))
    assert np.mean(right) >= 0.99
    assert 0 < np.mean(shuffled) < 0.1  # a few templates say little
    assert not agrees(np.zeros((32, 32, 3), np.uint8), attributes(many[0]))
    first = {"shape": 0, "colour": 0, "size": 0}
    second = {"shape": 1, "colour": 2, "size": 1}
    straight, swapped = (
        {
            "background": 0,
            **a,
            "position": 0,
            **{f"{n}_2": v for n, v in b.items()},
            "position_2": 1,
        }
        for a, b in ((first, second), (second, first))
    )
    # Two objects in the other order: true where no place is told, and false where one is.
    equal = {name for name in TEMPLATES if caption(straight, name) == caption(swapped, name)}
    assert equal == {"colours", "only_shapes", "sizes", "sentences"}


def test_pairs_that_are_held_out_are_never_drawn():
    held = [("circle", "red"), ("cross", "blue")]
    source = shapes("train", held_out=held)
    pairs = collections.Counter()
    for k in range(1500):
        example = source[k]
        for suffix in ("", "_2"):
            if example["shape" + suffix] < len(SHAPES):
                colour = [*COLOURS][example["colour" + suffix]]
                pairs[SHAPES[example["shape" + suffix]], colour] += 1
    assert not set(held) & set(pairs)
    assert len(pairs) == len(SHAPES) * len(COLOURS) - 2


def test_one_object_if_so_asked():
    source = shapes("train", max_objects=1)
    assert all(ATTRIBUTES["shape_2"][source[k]["shape_2"]] == "none" for k in range(100))


def test_a_config_says_what_is_drawn():
    held = ["red circle", "blue cross"]
    options = {"image_size": (16, 16), "channels": 3, "max_objects": 1, "held_out": held}
    source = build_source("shapes", "train", **options)
    pairs = [("circle", "red"), ("cross", "blue")]
    same = shapes("train", 16, max_objects=1, held_out=pairs)
    assert all((source[k]["image"] == same[k]["image"]).all() for k in range(20))
    assert {source[k]["shape_2"] for k in range(50)} == {len(SHAPES)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shapes", {"held_out": ["circle red"]}, "'circle red': need a colour .*red, green.*cross"),
        ("shapes", {"held_out": ["red"]}, "'red': need a colour"),
        ("shapes", {"max_objects": 3}, "max_objects=3: need 1 or 2"),
        ("shapes", {"captions": "some"}, "captions='some': need one of full, varied, unseen"),
        (
            "digits",
            {"max_objects": 1},
            "max_objects=1 applies only to data.name=shapes, not digits",
        ),
        ("mnist", {"held_out": ("red circle",)}, "held_out=.*shapes or emoji, not mnist"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name, options, message):
    size, channels = ((8, 8), 1) if name == "digits" else ((16, 16), 3)
    with pytest.raises(UserError, match=message):
        build_source(name, "train", image_size=size, channels=channels, **options)


def test_it_is_a_source_by_name():
    source = build_source("shapes", "validation", image_size=(32, 32), channels=3)
    assert source.info.image_shape == (32, 32, 3)
    assert source.info.num_classes == len(source.info.class_names) == 4
    assert source[3]["image"].shape == (32, 32, 3)
    assert source[3]["label"] == source[3]["shape"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 15}, "image_size=15"),
        ({"image_size": 8}, "image_size=8"),
        ({"max_objects": 3}, "max_objects=3: need 1 or 2"),
        ({"held_out": [("ring", "red")]}, "ring.*circle, square"),
        ({"held_out": [(s, c) for s in SHAPES for c in COLOURS]}, "every pair"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        shapes("train", **options)


def test_a_source_of_other_images_is_refused():
    with pytest.raises(UserError, match="square with 3 channels"):
        build_source("shapes", "train", image_size=(32, 32), channels=1)
