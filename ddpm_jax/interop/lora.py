"""Low-rank adapters (LoRA) of diffusers, PEFT and kohya's scripts, from and to safetensors."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ddpm_jax.interop.tensor_rows import CONV, DENSE, POINTWISE, Layout, Row, Shapes
from ddpm_jax.models.adapters import DOWN, UP, is_adapter
from ddpm_jax.runtime import files
from ddpm_jax.runtime.weight_files import read_tensors

WEIGHTS = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
SAVE_AGAIN = "pipe.save_lora_weights(directory)"
# What stands before a layer's name, of each part of a pipeline: with dots, and as kohya has it.
UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
_KOHYA = {"lora_unet_": UNET, "lora_te_": TEXT, "lora_te1_": TEXT, "lora_te2_": TEXT_2}
# The halves of an adapter: what ends its tensors' names, first the product's right factor.
_DOWN_ENDS = (".lora_A.weight", ".lora.down.weight", "_lora.down.weight", ".lora_down.weight")
_UP_ENDS = (".lora_B.weight", ".lora.up.weight", "_lora.up.weight", ".lora_up.weight")
_ALPHA_END = ".alpha"
_DOTTED, _FLAT = ".", "_"


class Adapter(NamedTuple):
    """An adapter in torch's layout: W + (alpha / rank) up down.

    Attributes:
      down: [rank, in, *window].
      up: [out, rank, *(1s)].
      alpha: what the product counts, over the rank.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float


class LoraFile(NamedTuple):
    """The adapters of a file by the part of a pipeline that they are for, and by layer.

    Attributes:
      parts: {"unet": {layer: adapter}, "text_encoder": ..., "text_encoder_2": ...}; a layer is
        named as in the part's own files, or, by kohya's scripts, with underscores for dots.
      source: where it was read.
    """

    parts: dict[str, dict[str, Adapter]]
    source: Path


def read(path: str | os.PathLike[str]) -> LoraFile:
    """The adapters of a file, or of a folder with pytorch_lora_weights.safetensors.

    The names of PEFT and diffusers (lora_A and lora_B, lora.down and lora.up, of its attention
    processors too) and of kohya's scripts (lora_unet_..., lora_te_...) are understood. Without an
    alpha, neither beside the tensors nor in the file's metadata, it is the rank.

    Raises:
      ValueError: for a missing or broken file, a pickle, and tensors that are no adapters.
    """
    path = Path(path)
    if path.is_dir():
        path = path / WEIGHTS
    tensors = dict(read_tensors(path, SAVE_AGAIN))
    alphas = _alphas(path)
    halves: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    strange = []
    for name, tensor in tensors.items():
        found = _place(name)
        if found is None:
            strange.append(f"{name} {tensor.shape}")
            continue
        part, layer, half = found
        halves.setdefault((part, layer), {})[half] = tensor
    if strange:
        raise ValueError(
            f"{path}: {len(strange)} tensors are no adapters of low rank "
            f"({', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''}); need lora_A and "
            "lora_B, lora.down and lora.up, or kohya's lora_down and lora_up"
        )
    parts: dict[str, dict[str, Adapter]] = {}
    for (part, layer), found_halves in halves.items():
        parts.setdefault(part, {})[layer] = _adapter(path, layer, found_halves, alphas.get(part))
    if not parts:
        raise ValueError(f"{path} holds no tensors")
    return LoraFile(parts, path)


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
        f"{len(names)} {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
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


def _place(name: str) -> tuple[str, str, str] | None:
    """(part, layer, half) of a tensor; None for what is none of an adapter."""
    part = None
    for begin, of in _KOHYA.items():
        if name.startswith(begin):
            part, name = of, name.removeprefix(begin)
            break
    else:
        for of in (UNET, TEXT_2, TEXT):
            if name.startswith(f"{of}."):
                part, name = of, name.removeprefix(f"{of}.")
                break
    if part is None:
        return None
    for ends, half in ((_DOWN_ENDS, DOWN), (_UP_ENDS, UP), ((_ALPHA_END,), "alpha")):
        for end in ends:
            if name.endswith(end):
                return part, _layer(name.removesuffix(end)), half
    return None


def _layer(name: str) -> str:
    """A layer's name, from that of its adapter."""
    # Of attention processors the layer is named after it: attn1.processor.to_out -> attn1.to_out.0
    if ".processor." in name:
        name = name.replace(".processor.", ".")
        name = f"{name}.0" if name.endswith(".to_out") else name
    return name.removesuffix(".lora_linear_layer")


def _adapter(
    path: Path, layer: str, halves: Mapping[str, np.ndarray], alphas: Callable[[str], Any] | None
) -> Adapter:
    missing = [half for half in (DOWN, UP) if half not in halves]
    if missing:
        raise ValueError(f"{path}: the adapter of {layer} has no {' and no '.join(missing)} half")
    down, up = (np.asarray(halves[half], np.float32) for half in (DOWN, UP))
    rank = down.shape[0]
    alpha = halves.get("alpha")
    if alpha is None:
        alpha = None if alphas is None else alphas(layer)
    return Adapter(down, up, float(rank if alpha is None else np.asarray(alpha).reshape(())))


def _alphas(path: Path) -> dict[str, Callable[[str], Any]]:
    """What the metadata of a file of diffusers says of alpha, by part: a function of the layer."""
    with safetensors.safe_open(path, framework="numpy") as opened:
        text = (opened.metadata() or {}).get(METADATA)
    described = {} if text is None else files.parse_json(text.encode())
    if not isinstance(described, dict):
        raise ValueError(f"{path}: {METADATA} of its metadata is no table")
    found: dict[str, Callable[[str], Any]] = {}
    for part in (UNET, TEXT, TEXT_2):
        alpha = described.get(f"{part}.lora_alpha")
        if alpha is None:
            continue
        own = described.get(f"{part}.alpha_pattern") or {}

        def of_layer(layer: str, alpha: Any = alpha, own: Mapping[str, Any] = own) -> Any:
            for pattern, value in own.items():
                if layer == pattern or layer.endswith(f".{pattern}"):
                    return value
            return alpha

        found[part] = of_layer
    return found


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
