"""Files of low-rank adapters (LoRA), as diffusers, PEFT and kohya's scripts name their tensors."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from ddpm_jax.interop.tensor_rows import first_five
from ddpm_jax.models.adapters import DOWN, UP
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
            f"({first_five(strange)}); need lora_A and "
            "lora_B, lora.down and lora.up, or kohya's lora_down and lora_up"
        )
    parts: dict[str, dict[str, Adapter]] = {}
    for (part, layer), found_halves in halves.items():
        parts.setdefault(part, {})[layer] = _adapter(path, layer, found_halves, alphas.get(part))
    if not parts:
        raise ValueError(f"{path} holds no tensors")
    return LoraFile(parts, path)


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
