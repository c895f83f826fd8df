"""Leaves of a tree by name, such as down_0_block_0/conv_0/kernel, and by patterns on names."""

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import jax


def name_of(path: tuple[Any, ...]) -> str:
    """A leaf's path, its keys joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: Any) -> dict[str, Any]:
    """{name: leaf}, in the tree's order."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def names(tree: Any) -> list[str]:
    """The names of all leaves, in the tree's order."""
    return [*named(tree)]


def matching(patterns: Sequence[str], tree: Any) -> Any:
    """A tree of bools like `tree`: whether a leaf's whole name fits one of the patterns.

    Args:
      patterns: as `fnmatch.fnmatchcase` has them; * stands for any characters, a "/" too. One
        that begins with ! is for all leaves that the rest of it does not fit.
      tree: of parameters, or of what is like them.
    """

    def fits(path: tuple[Any, ...], _: Any) -> bool:
        name = name_of(path)
        return any(_fits(name, pattern) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(fits, tree)


def _fits(name: str, pattern: str) -> bool:
    inverted = pattern.startswith("!")
    return fnmatch.fnmatchcase(name, pattern.removeprefix("!")) != inverted


def nearest(pattern: str, tree: Any) -> str:
    """The leaf whose name is most like a pattern that fits none."""
    return difflib.get_close_matches(pattern, names(tree), n=1, cutoff=0.0)[0]
