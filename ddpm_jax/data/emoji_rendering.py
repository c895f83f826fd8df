"""Pictures of emoji as pixels: rendered once by resvg, kept in the user's cache directory."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from absl import logging

from ddpm_jax.data.emoji_pictures import Pictures, missing
from ddpm_jax.data.images import read_image
from ddpm_jax.runtime import files
from ddpm_jax.runtime.shards import Shards
from ddpm_jax.runtime.user_cache import cache_dir

ATTRIBUTION = "ATTRIBUTION.txt"
_PART = 64  # pictures of a file of the cache


def folder_of_all() -> Path:
    """Where what is rendered lies, a folder for each style and size."""
    return cache_dir() / "rendered_emoji"


def rendered(
    style: str, found: Pictures, codes: Sequence[str], wanted: Sequence[int], size: int
) -> Iterator[np.ndarray]:
    """The pictures of some rows over white, from the cache, or rendered and written to it.

    Args:
      style: its name, for the cache.
      found: the style's pictures.
      codes: the codepoints of all rows.
      wanted: the rows to read, in order.
      size: height and width.

    Yields:
      uint8 [size, size, 3].

    Raises:
      UserError: without the extra [emoji], or where the cache cannot be written.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise missing() from error
    description = {
        "style": style,
        "package": found.package,
        "codes": sha256(" ".join(codes).encode()).hexdigest(),
        "size": size,
        "renderer": f"resvg-py {importlib.metadata.version('resvg-py')}",
    }
    shards = Shards(folder_of_all(), description, len(codes), _PART)

    def make(rows: range) -> dict[str, np.ndarray]:
        if not (shards.folder / ATTRIBUTION).exists():
            logging.info("rendering %s emoji once, into %s", style, shards.folder)
            with files.whole(shards.folder / ATTRIBUTION) as partial:
                partial.write_text(f"{found.licence}\nRendered from {found.package}.\n", "utf-8")
        drawn = [
            resvg_py.svg_to_bytes(
                svg_string=found.svg[codes[row]](),
                width=size,
                height=size,
                background="white",
                skip_system_fonts=True,
            )
            for row in rows
        ]
        return {"images": np.stack([read_image(bytes(one), (size, size), 3) for one in drawn])}

    parts: dict[int, np.ndarray] = {}
    for row in wanted:
        start = row - row % _PART
        if start not in parts:
            parts[start] = shards.part(start, make)[1]["images"]
        yield parts[start][row - start]
