"""What can be said of an image of shapes: a dozen templates, some of which leave things out.

The same text always comes of the same template and what it tells, so a caption is true of another
image where that image's attributes give the same text (`shapes.agrees`). Where a template tells no
place, objects are named in an order of their own, whichever stands where.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

NONE = "none"  # of what an image lacks
Object = Mapping[str, str]


def _full(objects: Sequence[Object], background: str) -> str:
    return f"{_joined(_placed(one) for one in objects)} on a {background} background"


def _background_first(objects: Sequence[Object], background: str) -> str:
    return f"on a {background} background, {_joined(_placed(one) for one in objects)}"


def _relation(objects: Sequence[Object], background: str) -> str:
    if len(objects) == 1:
        return f"a {_thing(objects[0])} on a {background} background"
    return f"a {_thing(objects[0])} {_relation_of(*objects)} a {_thing(objects[1])}"


def _relation_full(objects: Sequence[Object], background: str) -> str:
    if len(objects) == 1:
        return f"a {background} background with {_placed(objects[0])}"
    return f"{_relation(objects, background)} on a {background} background"


def _reverse(objects: Sequence[Object], background: str) -> str:
    if len(objects) == 1:
        return f"there is a {_thing(objects[0])}"
    first, second = objects
    return f"there is a {_thing(second)} {_reverse_of(first, second)} a {_thing(first)}"


def _corner(objects: Sequence[Object], background: str) -> str:
    if len(objects) == 1:
        return f"a {objects[0]['colour']} {objects[0]['shape']} at the {objects[0]['position']}"
    first, second = objects
    rows, columns = _rows_and_columns(first, second)
    both = _relation_of(first, second)
    if rows and columns:
        both = f"above and to the {'left' if columns > 0 else 'right'} of"
    return f"a {first['colour']} {first['shape']} {both} a {second['colour']} {second['shape']}"


def _places(objects: Sequence[Object], background: str) -> str:
    return _joined(f"a {one['shape']} at the {one['position']}" for one in objects)


def _colours(objects: Sequence[Object], background: str) -> str:
    return _joined(sorted(f"a {one['colour']} {one['shape']}" for one in objects))


def _shapes(objects: Sequence[Object], background: str) -> str:
    return _joined(sorted(f"a {one['shape']}" for one in objects))


def _sizes(objects: Sequence[Object], background: str) -> str:
    said = " next to ".join(sorted(f"a {one['size']} {one['shape']}" for one in objects))
    return f"a picture of {said}, the background is {background}"


def _place_first(objects: Sequence[Object], background: str) -> str:
    told = ", ".join(f"at the {one['position']} a {_thing(one)}" for one in objects)
    return f"a {background} background, {told}"


def _sentences(objects: Sequence[Object], background: str) -> str:
    said = sorted(f"the {one['shape']} is {one['size']} and {one['colour']}" for one in objects)
    return ", ".join(said)


# (objects in reading order, background) -> text. The last two are held out.
TEMPLATES: dict[str, Callable[[Sequence[Object], str], str]] = {
    "full": _full,
    "background_first": _background_first,
    "relation": _relation,
    "relation_full": _relation_full,
    "reverse": _reverse,
    "corner": _corner,
    "places": _places,
    "colours": _colours,
    "only_shapes": _shapes,
    "sizes": _sizes,
    "place_first": _place_first,
    "sentences": _sentences,
}
UNSEEN = ("place_first", "sentences")
# What `data.options.captions` names.
KINDS = {
    "full": ("full",),
    "varied": tuple(name for name in TEMPLATES if name not in UNSEEN),
    "unseen": UNSEEN,
}


def say(template: str, names: Mapping[str, str]) -> str:
    """One English sentence of an image.

    Args:
      template: a key of TEMPLATES.
      names: the name of each attribute's value; "none" for a second object that is not there.

    Example:
      say("relation", {"shape": "circle", ..., "shape_2": "square", ...})
      # "a small red circle above a large blue square"
    """
    parts = ("shape", "colour", "size", "position")
    objects = [
        {part: names[part + suffix] for part in parts}
        for suffix in ("", "_2")
        if names["shape" + suffix] != NONE
    ]
    return TEMPLATES[template](objects, names["background"])


def _joined(parts: Iterable[str]) -> str:
    return " and ".join(parts)


def _thing(one: Object) -> str:
    return f"{one['size']} {one['colour']} {one['shape']}"


def _placed(one: Object) -> str:
    return f"a {_thing(one)} at the {one['position']}"


def _rows_and_columns(first: Object, second: Object) -> tuple[int, int]:
    """By how many quarters the second is lower, and further right."""
    (row, column), (row_2, column_2) = (one["position"].split() for one in (first, second))
    lower, right = ("top", "bottom"), ("left", "right")
    return lower.index(row_2) - lower.index(row), right.index(column_2) - right.index(column)


def _relation_of(first: Object, second: Object) -> str:
    # The first in reading order is above, or to the left in the same row.
    return "above" if _rows_and_columns(first, second)[0] else "to the left of"


def _reverse_of(first: Object, second: Object) -> str:
    return "below" if _rows_and_columns(first, second)[0] else "to the right of"
