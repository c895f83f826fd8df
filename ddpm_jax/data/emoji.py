"""Emoji: real pictures with real names, rendered once into the user's cache."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.data.base import DataInfo, Example, check_size, check_split, nearest
from ddpm_jax.data.emoji_pictures import (
    GROUPS,
    STYLES,
    Pictures,
    groups,
    names,
    pictures,
)
from ddpm_jax.errors import EmptySplit, UserError

SIZES = (16, 256)
_TONES = {
    f"1F3F{n}": name
    for n, name in zip(
        "BCDEF", ("light", "medium light", "medium", "medium dark", "dark"), strict=True
    )
}
TONES = ("none", *_TONES.values(), "mixed")
ATTRIBUTES = {"style": STYLES, "tone": TONES, "group": GROUPS}
HELD_OUT = ("concepts", "pairs")
_FLAGS = ("1F1E6", "1F1FF")  # between them the regional indicators


class Picture(NamedTuple):
    """One emoji of one style, by its place in the cache.

    Attributes:
      row: its place among the pictures of its style.
      code: its codepoints.
      base: those without skin tones: what it is a picture of.
      style, tone, group: indices into ATTRIBUTES; group -1 where it is not known.
      caption: "thumbs up medium skin tone, openmoji style".
    """

    row: int
    code: str
    base: str
    style: int
    tone: int
    group: int
    caption: str


class Emoji:
    """A source of emoji; see `emoji`."""

    skipped = 0

    def __init__(self, images: np.ndarray, chosen: Sequence[Picture]):
        self.info = DataInfo(images.shape[1:], 0, 256, (), attributes=ATTRIBUTES)
        self._images, self._pictures = images, chosen

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Example:
        one = self._pictures[index]
        return {
            "image": self._images[index],
            "label": np.int32(-1),
            "caption": one.caption,
            "style": one.style,
            "tone": one.tone,
            "group": one.group,
        }

    def caption(self, index: int) -> str:
        """Of an example."""
        return self._pictures[index].caption

    def codepoints(self, index: int) -> str:
        """Of an example, such as "1F44D-1F3FD"."""
        return self._pictures[index].code

    def listing(self) -> Iterator[str]:
        """The digest of the pixels, and what is said of each picture."""
        yield hashlib.sha256(self._images.tobytes()).hexdigest()
        for one in self._pictures:
            yield f"{one.code} {one.caption} {one.tone} {one.group}"


def emoji(
    split: str,
    image_size: int = 32,
    *,
    styles: Sequence[str] = ("openmoji",),
    held_out: str = "concepts",
    tones: bool = True,
    flags: bool = True,
    limit: int | None = None,
    data_dir: str | Path | None = None,
) -> Emoji:
    """Emoji over white, with captions "{name}, {style} style".

    OpenMoji comes with the extra [emoji]; the other styles are npm packages, of `npm pack`. A
    picture is rendered by resvg when it is first read, into the user's cache directory, with a
    digest and the licence beside it.

    Args:
      split: "train" or "validation".
      image_size: height and width, 16 to 256.
      styles: some of STYLES.
      held_out: what the tenth is that is held out: "concepts" by the sha256 of the codepoints
        without skin tones, in all styles; "pairs" of a concept and a style, where the concept is
        trained on in another style.
      tones: whether pictures with a skin tone belong to it.
      flags: whether flags do.
      limit: so many pictures of each style at most, of both splits; None for all.
      data_dir: where the npm packages lie; emojibase-data among them tells the groups.

    Returns:
      A source of {"image": uint8 [S, S, 3], "label": -1, "caption": str, and each name of
      ATTRIBUTES: an index into its values, -1 where unknown}.

    Raises:
      UserError: for an argument out of range, or a package that is not there.
    """
    from ddpm_jax.data.emoji_rendering import rendered

    check_split(split)
    _check(image_size, styles, held_out, limit)
    folder = Path(data_dir).expanduser() if data_dir else None
    named, grouped = names(), groups(folder)
    chosen, images = [], []
    for style in styles:
        found = pictures(style, folder)
        every = _every(style, found, named, grouped)
        wanted = [
            one for one in every if (tones or not one.tone) and (flags or not _is_flag(one.base))
        ][:limit]
        wanted = [one for one in wanted if (split == "validation") == _held(one, styles, held_out)]
        chosen += wanted
        codes = [one.code for one in every]
        images += [*rendered(style, found, codes, [one.row for one in wanted], image_size)]
    if not chosen:
        raise EmptySplit(f"no emoji are left for the {split} split: set a larger limit")
    return Emoji(np.stack(images), chosen)


def build(
    split: str,
    *,
    image_size: tuple[int, int],
    channels: int,
    data_dir: str | None = None,
    styles: tuple[str, ...] = ("openmoji",),
    held_out: str = "concepts",
    tones: bool = True,
    flags: bool = True,
    limit: int | None = None,
) -> Emoji:
    """The source of data.name=emoji: as `emoji`, of what a config says.

    Raises:
      UserError: for images that are not square or grey, or as `emoji`.
    """
    height, width, channels = check_size(image_size, channels)
    if height != width or channels != 3:
        raise UserError(
            f"emoji are square with 3 channels, got data.image_size={image_size} and "
            f"data.channels={channels}: set them to (32, 32) and 3"
        )
    return emoji(
        split,
        height,
        styles=styles,
        held_out=held_out,
        tones=tones,
        flags=flags,
        limit=limit,
        data_dir=data_dir,
    )


def prepare(
    data_dir: str | Path | None, styles: Sequence[str], sizes: Sequence[int] = (32, 64)
) -> str:
    """Renders all pictures of some styles ahead; returns one line that says what there is.

    Args:
      data_dir: as of `emoji`.
      styles: some of STYLES.
      sizes: heights to render at.

    Raises:
      UserError: as `emoji`.
    """
    from ddpm_jax.data.emoji_rendering import folder_of_all, rendered

    _check(SIZES[0], styles, HELD_OUT[0], None)
    folder = Path(data_dir).expanduser() if data_dir else None
    named = names()
    # All are read first: what is missing is said before anything is rendered.
    found = {style: pictures(style, folder) for style in styles}
    counts = []
    for style, one in found.items():
        codes = [picture.code for picture in _every(style, one, named, {})]
        for size in sizes:
            for _ in rendered(style, one, codes, range(len(codes)), size):
                pass
        counts.append(f"{len(codes):,} of {style}")
    at = " and ".join(f"{size}x{size}" for size in sizes)
    return f"rendered {', '.join(counts)}, at {at}, into {folder_of_all()}"


def _check(image_size: int, styles: Sequence[str], held_out: str, limit: int | None) -> None:
    if not SIZES[0] <= image_size <= SIZES[1]:
        raise UserError(f"data.image_size={image_size}: emoji are {SIZES[0]} to {SIZES[1]} high")
    for style in styles:
        if style not in STYLES:
            raise UserError(
                f"data.options.styles: no style {style!r}{nearest(style, STYLES)}; there are "
                f"{', '.join(STYLES)}"
            )
    if not styles or len(set(styles)) < len(styles):
        raise UserError(f"data.options.styles={tuple(styles)}: need different styles, at least one")
    if held_out not in HELD_OUT:
        raise UserError(f"data.options.held_out={held_out!r}: need {' or '.join(HELD_OUT)}")
    if held_out == "pairs" and len(styles) < 2:
        raise UserError("data.options.held_out=pairs needs at least two data.options.styles")
    if limit is not None and limit < 1:
        raise UserError(f"data.options.limit={limit}: need at least 1")


def _every(
    style: str, found: Pictures, named: Mapping[str, str], grouped: Mapping[str, int]
) -> list[Picture]:
    """All named pictures of a style, in an order that mixes them."""
    every = []
    # By a digest, so that a limit takes some of all kinds.
    codes = sorted(set(found.svg) & set(named), key=lambda code: (_draw(_base(code)), code))
    for row, code in enumerate(codes):
        tones = {_TONES[part] for part in code.split("-") if part in _TONES}
        tone = "mixed" if len(tones) > 1 else next(iter(tones), "none")
        base = _base(code)
        caption = f"{named[code]}, {style} style"
        numbers = STYLES.index(style), TONES.index(tone), grouped.get(base, -1)
        every.append(Picture(row, code, base, *numbers, caption))
    return every


def _base(code: str) -> str:
    return "-".join(part for part in code.split("-") if part not in _TONES) or code


def _is_flag(base: str) -> bool:
    first = base.split("-")[0]
    regional = len(first) == 5 and _FLAGS[0] <= first <= _FLAGS[1]
    return regional or base.startswith("1F3F4-E0067")  # England, Scotland, Wales


def _held(one: Picture, styles: Sequence[str], held_out: str) -> bool:
    if held_out == "concepts":
        return _draw(one.base) % 10 == 0
    held = [style for style in styles if _draw(f"{one.base} {style}") % 10 == 0]
    # One of the styles is always trained on.
    return STYLES[one.style] in (held[1:] if len(held) == len(styles) else held)


def _draw(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
