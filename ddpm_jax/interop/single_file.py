"""A pipeline's weights in one file of CompVis or Stability AI, by the names of diffusers' folders.

Neither says what the networks are: that is read from a folder with the configurations.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from ddpm_jax.interop import compvis_names
from ddpm_jax.interop.tensor_rows import Tensor, Weights
from ddpm_jax.runtime import files
from ddpm_jax.runtime.weight_files import StoredTensor, stored_tensors

SAVE_AGAIN = "safetensors.torch.save_file(torch.load('F.ckpt')['state_dict'], 'F.safetensors')"


class TextNames(NamedTuple):
    """Where a text encoder's tensors stand.

    Attributes:
      prefix: before their names.
      open_clip: whether the names behind it are open_clip's, or transformers'.
    """

    prefix: str
    open_clip: bool


# Of the first text encoder and the second: of each the places where it may be.
TEXTS: tuple[tuple[TextNames, ...], ...] = (
    (
        TextNames("cond_stage_model.transformer.", False),
        TextNames("cond_stage_model.model.", True),
        TextNames("conditioner.embedders.0.transformer.", False),
    ),
    (TextNames("conditioner.embedders.1.model.", True),),
)
# What stands beside weights: tables, counts, and what the networks that are read do not have.
_NO_WEIGHTS = ("position_ids", ".logit_scale", ".num_batches_tracked", ".attn_mask")
_OPEN_CLIP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_QKV = ("q_proj", "k_proj", "v_proj")
_PROJECTION = "text_projection"
_LAYERS = "text_model.encoder.layers"


class SingleFile(NamedTuple):
    """The tensors of a file; none is read before it is needed.

    Attributes:
      path: of the file.
      tensors: by their names there.
    """

    path: Path
    tensors: dict[str, StoredTensor]

    def unet(self, names: Sequence[str], num_blocks: Sequence[int]) -> Weights:
        """The U-Net's, by diffusers' names.

        Args:
          names: of all tensors that it needs.
          num_blocks: as of `compvis_names.of_unet`.
        """
        return self._renamed(compvis_names.UNET, compvis_names.unet_names(names, num_blocks))

    def autoencoder(self, names: Iterable[str], num_levels: int) -> Weights:
        """The autoencoder's, by diffusers' names, its attention as convolutions of one pixel."""
        moved = {name: compvis_names.of_autoencoder(name, num_levels) for name in names}
        return self._renamed(compvis_names.AUTOENCODER, moved)

    def text(self, number: int, depth: int) -> Weights:
        """A text encoder's, by transformers' names.

        Args:
          number: 0 for the first, 1 for the second.
          depth: of its blocks; what a file has beyond them is left out, as of Stable Diffusion 2,
            which reads all but the last.
        """
        for place in TEXTS[number]:
            own = {
                name.removeprefix(place.prefix): tensor
                for name, tensor in self.tensors.items()
                if name.startswith(place.prefix)
            }
            if number == 0:  # whose projection no pipeline reads
                own.pop(_PROJECTION, None)
            if own:
                return _from_open_clip(own, depth) if place.open_clip else own
        prefixes = " or ".join(place.prefix for place in TEXTS[number])
        raise ValueError(f"{self.path} holds no text encoder: no tensor begins with {prefixes}")

    def _renamed(self, prefix: str, moved: Mapping[str, str]) -> Weights:
        found = {
            name: self.tensors[there] for name, there in moved.items() if there in self.tensors
        }
        taken = {*moved.values()}
        # Under their own names: whoever needs the others says that these are left over.
        over = {
            name: tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix) and name not in taken
        }
        return {**found, **over}


def read(path: Path) -> SingleFile:
    """The tensors of a single file.

    Raises:
      OSError: if it cannot be read.
      ValueError: for a broken file, a pickle, or no file of a pipeline.
    """
    tensors = stored_tensors(path, SAVE_AGAIN, _is_no_weight)
    if not any(name.startswith(compvis_names.UNET) for name in tensors):
        raise ValueError(
            f"{path} is no single file of a pipeline: of its tensors "
            f"({', '.join([*tensors][:3]) or 'none'}, ...) none begins with {compvis_names.UNET}"
        )
    return SingleFile(path, tensors)


def write(
    path: str | os.PathLike[str],
    unet: Weights,
    num_blocks: Sequence[int],
    autoencoder: Weights,
    num_levels: int,
    texts: Sequence[Weights],
    *,
    of_open_clip: Sequence[bool],
) -> None:
    """Writes the networks of a pipeline into one file, whole or not at all.

    Args:
      path: F.safetensors.
      unet, autoencoder, texts: tensors by the names of diffusers' and transformers' folders.
      num_blocks, num_levels: as of `SingleFile`.
      of_open_clip: of each text encoder, whether it is kept under open_clip's names.

    Raises:
      ValueError: for a path of another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: need a file F.safetensors")
    moved = compvis_names.unet_names([*unet], num_blocks)
    tensors = {moved[name]: np.asarray(tensor) for name, tensor in unet.items()}
    for name, tensor in autoencoder.items():
        there, array = compvis_names.of_autoencoder(name, num_levels), np.asarray(tensor)
        is_layer = ".attn_" in there and array.ndim == 2
        tensors[there] = array[:, :, None, None] if is_layer else array
    for own, fused, prefix in zip(texts, of_open_clip, _prefixes(of_open_clip), strict=True):
        named = _to_open_clip(own) if fused else {n: np.asarray(t) for n, t in own.items()}
        tensors |= {f"{prefix}{name}": tensor for name, tensor in named.items()}
    with files.whole(path) as partial:
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
            partial,
            metadata={"format": "pt"},
        )


def _prefixes(of_open_clip: Sequence[bool]) -> list[str]:
    """Where the text encoders stand: of one alone as in Stable Diffusion 1 or 2, of two as XL."""
    if len(of_open_clip) == 1:
        return [TEXTS[0][1 if of_open_clip[0] else 0].prefix]
    return [TEXTS[0][2].prefix, TEXTS[1][0].prefix]


def _is_no_weight(name: str) -> bool:
    prefixes = ("model_ema.", "denoiser.", "loss.")
    return name.endswith(_NO_WEIGHTS) or name.startswith(prefixes) or "." not in name


def _from_open_clip(weights: Weights, depth: int) -> dict[str, Tensor]:
    """Tensors of a text tower of open_clip by transformers' names."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.*)\.?(weight|bias)", name)
        if name in _OPEN_CLIP:
            renamed[_OPEN_CLIP[name]] = tensor
        elif name == _PROJECTION:
            renamed[f"{_PROJECTION}.weight"] = np.asarray(tensor).T
        elif not found:
            renamed[name] = tensor
        elif int(found[1]) < depth:
            layer, part, leaf = f"{_LAYERS}.{found[1]}", found[2].rstrip("._"), found[3]
            if part == "attn.in_proj":
                for own, third in zip(_QKV, np.split(np.asarray(tensor), 3), strict=True):
                    renamed[f"{layer}.self_attn.{own}.{leaf}"] = third
            else:
                renamed[f"{layer}.{_BLOCK.get(part, part)}.{leaf}"] = tensor
    return renamed


def _to_open_clip(weights: Weights) -> dict[str, np.ndarray]:
    """The way back."""
    renamed: dict[str, np.ndarray] = {}
    ends = {theirs: ours for ours, theirs in _OPEN_CLIP.items()}
    parts = {theirs: ours for ours, theirs in _BLOCK.items()}
    for name, tensor in weights.items():
        array: Any = np.asarray(tensor)
        found = re.fullmatch(rf"{re.escape(_LAYERS)}\.(\d+)\.(.*)\.(weight|bias)", name)
        if name in ends:
            renamed[ends[name]] = array
        elif name == f"{_PROJECTION}.weight":
            renamed[_PROJECTION] = array.T
        elif found:
            block, part, leaf = f"transformer.resblocks.{found[1]}", found[2], found[3]
            if part in parts:
                renamed[f"{block}.{parts[part]}.{leaf}"] = array
            elif part == "self_attn.q_proj":
                stem = name.removesuffix(f"q_proj.{leaf}")
                three = [np.asarray(weights[f"{stem}{own}.{leaf}"]) for own in _QKV]
                renamed[f"{block}.attn.in_proj_{leaf}"] = np.concatenate(three)
    return renamed
