"""Drawn images of one or two coloured shapes, with everything that can be said of them.

Each image is a pure function of (seed, index) and there are as many as one likes, so conditional
models can be trained without a download, and scored exactly: `describe` reads the attributes back
from the pixels.

    source = shapes("train")
    source[7]["image"], source[7]["colour"], source[7]["caption"]
"""

# Over 300 lines: one data set, drawn and read back from its pixels by the same geometry.

import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np

from ddpm_jax.data.base import DataInfo, Example
from ddpm_jax.data.shape_captions import KINDS, NONE, TEMPLATES, say
from ddpm_jax.errors import UserError

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 90, 230),
    "yellow": (240, 210, 40),
    "purple": (160, 60, 200),
    "cyan": (60, 200, 220),
}
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128)}
SIZES = {"small": 0.23, "large": 0.375}  # half the height, as a share of half the image
POSITIONS = ("top left", "top right", "bottom left", "bottom right")

# Every condition with the names of its values. Objects are listed in reading order, so an image has
# one description; what an image lacks is "none".
_OBJECT = {"shape": SHAPES, "colour": (*COLOURS,), "size": (*SIZES,), "position": POSITIONS}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "background": (*BACKGROUNDS,),
    **_OBJECT,
    **{f"{name}_2": (*values, NONE) for name, values in _OBJECT.items()},
}
PALETTE = 4  # parts of a palette along each side
JITTER = 0.09  # of an object's centre, as a share of half the image
LENGTH = 2**31 - 1
HELD_OUT = 10_000
_COLOUR_VALUES = np.array([*COLOURS.values()], np.float32)
_BACKGROUND_VALUES = np.array([*BACKGROUNDS.values()], np.float32)


class Shapes:
    """A source of drawn shapes; see `shapes`."""

    skipped = 0
    derived = ("palette",)  # of an example: what its image says already

    def __init__(
        self,
        seed: int,
        image_size: int,
        max_objects: int,
        held_out: Iterable[tuple[str, str]],
        length: int,
        templates: tuple[str, ...] = ("full",),
    ):
        self.info = DataInfo(
            (image_size, image_size, 3), len(SHAPES), 256, SHAPES, attributes=ATTRIBUTES
        )
        self._seed = seed
        self._half = image_size // 2
        self._max_objects = max_objects
        self._length = length
        self._templates = templates
        held = set(held_out)
        self._pairs = [
            (shape, colour)
            for shape, shape_name in enumerate(SHAPES)
            for colour, colour_name in enumerate(COLOURS)
            if (shape_name, colour_name) not in held
        ]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        attributes, centres, template = self._choices(range(self._length)[index])
        image, mask = self._drawn(attributes, centres)
        return {
            "image": image,
            "label": np.int32(attributes["shape"]),
            **attributes,
            "silhouette": mask,
            "outline": outline(mask),
            "palette": palette(image),
            "caption": caption(attributes, template),
        }

    def caption(self, index: int) -> str:
        """Of an example, without drawing it."""
        attributes, _, template = self._choices(range(self._length)[index])
        return caption(attributes, template)

    def template(self, index: int) -> str:
        """By which of shape_captions.TEMPLATES an example's caption is told."""
        return self._choices(range(self._length)[index])[2]

    def _choices(self, index: int) -> tuple[dict[str, int], list[tuple[float, ...]], str]:
        """The attributes, the centre of each object in its quarter, and the caption's template."""
        # Raw bits: numpy promises never to change them, unlike its distributions.
        raw = np.random.Philox(key=[self._seed, index]).random_raw(16).tolist()
        draws = iter(raw)
        attributes = {"background": next(draws) % len(BACKGROUNDS)}
        count = 1 + next(draws) % self._max_objects
        places = _places(next(draws), count)
        centres = []
        for place, suffix in zip(places, ("", "_2"), strict=False):
            shape, colour = self._pairs[next(draws) % len(self._pairs)]
            size = next(draws) % len(SIZES)
            draw = (next(draws) * 2.0**-63 - 1 for _ in range(2))
            centres.append(tuple(self._half * (0.5 + JITTER * one) for one in draw))
            values = {"shape": shape, "colour": colour, "size": size, "position": place}
            attributes |= {name + suffix: value for name, value in values.items()}
        for name in ATTRIBUTES:
            attributes.setdefault(name, len(ATTRIBUTES[name]) - 1)
        # The last of the draws, which no object reaches.
        return attributes, centres, self._templates[raw[-1] % len(self._templates)]

    def _drawn(
        self, attributes: Mapping[str, int], centres: Iterable[tuple[float, ...]]
    ) -> tuple[np.ndarray, np.ndarray]:
        background, half = attributes["background"], self._half
        image = np.tile(_BACKGROUND_VALUES[background], (2 * half, 2 * half, 1))
        mask = np.zeros((2 * half, 2 * half, 1), bool)
        for centre, suffix in zip(centres, ("", "_2"), strict=False):
            cover = coverage(
                attributes["shape" + suffix], attributes["size" + suffix], centre, half
            )
            quarter = divmod(attributes["position" + suffix], 2)
            rows, columns = (slice(k * half, k * half + half) for k in quarter)
            colour = _COLOUR_VALUES[attributes["colour" + suffix]]
            image[rows, columns] += cover[..., None] * (colour - _BACKGROUND_VALUES[background])
            mask[rows, columns] = cover[..., None] > 0.5
        return np.rint(image).astype(np.uint8), mask


def shapes(
    split: str,
    image_size: int = 32,
    *,
    max_objects: int = 2,
    held_out: Iterable[tuple[str, str]] = (),
    captions: str = "full",
    seed: int = 0,
    length: int | None = None,
) -> Shapes:
    """Drawn images of one or two shapes: shape, colour, size, position and background, all free.

    Args:
      split: "train" or "validation": images of two independent streams.
      image_size: height and width, even, at least 16.
      max_objects: 1 or 2; with 2, half of the images have two objects.
      held_out: pairs (shape, colour) that are never drawn, to ask a model for what it never saw.
      captions: "full" says everything, always alike; "varied" draws one of ten templates, some
        with relations and some that leave things out; "unseen" one of two others.
      seed: of the stream, at least 0 and below 2^31.
      length: images in the source; None for 2^31 - 1 to train on, and 10,000 held out.

    Returns:
      A source of {"image": uint8 [S, S, 3], "label": int32 (the first object's shape),
      each name of ATTRIBUTES: an index into its values, "silhouette": bool [S, S, 1] of the
      objects, "outline": bool [S, S, 1] of their edges, "caption": str}. Objects come in reading
      order.

    Raises:
      UserError: for an argument out of range.
    """
    if image_size < 16 or image_size % 2:
        raise UserError(f"data.image_size={image_size}: shapes need an even size of at least 16")
    if max_objects not in (1, 2):
        raise UserError(f"data.options.max_objects={max_objects}: need 1 or 2")
    if captions not in KINDS:
        raise UserError(f"data.options.captions={captions!r}: need one of {', '.join(KINDS)}")
    held = []
    for pair in held_out:
        if len(pair) != 2 or pair[0] not in SHAPES or pair[1] not in COLOURS:
            raise UserError(
                f"data.options.held_out={pair}: need a shape ({', '.join(SHAPES)}) and a colour "
                f"({', '.join(COLOURS)})"
            )
        held.append((pair[0], pair[1]))
    if len(set(held)) == len(SHAPES) * len(COLOURS):
        raise UserError("data.options.held_out holds every pair: leave some to be drawn")
    held_out_images = split == "validation"
    length = length or (HELD_OUT if held_out_images else LENGTH)
    return Shapes(
        2 * seed + held_out_images, image_size, max_objects, held, length, KINDS[captions]
    )


def build(
    split: str,
    *,
    image_size: tuple[int, int],
    channels: int,
    max_objects: int = 2,
    held_out: tuple[str, ...] = (),
    captions: str = "full",
) -> Shapes:
    """The source of data.name=shapes: as `shapes`, of what a config says.

    Args:
      split, max_objects, captions: as of `shapes`.
      image_size: (S, S).
      channels: 3.
      held_out: what is never drawn, such as "red circle".

    Raises:
      UserError: for images that are not square or grey, or as `shapes`.
    """
    if image_size[0] != image_size[1] or channels != 3:
        raise UserError(
            f"shapes are square with 3 channels, got data.image_size={image_size} and "
            f"data.channels={channels}: set them to (32, 32) and 3"
        )
    pairs = [parse_object(text) for text in held_out]
    return shapes(split, image_size[0], max_objects=max_objects, held_out=pairs, captions=captions)


def parse_object(text: str) -> tuple[str, str]:
    """(shape, colour) of "red circle".

    Raises:
      UserError: for another text.
    """
    colour, _, shape = text.partition(" ")
    if shape not in SHAPES or colour not in COLOURS:
        raise UserError(
            f"data.options.held_out={text!r}: need a colour ({', '.join(COLOURS)}) and a shape "
            f"({', '.join(SHAPES)}), such as 'red circle'"
        )
    return shape, colour


def coverage(shape: int, size: int, centre: Iterable[float], half: int) -> np.ndarray:
    """How much of each pixel an object covers, float32 [half, half] in [0, 1].

    Args:
      shape, size: indices into SHAPES and SIZES.
      centre: (row, column) of the middle of its height and width, in pixels of its quarter.
      half: height and width of the quarter.
    """
    row, column = centre
    radius = half * [*SIZES.values()][size]
    along = _centres(half)
    dy, dx = along[:, None] - np.float32(row), np.abs(along[None, :] - np.float32(column))
    if shape == 0:
        distance = np.sqrt(dx * dx + dy * dy) - radius
    elif shape == 1:
        distance = np.maximum(dx, np.abs(dy)) - 0.88 * radius
    elif shape == 2:  # the largest of the distances to three sides, each `inner` from the middle
        inner = 0.65 * radius
        dy = dy - 0.5 * inner
        distance = np.maximum(dy, np.float32(math.sqrt(0.75)) * dx - 0.5 * dy) - inner
    else:
        dy, arm = np.abs(dy), 0.36 * radius
        distance = np.minimum(np.maximum(dx - radius, dy - arm), np.maximum(dx - arm, dy - radius))
    return np.clip(0.5 - distance, 0, 1)


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch one outside it, bool, of the mask's shape [S, S, 1]."""
    inside = mask.copy()
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    return mask & ~inside


def palette(image: np.ndarray) -> np.ndarray:
    """The mean colours of PALETTE x PALETTE parts of an image, uint8 of its shape [S, S, C]."""
    rows, columns = (_edges(size) for size in image.shape[:2])
    sums = np.add.reduceat(image, rows[:-1], axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, columns[:-1], axis=1)
    heights, widths = np.diff(rows), np.diff(columns)
    means = (sums / np.outer(heights, widths)[..., None]).round().astype(np.uint8)
    return means.repeat(heights, axis=0).repeat(widths, axis=1)


@functools.cache
def _edges(size: int) -> np.ndarray:
    """Where the parts of a palette begin along a side, and its end, [PALETTE + 1]."""
    return np.linspace(0, size, PALETTE + 1).round().astype(int)


def caption(attributes: Mapping[str, int], template: str = "full") -> str:
    """One English sentence: "a small red circle at the top left on a white background".

    Args:
      attributes: {name: index into ATTRIBUTES[name]}.
      template: one of shape_captions.TEMPLATES.
    """
    return say(template, {name: ATTRIBUTES[name][attributes[name]] for name in ATTRIBUTES})


def agrees(image: np.ndarray, attributes: Mapping[str, int], template: str = "full") -> bool:
    """Whether all that a caption says is true of an image, as `describe` reads it.

    Args:
      image: uint8 [S, S, 3].
      attributes, template: of the caption.
    """
    described = describe(image)
    return described is not None and caption(described, template) == caption(attributes, template)


def shows(image: np.ndarray, text: str) -> bool:
    """Whether a caption, by whichever template it is told, is true of an image.

    What a template says of an image is true of it, so a text is true if some template says it.

    Args:
      image: uint8 [S, S, 3].
      text: in the words of shape_captions.TEMPLATES; any other is true of nothing.
    """
    described = describe(image)
    return described is not None and any(caption(described, one) == text for one in TEMPLATES)


def describe(image: np.ndarray) -> dict[str, int] | None:
    """The attributes of an image, read from its pixels alone.

    Each quarter's pixels are explained as background and one colour, mixed; the shape is the one
    whose drawing at that place comes nearest to the mixture.

    Args:
      image: uint8 [S, S, 3], as `shapes` draws, or as a model does.

    Returns:
      {name: index into ATTRIBUTES[name]}, or None for an image of no object, or of more than two.

    Raises:
      ValueError: for another shape or dtype.
    """
    size = image.shape[0]
    if image.shape != (size, size, 3) or image.dtype != np.uint8 or size % 2:
        raise ValueError(f"need uint8 [S, S, 3], S even, got {image.dtype} {image.shape}")
    half, pixels = size // 2, image.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = _nearest(np.median(border, axis=0), _BACKGROUND_VALUES)
    objects = []
    for place in range(4):
        row, column = divmod(place, 2)
        window = pixels[row * half : (row + 1) * half, column * half : (column + 1) * half]
        if (object_ := _object(window - _BACKGROUND_VALUES[background], background)) is not None:
            objects.append(object_ | {"position": place})
    if not 1 <= len(objects) <= 2:
        return None
    attributes = {"background": background} | objects[0]
    others = objects[1] if len(objects) == 2 else {name: len(_OBJECT[name]) for name in _OBJECT}
    attributes |= {f"{name}_2": value for name, value in others.items()}
    return {name: attributes[name] for name in ATTRIBUTES}


def _object(difference: np.ndarray, background: int) -> dict[str, int] | None:
    """Shape, colour and size of what stands out in a quarter [half, half, 3]; None for nothing."""
    half = len(difference)
    directions = _COLOUR_VALUES - _BACKGROUND_VALUES[background]
    shares = difference @ (directions / (directions**2).sum(axis=1, keepdims=True)).T
    shares = shares.clip(0, 1)  # [half, half, colours]
    misses = ((difference[..., None, :] - shares[..., None] * directions) ** 2).sum(axis=(0, 1, 3))
    colour = int(misses.argmin())
    cover = shares[..., colour] * (np.abs(difference).max(axis=-1) > 24)
    if cover.sum() < 0.5 * _drawings(half)[:, 0].min():
        return None
    along = _centres(half)
    centre = np.array([(cover.sum(axis=1) @ along), (cover.sum(axis=0) @ along)]) / cover.sum()
    errors = [
        ((coverage(*divmod(k, len(SIZES)), centre - offset, half) - cover) ** 2).sum()
        for k, (_, *offset) in enumerate(_drawings(half))
    ]
    shape, size = divmod(int(np.argmin(errors)), len(SIZES))
    return {"shape": shape, "colour": colour, "size": size}


@functools.cache
def _drawings(half: int) -> np.ndarray:
    """Area and centre of mass (from its centre) of each shape and size, [shapes sizes, 3]."""
    rows = []
    for k in range(len(SHAPES) * len(SIZES)):
        cover = coverage(*divmod(k, len(SIZES)), (half / 2, half / 2), half)
        along, area = _centres(half) - half / 2, cover.sum()
        rows.append((area, cover.sum(axis=1) @ along / area, cover.sum(axis=0) @ along / area))
    return np.array(rows)


@functools.cache
def _centres(half: int) -> np.ndarray:
    """The places of a quarter's pixels along one axis, [half]."""
    return np.arange(half, dtype=np.float32) + np.float32(0.5)


def _nearest(colour: np.ndarray, palette: np.ndarray) -> int:
    return int(((palette - colour) ** 2).sum(axis=1).argmin())


def _places(draw: int, count: int) -> tuple[int, ...]:
    """`count` different quarters in reading order, all choices equally likely."""
    if count == 1:
        return (draw % 4,)
    pairs = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    return pairs[draw % 6]
