"""Networks of others that a run keeps beside its checkpoints: their trees, and what they are.

The JSON file that says what they are, with their digests, is written last: without it nothing is
there, whatever a process that was killed has left.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy

from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, files, leaves, weight_files

Trees = Mapping[str, Any]
T = TypeVar("T")
SUMS = "sha256"  # of the JSON file: the digests of the trees, by name


@dataclasses.dataclass(frozen=True)
class Keeping:
    """How a run keeps the trees of a network.

    Attributes:
      file: of JSON, in the workdir; the trees lie in NAME.safetensors beside it.
      what: they are, for messages: "the CLIP".
      limit: bytes of the JSON file.
      tree_of: (name, a tree of dicts) -> the tree as the run has it.
    """

    file: str
    what: str
    limit: int = 2**20
    tree_of: Callable[[str, dict[str, Any]], Any] = lambda name, tree: tree

    def keep(self, workdir: str | Path, trees: Trees, content: Mapping[str, Any]) -> None:
        """Write trees and what is said of them, where they are not there already.

        Args:
          workdir: of the run.
          trees: on the host, by name.
          content: of the JSON file, beside the digests.

        Raises:
          UserError: where they cannot be written.
        """
        folder = Path(workdir)
        sums = {name: digests.digest(tree) for name, tree in trees.items()}
        if self._are_there(folder, sums):
            return
        try:
            for name, tree in trees.items():
                tensors = {n: np.array(leaf, order="C") for n, leaf in leaves.named(tree).items()}
                with files.whole(_path(folder, name)) as partial:
                    safetensors.numpy.save_file(tensors, partial)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot keep {self.what} there ({error.strerror})"
            ) from error
        files.must_write_json(folder / self.file, {**content, SUMS: sums})

    def taken(self, workdir: str | Path, use: Callable[[dict[str, Any], Trees], T]) -> T:
        """What is made of what the run keeps.

        Args:
          workdir: of the run.
          use: (the JSON file's content, the trees) -> that.

        Raises:
          UserError: where any of it is gone or damaged.
        """
        folder = Path(workdir)
        try:
            content = files.read_json(folder / self.file, self.limit)
            sums = content[SUMS]
            trees = {name: self._tree(folder, name) for name in sums}
            made = use(content, trees)
        except (TypeError, UserError, *config_files.BROKEN) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise UserError(
                f"{workdir}: {self.what} that this run keeps cannot be read ({reason}): put "
                f"{self.file} and the files beside it back"
            ) from error
        for name, tree in trees.items():
            if digests.digest(tree) != sums[name]:
                raise UserError(
                    f"{_path(folder, name)} is not what the run kept there: put it back"
                )
        return made

    def _are_there(self, folder: Path, sums: dict[str, str]) -> bool:
        try:
            content = files.read_json(folder / self.file, self.limit)
            return bool(content[SUMS] == sums) and all(
                digests.digest(self._tree(folder, name)) == sums[name] for name in sums
            )
        except (TypeError, UserError, *config_files.BROKEN):
            return False

    def _tree(self, folder: Path, name: str) -> Any:
        tree: dict[str, Any] = {}
        for named, tensor in weight_files.read_tensors(_path(folder, name), "train the run again"):
            *groups, leaf = named.split("/")
            place = tree
            for group in groups:
                place = place.setdefault(group, {})
            place[leaf] = np.array(tensor)
        return self.tree_of(name, tree)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
