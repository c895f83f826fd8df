"""Where samples are written: F.npz with a grid beside it, F.png alone, or a folder of PNGs."""

import collections
import itertools
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ddpm_jax.commands.sample import prompts as prompts_of
from ddpm_jax.errors import UserError
from ddpm_jax.reporting import figures
from ddpm_jax.runtime import files

GRID_IMAGES = 400
PART_IMAGES = 64  # at least, of what is drawn before it is kept on disk
FILES = (".npz", ".png")
_SAMPLE = re.compile(r"\d{6,}(_class_\d+)?\.png")  # what `names_of` makes


def target_of(out: str | None) -> Path:
    """The file or folder to write."""
    if not out:
        raise UserError("--out is missing: name a file F.npz or F.png, or a folder for PNG files")
    target = Path(out)
    if target.suffix not in ("", *FILES) and not target.is_dir() and not out.endswith("/"):
        raise UserError(
            f"--out={out}: need a file F.npz or F.png, or a folder (end its name with / if it has "
            "a dot)"
        )
    if target.suffix in FILES and target.is_dir():
        raise UserError(f"--out={out} is a folder: need a file F.npz, or another folder's name")
    return target


def make_writable(target: Path) -> None:
    """Make the folder that is written to, and try it, before anything is drawn."""
    folder = target.parent if target.suffix in (*FILES, ".gif") else target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out={target}: cannot write there ({error.strerror})") from error


def beside(target: Path) -> Path:
    """Where the parts of unfinished samples lie."""
    if target.name in ("", ".."):  # . and / have no name to put another beside
        return target / "samples.parts"
    return target.with_name(f"{target.name}.parts")


def part_size(batch_size: int, least: int | None = None) -> int:
    """The images of a part of a sample set: whole batches, so that parts are drawn as the whole.

    Args:
      batch_size: images of a call.
      least: so many at least, where that is fewer than PART_IMAGES.
    """
    return -(-min(PART_IMAGES, least or PART_IMAGES) // batch_size) * batch_size


def names_of(labels: np.ndarray) -> list[str]:
    """The file of each image of a folder."""
    return [f"{k:06d}.png" if c < 0 else f"{k:06d}_class_{c}.png" for k, c in enumerate(labels)]


def check_free(target: Path, labels: np.ndarray, begun: bool) -> None:
    """Refuse a folder that holds other samples: nobody could tell them from these.

    Args:
      target: what is written to.
      labels: of the images.
      begun: the same command was interrupted before, so that its own files may be there.
    """
    if target.suffix in FILES or not target.is_dir():
        return
    existing = sorted(path.name for path in target.iterdir() if _SAMPLE.fullmatch(path.name))
    if existing and not (begun and set(existing) <= set(names_of(labels))):
        raise UserError(
            f"--out={target} holds {len(existing)} samples already, {existing[0]} the first: name "
            "another folder, or delete them"
        )


def save(
    target: Path,
    parts: Iterable[np.ndarray],
    labels: np.ndarray,
    columns: int | None,
    prompts: Sequence[str] | None,
) -> str:
    """Images, part by part, their labels and prompts into a file, or a folder; what to say."""
    first: list[np.ndarray] = []  # of the grid
    if target.suffix == ".npz":
        texts = {} if prompts is None else {"prompts": np.array(prompts)}
        _save_npz(target, _kept(parts, first), {"labels": labels, **texts})
    elif target.suffix == ".png":
        collections.deque(_kept(parts, first), maxlen=0)
    else:
        images = (image for part in parts for image in part)
        for name, image in zip(names_of(labels), images, strict=True):
            figures.save_png(target / name, image)
        if prompts is not None:
            prompts_of.save(target, names_of(labels), prompts)
        return f"{len(labels)} samples in {target}"
    picture = target.with_suffix(".png")
    if len(labels) == 1:  # as it is, without a border: other commands take it as an image
        figures.save_png(picture, first[0][0])
        return f"1 sample in {target}" + f", and as {picture}" * (picture != target)
    figures.save_png(picture, figures.grid(np.concatenate(first), columns))
    if target.suffix == ".npz":
        return f"{len(labels)} samples in {target}, a grid in {picture}"
    return f"a grid of {min(len(labels), GRID_IMAGES)} samples in {picture}"


def _kept(parts: Iterable[np.ndarray], first: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The parts; the first GRID_IMAGES images are put into `first` on the way."""
    missing = GRID_IMAGES
    for part in parts:
        if missing > 0:
            first.append(part[:missing])
            missing -= len(part)
        yield part


def collected(batches: Iterable[np.ndarray], bar: tqdm) -> np.ndarray:
    """All batches as one array, counted on a progress bar."""
    drawn = []
    for batch in batches:
        drawn.append(batch)
        bar.update(len(batch))
    return np.concatenate(drawn)


def _save_npz(path: Path, parts: Iterator[np.ndarray], others: Mapping[str, np.ndarray]) -> None:
    """`samples` and other arrays as np.savez_compressed writes them, one part at a time."""
    first = next(parts)
    with (
        files.whole(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        with archive.open("samples.npy", "w", force_zip64=True) as stream:
            header = {
                "descr": np.lib.format.dtype_to_descr(first.dtype),
                "fortran_order": False,
                "shape": (len(others["labels"]), *first.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(stream, header)
            for part in itertools.chain([first], parts):
                stream.write(np.ascontiguousarray(part).data)
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
