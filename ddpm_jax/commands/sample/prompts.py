"""Prompts of scripts/sample.py: from flags or a file, and beside the images that they gave."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ddpm_jax.data.tokenizers.base import shown
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

LIMIT = 2**24  # bytes of a file of prompts
FILE = "prompts.txt"  # in a folder of samples


def of_flags(prompts: Sequence[str], path: str | None) -> list[str]:
    """The prompts that were given, by --prompt or by --prompts.

    Args:
      prompts: of --prompt, each as it stands.
      path: of a file, a prompt a line; "" and None for none. Blank lines are left out.

    Raises:
      UserError: for both, or a file that is missing, empty, or not UTF-8.
    """
    if path and len(prompts):
        raise UserError(f"--prompts={path} and --prompt={prompts[0]}: give one of the two")
    if not path:
        return [*prompts]
    try:
        text = files.read_bytes(path, LIMIT).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--prompts={path}: need a file of prompts in UTF-8 ({reason})") from error
    lines = [line.strip() for line in text.splitlines()]
    if not any(lines):
        raise UserError(f"--prompts={path} has no prompt in it: write one a line")
    return [line for line in lines if line]


def tell_empty(prompts: Sequence[str]) -> None:
    """Say in one line what an empty prompt is, where there is one."""
    if any(not text.strip() for text in prompts):
        print("--prompt='': an empty prompt is no text: such images are of none", file=sys.stderr)


def legend(prompts: Sequence[str], columns: int | None) -> str:
    """Which column of a grid is of which prompt; "" where columns say nothing."""
    if columns is None:
        return ""
    return "columns: " + "; ".join(f"{k} {shown(text)}" for k, text in enumerate(prompts, 1))


def save(folder: Path, names: Sequence[str], prompts: Sequence[str]) -> None:
    """Write FOLDER/prompts.txt: the name of each image, a tab, and its prompt."""
    lines = (
        f"{name}\t{' '.join(text.split())}\n" for name, text in zip(names, prompts, strict=True)
    )
    with files.whole(folder / FILE) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
