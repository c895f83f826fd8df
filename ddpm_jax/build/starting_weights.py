"""config.train.init_from: the weights that a run begins with, from a file or from another run."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import adapters, begun_towers, control, pipelines, tower_options
from ddpm_jax.build.tower_options import Options
from ddpm_jax.build.weights_fit import Fit, few
from ddpm_jax.errors import UserError
from ddpm_jax.interop import pipeline_config
from ddpm_jax.models.unet import CONTROL
from ddpm_jax.runtime import digests, leaves, processes, weight_files
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import FIRST

FIELD = "train.init_from"
# What makes a file that is read here of a pickle.
SAVE_AGAIN = "safetensors.torch.save_file(weights, 'F.safetensors')"


class StartingWeights(NamedTuple):
    """Weights as they were read.

    Attributes:
      params: as the network's parameters, on the devices where these belong, in their types; None
        for a parameter that begins as it is initialised.
      record: for the manifest: {"source": the file or folder, "sha256": of what was taken, as
        `digests.digest` of these parameters, "tensors": how many; "as_initialised", "unused": names
        of parameters and of tensors that found no partner}; of a run also "step", "checkpoint", its
        digest, and "parameters", "ema", "raw" or the name of a lone average, "std:0.08".
      lines: what the user is told.
    """

    params: Any
    record: dict[str, Any]
    lines: list[str]


class _Source(NamedTuple):
    """What there is to be read.

    Attributes:
      kinds: {name: "dtype[shape]"}.
      load: (a tree of shapes with shardings, None for what is left out) -> the same tree of arrays
        in their places, and {path: "dtype[shape] digest"} of what they were.
      record: what else the manifest holds.
    """

    kinds: dict[str, str]
    load: Callable[[Any], tuple[Any, dict[str, str]]]
    record: dict[str, Any]


def read(
    source: str, like: Any, *, strict: bool = True, towers: Mapping[str, Options] | None = None
) -> StartingWeights:
    """Read the weights of a file or of a run's newest whole checkpoint, the average if it has one.

    Every process calls this. Nothing that is read is executed.

    Args:
      source: F.safetensors, whose tensors are named by their places in the parameters, such as
        down_0_block_0/conv_0/kernel, also with dots; the workdir of a run; the folder of a pipeline
        of Stable Diffusion; or, of a network with towers, a CLIP's folder of transformers, and
        open_clip's safetensors or their folder.
      like: the parameters' shapes, types and shardings.
      strict: refuse what does not fit; otherwise each parameter that has no tensor of its name and
        shape begins as it is initialised, and each other tensor is left out.
      towers: the options of the network's towers, by name; those of the source must be the same.

    Raises:
      UserError: for what cannot be read, is no such file (a pickle), or does not fit, listed; for
        weights that are not finite, and if no tensor fits at all.
    """
    read_here: list[StartingWeights] = []
    processes.all_or_none(
        lambda: read_here.append(_read(source, like, strict, towers or {})),
        f"config.{FIELD}={source} cannot be read",
    )
    (weights,) = read_here
    number = int(weights.record["sha256"][:7], 16)
    if not processes.all_of(processes.of_first(number) == number):
        raise UserError(
            f"config.{FIELD}={source}: not all processes read the same weights; name a file that "
            "all machines share"
        )
    return weights


def over(init_params: Callable[[jax.Array], Any], weights: Any) -> Callable[[jax.Array], Any]:
    """key -> the weights, and the initial parameters where there are none.

    Args:
      init_params: key -> the initial parameters.
      weights: `StartingWeights.params`; None for none at all.
    """

    def chosen(given: Any, initial: Any) -> Any:
        return initial if given is None else given

    def init(key: jax.Array) -> Any:
        return jax.tree.map(chosen, weights, init_params(key), is_leaf=lambda node: node is None)

    return init_params if weights is None else init


def _read(source: str, like: Any, strict: bool, towers: Mapping[str, Options]) -> StartingWeights:
    try:
        found = _found(Path(source), towers)
        branch = control.branch_of(like, found.kinds)
        fresh = adapters.unread(like, found.kinds)
        beside = {CONTROL, *fresh} if branch else fresh
        own = {name: tree for name, tree in like.items() if name not in beside}
        ours = {name: digests.kind(leaf) for name, leaf in leaves.named(own).items()}
        fit = Fit.of(ours, found.kinds)
        if strict:
            fit.check()
        if not fit.shared:
            raise ValueError(
                f"none of its {len(found.kinds)} tensors ({few(sorted(found.kinds))}) is one of "
                f"this network's {len(ours)} parameters ({few(sorted(ours))}): export it with "
                "checkpoint.py export; of another library, convert it with ddpm_jax.interop"
            )
        params, sums = found.load(
            jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf if leaves.name_of(path) in fit.shared else None, own
            )
        )
        params |= fresh
        if branch:
            its = {name: digests.kind(leaf) for name, leaf in leaves.named(branch).items()}
            shared = Fit.of(its, found.kinds).shared
            params[CONTROL] = control.copied(branch, shared, lambda like: found.load(like)[0])
    except (OSError, ValueError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"config.{FIELD}={source}: {reason}") from error
    record = {
        "source": source,
        "sha256": digests.combined(sums),
        "tensors": len(sums),
        "as_initialised": sorted(fit.missing + list(fit.reshaped)),
        "unused": sorted(fit.unexpected + list(fit.reshaped)),
        **found.record,
    }
    return StartingWeights(params, record, [_opening(record), *fit.lines(source)])


def _found(path: Path, towers: Mapping[str, Options]) -> _Source:
    """What lies there, whose towers are the same functions as this network's."""
    if (path / pipeline_config.CONFIG).is_file():
        return _of_tensors(pipelines.tensors(path))
    if library := begun_towers.of_library(path, towers):
        tower_options.check(towers, library.towers)
        return _of_tensors(library.tensors)
    if not path.is_dir():
        return _of_file(path)
    if towers:
        tower_options.check(towers, begun_towers.of_run(path))
    return _of_run(path)


def _of_file(path: Path) -> _Source:
    if path.suffix in weight_files.PICKLES:
        raise weight_files.pickle_error(path, SAVE_AGAIN)
    if path.suffix != ".safetensors":
        raise ValueError("need a file F.safetensors, or the workdir of a run")
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in weight_files.read_tensors(path, SAVE_AGAIN):
        place = name if "/" in name else name.replace(".", "/")
        if place in tensors:
            raise ValueError(f"two of its tensors are named {place}")
        tensors[place] = tensor
    return _of_tensors(tensors)


def _of_tensors(tensors: dict[str, np.ndarray]) -> _Source:
    def load(like: Any) -> tuple[Any, dict[str, str]]:
        sums = {}

        def placed(path: tuple[Any, ...], leaf: Any) -> jax.Array:
            name = leaves.name_of(path)
            tensor = tensors[name]
            with np.errstate(over="ignore"):  # what float32 cannot hold is not finite there
                array = tensor.astype(leaf.dtype)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
            sums[jax.tree_util.keystr(path)] = digests.sum_of(array)
            return processes.placed(array, leaf.sharding)

        return jax.tree_util.tree_map_with_path(placed, like), sums

    return _Source({name: digests.kind(t) for name, t in tensors.items()}, load, {})


def _of_run(workdir: Path) -> _Source:
    with Checkpoints(workdir, read_only=True) as saved:
        step = saved.newest_whole(_say)
        record = saved.records()[step]
    kept = record.averages
    # One alone is what checkpoint.py average has written.
    name = "raw" if not kept else kept[0] if len(kept) == 1 else FIRST
    prefix = ".params" if name == "raw" else f".ema[{name!r}]"
    stored = {
        path.removeprefix(prefix): digest
        for path, digest in record.leaves.items()
        if path.startswith(prefix)
    }

    def load(like: Any) -> tuple[Any, dict[str, str]]:
        def as_stored(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
            dtype = stored[jax.tree_util.keystr(path)].partition("[")[0]
            return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype), sharding=leaf.sharding)

        shapes = jax.tree_util.tree_map_with_path(as_stored, like)
        tree = saved.restore_params(step, name, shapes)
        params = jax.tree.map(lambda leaf, to: leaf.astype(to.dtype), tree, like)
        taken = [
            jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)
        ]
        return params, {path: stored[path] for path in taken}

    kinds = {"/".join(_KEYS.findall(path)): d.split(" ")[0] for path, d in stored.items()}
    parameters = "ema" if name == FIRST else name
    described = {"step": step, "checkpoint": record.state_sha256, "parameters": parameters}
    return _Source(kinds, load, described)


# The keys of a leaf's path in a state.
_KEYS = re.compile(r"\['?(.*?)'?\]")


def _opening(record: Mapping[str, Any]) -> str:
    of_run = ""
    if "step" in record:
        kind = {"ema": "the moving average", "raw": "the parameters"}.get(
            record["parameters"], f"the average {record['parameters']}"
        )
        of_run = f", {kind} at step {record['step']:,}"
    return (
        f"begins with {record['tensors']} tensors of {record['source']}{of_run}, "
        f"sha256 {record['sha256'][:16]}"
    )


def _say(line: str) -> None:
    if processes.is_first():
        print(line, file=sys.stderr)
