"""What a caption of shapes tells, read back: of every template, against the image's attributes."""

import pytest

from ddpm_jax.data import DATASETS
from ddpm_jax.data.shape_captions import TEMPLATES, UNSEEN
from ddpm_jax.data.shapes import ATTRIBUTES, Shapes, caption, describe
from ddpm_jax.data.told_shapes import follows, told

SOURCE = Shapes(3, 32, 2, (), 10_000)
EXAMPLES = [SOURCE[k] for k in range(60)]


def attributes(example):
    return {name: int(example[name]) for name in ATTRIBUTES}


def names(example):
    """What an image has, by name, without what it lacks."""
    named = {name: ATTRIBUTES[name][int(example[name])] for name in ATTRIBUTES}
    return {name: value for name, value in named.items() if value != "none"}


@pytest.mark.parametrize("template", ["full", "background_first", "place_first"])
def test_a_caption_that_tells_all_tells_the_attributes(template):
    for example in EXAMPLES:
        read = told(caption(attributes(example), template))
        assert read.attributes == names(example)


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_told_is_true_and_a_full_caption_tells_all_of_it(template):
    for example in EXAMPLES:
        text, full = caption(attributes(example), template), caption(attributes(example))
        read = told(text)
        every = [{**names(example)}]
        if "shape_2" in every[0]:  # of no order where the template sorts them
            first = {n: v for n, v in every[0].items() if not n.endswith("_2")}
            swapped = {f"{n}_2": v for n, v in first.items() if n != "background"}
            swapped |= {n.removesuffix("_2"): v for n, v in every[0].items() if n.endswith("_2")}
            every.append(swapped | {"background": first["background"]})
        assert any(read.attributes.items() <= one.items() for one in every)
        right, of = follows(text, full)
        assert right == of >= 2
        assert follows(text, text) == (of, of)


def test_pixels_tell_the_same():
    for example in EXAMPLES[:20]:
        seen = describe(example["image"])
        assert told(caption(seen)).attributes == names(example)


FULL = "a small red circle at the top left and a large blue square at the bottom right"
ON = f"{FULL} on a white background"


@pytest.mark.parametrize(
    ("prompt", "caption", "facts"),
    [
        (ON, ON, (10, 10)),  # two objects of four attributes, their number, the background
        (ON, ON.replace("white", "grey"), (9, 10)),
        (ON, ON.replace("red", "green"), (9, 10)),
        (ON, "a small red circle at the top left on a white background", (5, 10)),
        ("a circle and a square", ON, (3, 3)),
        ("a square and a circle", ON, (3, 3)),
        ("a circle and a triangle", ON, (2, 3)),
        ("a small red circle above a large blue square", ON, (8, 8)),
        ("a small red circle to the left of a large blue square", ON, (7, 8)),
        ("a large blue square above a small red circle", ON, (7, 8)),
        ("there is a large blue square below a small red circle", ON, (8, 8)),
        ("a red circle above and to the left of a blue square", ON, (7, 7)),  # tells the places
        ("a red circle above and to the right of a blue square", ON, (5, 7)),
        ("a circle and a square", "a large blue square and", (0, 3)),
        ("a red elephant", ON, None),
    ],
)
def test_facts_that_two_captions_share(prompt, caption, facts):
    assert follows(prompt, caption) == facts


def test_it_is_the_data_sets_own():
    assert DATASETS["shapes"].follows is follows
    assert {*UNSEEN} < {*TEMPLATES}
