"""Low-rank adapters (LoRA) of torch's networks as ours, and the way back."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ddpm_jax.interop.lora_files import METADATA, UNET, WEIGHTS, Adapter
from ddpm_jax.interop.tensor_rows import CONV, DENSE, POINTWISE, Layout, Row, Shapes, first_five
from ddpm_jax.models.adapters import DOWN, UP, is_adapter
from ddpm_jax.runtime import files

_DOTTED, _FLAT = ".", "_"


def of_network(
    lora: Mapping[str, Adapter],
    rows: Iterable[Row],
    shapes: Shapes,
    source: Any,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Our adapters of a network, each scaled: `adapters.merged(params | {"lora": them})`.

    Args:
      lora: one part of a file.
      rows: of the network's parameters beside torch's tensors.
      shapes: of its parameters.
      source: the file, for messages.
      aliases: other names of layers, with the names that they have in the rows.

    Returns:
      {layer: ... {"down", "up"}}, whose products count once (alpha / rank is in "up").

    Raises:
      ValueError: for layers that the network does not have, and adapters of other shapes, the first
        five of each: an adapter of another network.
    """
    ours = {row.name.removesuffix(".weight"): row for row in rows if row.path[-1] == "kernel"}
    spelled = {**{name: name for name in ours}, **aliases}
    names = spelled | {name.replace(_DOTTED, _FLAT): own for name, own in spelled.items()}
    tree: dict[str, Any] = {}
    unknown, wrong = [], []
    for layer, one in lora.items():
        row = ours.get(names.get(layer, ""))
        if row is None:
            unknown.append(layer)
            continue
        need = row.torch_shape(shapes)
        have = (one.up.shape[0], *one.down.shape[1:])
        if _squeezed(have) != _squeezed(need) or one.up.shape[1] != one.down.shape[0]:
            wrong.append(f"{layer} {have} for {need}")
            continue
        node = tree
        for part in row.path[:-1]:
            node = node.setdefault(part, {})
        node |= _ours(one, row.layout, layer)
    said = [
        f"{len(names)} {what} ({first_five(names)})"
        for names, what in ((unknown, "layers that it has not"), (wrong, "of another shape"))
        if names
    ]
    if said:
        raise ValueError(f"{source}: adapters do not fit the network: {'; '.join(said)}")
    return tree


def write(
    adapters: Mapping[str, Any],
    rows: Iterable[Row],
    path: str | os.PathLike[str],
    *,
    alpha: float | None = None,
    part: str = UNET,
) -> None:
    """Writes what diffusers' `load_lora_weights` reads, the names PEFT's, whole or not at all.

    Args:
      adapters: ours, of one network, all of one rank.
      rows: of its parameters.
      path: a file F.safetensors, or a folder, for pytorch_lora_weights.safetensors in it.
      alpha: what the products count, over the rank; None for the rank.
      part: of the pipeline.

    Raises:
      ValueError: for adapters of layers that diffusers has not as one.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path.mkdir(parents=True, exist_ok=True)
        path = path / WEIGHTS
    ours = {row.path[:-1]: row for row in rows if row.path[-1] == "kernel"}
    tensors: dict[str, np.ndarray] = {}
    ranks, names = set(), []
    for at, one in _adapters(adapters):
        if at not in ours:
            raise ValueError(f"lora/{'/'.join(at)} is no layer that diffusers has; leave it out")
        name = ours[at].name.removesuffix(".weight")
        down, up = _theirs(one, ours[at].layout, name)
        ranks.add(down.shape[0])
        names.append(name)
        tensors[f"{part}.{name}.lora_A.weight"] = down
        tensors[f"{part}.{name}.lora_B.weight"] = up
    if len(ranks) != 1:
        raise ValueError(f"need adapters of one rank, got {sorted(ranks)}")
    (rank,) = ranks
    described = {
        f"{part}.r": rank,
        f"{part}.lora_alpha": rank if alpha is None else alpha,
        f"{part}.target_modules": sorted(names),
        f"{part}.peft_type": "LORA",
    }
    metadata = {"format": "pt", METADATA: json.dumps(described)}
    with files.whole(path) as partial:
        safetensors.numpy.save_file(tensors, partial, metadata=metadata)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the window of a convolution of one pixel, which a dense layer has not."""
    return shape[:2] if shape[2:] in ((), (1, 1)) else shape


def _ours(one: Adapter, layout: Layout, layer: str) -> dict[str, Any]:
    """Down and up in our layout, alpha over rank in up."""
    rank = one.down.shape[0]
    up = one.up.reshape(one.up.shape[:2]).T * np.float32(one.alpha / rank)
    if layout is CONV:
        down = one.down.reshape(*one.down.shape, *(1,) * (4 - one.down.ndim)).transpose(2, 3, 1, 0)
    elif layout in (DENSE, POINTWISE):
        down = one.down.reshape(one.down.shape[:2]).T
    else:
        raise ValueError(f"{layer} is a layer that adapters are not read for")
    return {DOWN: jnp.asarray(down), UP: jnp.asarray(up)}


def _theirs(one: Mapping[str, Any], layout: Layout, layer: str) -> tuple[np.ndarray, np.ndarray]:
    down, up = (np.asarray(one[half], np.float32) for half in (DOWN, UP))
    if layout is CONV:
        pair = down.transpose(3, 2, 0, 1), up.T[:, :, None, None]
    elif layout is POINTWISE:
        pair = down.T[:, :, None, None], up.T[:, :, None, None]
    elif layout is DENSE:
        pair = down.T, up.T
    else:
        raise ValueError(f"{layer} is a layer that adapters are not written for")
    return tuple(np.array(half, order="C") for half in pair)  # type: ignore[return-value]


def _adapters(tree: Mapping[str, Any], at: tuple[str, ...] = ()) -> Iterable[Any]:
    for name, value in tree.items():
        if is_adapter(value):
            yield (*at, name), value
        else:
            yield from _adapters(value, (*at, name))
