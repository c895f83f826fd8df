"""What a caption of drawn shapes tells, read back from its words: caption -> attributes.

The patterns are made of the templates themselves (`shape_captions.TEMPLATES`), told of names that
stand for any name: a template that is added is read without a word here.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ddpm_jax.data.shape_captions import TEMPLATES
from ddpm_jax.data.shapes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES

# Where objects can stand, in reading order.
PLACEMENTS = [(k,) for k in range(4)] + [*itertools.combinations(range(4), 2)]
ANY = {"shape": SHAPES, "colour": (*COLOURS,), "size": (*SIZES,)}


class Told(NamedTuple):
    """What a caption says of an image.

    Attributes:
      background: its name; "" where nothing is said of it.
      objects: of each one the attributes that are told, by name: {"shape": "circle", ...}.
      placements: where the objects can stand by what is told: the numbers of their POSITIONS.
    """

    background: str
    objects: tuple[Mapping[str, str], ...]
    placements: frozenset[tuple[int, ...]]

    @property
    def attributes(self) -> dict[str, str]:
        """What is told as the attributes of an image are named: shape, ..., shape_2, ..."""
        own = {"background": self.background} if self.background else {}
        for one, suffix in zip(self.objects, ("", "_2"), strict=False):
            own |= {f"{name}{suffix}": value for name, value in one.items()}
        return own


def told(text: str) -> Told | None:
    """What a caption tells; None for one that no template says.

    Args:
      text: in the words of shape_captions.TEMPLATES.

    Example:
      told("a small red circle above a large square").objects[0]["colour"]  # "red"
    """
    for patterns in _patterns():
        matches = {place: found for place, one in patterns if (found := one.fullmatch(text))}
        if matches:
            return _told(matches)
    return None


def follows(prompt: str, caption: str) -> tuple[int, int] | None:
    """How many of the facts that a prompt tells a caption tells too, and how many these are.

    Facts are how many objects there are, each attribute of each that the prompt tells, how they
    stand to each other where it tells no places, and the background. Where the caption may be of
    the objects in either order, the one that agrees more counts.

    Args:
      prompt: in the words of the templates; None is returned for any other.
      caption: of an image that was drawn by it; (0, n) for one that no template says.
    """
    asked, answered = told(prompt), told(caption)
    if asked is None:
        return None
    most = 1 + sum(map(len, asked.objects)) + bool(asked.background) + _tells_relation(asked)
    if answered is None:
        return 0, most
    orders = itertools.permutations(range(len(answered.objects)))
    return max(_agreeing(asked, _reordered(answered, order)) for order in orders), most


def _told(matches: Mapping[tuple[int, ...], re.Match[str]]) -> Told:
    (place, found), *others = matches.items()
    names = found.groupdict()
    objects = []
    for k, number in enumerate(place):
        own = {part: names[f"{part}_{k}"] for part in ANY if f"{part}_{k}" in names}
        if not others:  # one place alone has these words: they tell it
            own["position"] = POSITIONS[number]
        objects.append(own)
    return Told(names.get("background", ""), tuple(objects), frozenset(matches))


def _reordered(one: Told, order: Sequence[int]) -> Told:
    return Told(
        one.background,
        tuple(one.objects[k] for k in order),
        frozenset(tuple(place[k] for k in order) for place in one.placements),
    )


def _agreeing(asked: Told, answered: Told) -> int:
    pairs = zip(asked.objects, answered.objects, strict=False)
    shared = sum(
        theirs.get(name) == value for ours, theirs in pairs for name, value in ours.items()
    )
    as_many = len(asked.objects) == len(answered.objects)
    background = asked.background and asked.background == answered.background
    relation = _tells_relation(asked) and answered.placements <= asked.placements
    return shared + as_many + bool(background) + bool(relation)


def _tells_relation(one: Told) -> bool:
    """Whether it tells how two objects stand to each other, and not where."""
    return 1 < len(one.placements) < len(_of_number(len(one.objects)))


def _of_number(num: int) -> list[tuple[int, ...]]:
    return [place for place in PLACEMENTS if len(place) == num]


@functools.cache
def _patterns() -> list[list[tuple[tuple[int, ...], re.Pattern[str]]]]:
    """For each template and number of objects, what it says at each placement."""
    return [[*_of_template(name, num)] for name in TEMPLATES for num in (1, 2)]


def _of_template(name: str, num: int) -> Iterator[tuple[tuple[int, ...], re.Pattern[str]]]:
    for place in _of_number(num):
        objects = [
            {part: _group(f"{part}_{k}", values) for part, values in ANY.items()}
            | {"position": POSITIONS[number]}
            for k, number in enumerate(place)
        ]
        yield place, re.compile(TEMPLATES[name](objects, _group("background", BACKGROUNDS)))


def _group(name: str, values: Iterable[str]) -> str:
    return f"(?P<{name}>{'|'.join(values)})"
