"""U-Nets to and from diffusers' `UNet2DModel`: config.json and safetensors, nothing executed.

Neither torch nor diffusers is needed: the files are JSON and raw arrays. One table, `_rows`, pairs
our parameters with diffusers' tensors, and serves both directions.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.models import UNet

try:
    import safetensors
    import safetensors.numpy
except ImportError as error:
    raise ImportError(
        "ddpm_jax.interop needs safetensors: pip install 'ddpm_jax[interop]'"
    ) from error

_VERSION = "0.42.1"
# The defaults of UNet2DModel.__init__ in diffusers _VERSION: what a field that config.json leaves
# out means. They are not the defaults of our UNet.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# What says nothing about the network: diffusers' bookkeeping, and what its EMAModel adds when it
# saves the averaged weights.
_BOOKKEEPING = {
    "_class_name",
    "_commit_hash",
    "_diffusers_version",
    "_name_or_path",
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}
_CLASS = "UNet2DModel"
_CONFIG = "config.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_INDEX = "diffusion_pytorch_model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def unet_from_diffusers(directory: str | os.PathLike[str]) -> tuple[UNet, dict[str, Any]]:
    """The U-Net that diffusers' `UNet2DModel.save_pretrained(directory)` wrote, as (unet, params).

    `unet.apply({"params": params}, xt, time, label)` is then what `UNet2DModel` computes, with
    xt [B, H, W, C] instead of [B, C, H, W]. Weights of any float type become float32. diffusers has
    no null class, so a class-conditional network comes back with `null_class=False`: labels are
    required, and one outside the table gives NaN.

    Args:
      directory: holds config.json and diffusion_pytorch_model.safetensors (or its shards). Nothing
        in it is imported or executed, and nothing is downloaded.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that this U-Net does not
        have, and tensors that are missing, left over or of the wrong shape.

    Example:
      unet, params = unet_from_diffusers("ddpm-cifar10-32")
    """
    directory = Path(directory)
    _check_directory(directory)
    config = _read_config(directory / _CONFIG)
    unet = _unet(config)
    shapes = _shapes(unet, config["in_channels"])
    weights = _read_weights(directory)

    params: dict[str, Any] = {}
    for row in _rows(unet):
        if row.name not in weights:
            raise ValueError(
                f"{directory}: tensor {row.name} is missing; config.json needs one of shape "
                f"{row.torch_shape(shapes)}"
            )
        weight = weights.pop(row.name)
        if weight.shape != row.torch_shape(shapes):
            raise ValueError(
                f"{directory}: tensor {row.name} has shape {weight.shape}; config.json needs "
                f"{row.torch_shape(shapes)}"
            )
        *modules, leaf = row.path
        tree = params
        for module in modules:
            tree = tree.setdefault(module, {})
        tree[leaf] = jnp.asarray(_FROM_TORCH[row.layout](weight), jnp.float32)
    if weights:
        name = min(weights)
        raise ValueError(
            f"{directory}: the network of config.json has no tensor {name} (shape "
            f"{weights[name].shape}; {len(weights)} left over)"
        )
    return unet, params


def unet_to_diffusers(
    unet: UNet,
    params: Mapping[str, Any],
    directory: str | os.PathLike[str],
    sample_size: int | tuple[int, int] | None = None,
) -> None:
    """Writes what diffusers' `UNet2DModel.from_pretrained(directory)` reads.

    The rows of the label table become `num_class_embeds`: a null class is diffusers' last class,
    to be asked for by its number, `unet.num_classes`, where this U-Net takes -1.

    Args:
      unet: the network.
      params: its parameters, without the "params" key around them.
      directory: made if it does not exist. An export that it already holds is replaced; any other
        config.json there is left alone and refused.
      sample_size: height and width of an image, which diffusers' pipelines ask the network for.

    Raises:
      ValueError: for parameters that do not fit the network, a network that diffusers cannot
        express, or a directory that holds something else. Nothing is written then.
    """
    directory = Path(directory)
    _check_target(directory)
    leaves = _flatten(params)
    kernel = leaves.get(("conv_in", "kernel"))
    if kernel is None or np.ndim(kernel) != 4:
        raise ValueError(
            f"params has no conv_in/kernel [3, 3, in, out]; its keys are {sorted(params)[:4]}"
        )
    in_channels = int(kernel.shape[2])
    config = _config(unet, in_channels, sample_size)
    shapes = _shapes(unet, in_channels)
    for path in sorted({*shapes, *leaves}):
        have = tuple(np.shape(leaves[path])) if path in leaves else "nothing"
        need = shapes.get(path, "nothing")
        if have != need:
            raise ValueError(f"params: {'/'.join(path)} has {have}; the network needs {need}")
    weights = {
        # The file keeps the bytes in memory order, so a transposed view must be copied first.
        row.name: np.ascontiguousarray(
            _TO_TORCH[row.layout](np.asarray(leaves[row.path], np.float32))
        )
        for row in _rows(unet)
    }

    directory.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a process killed here leaves no half-written file behind.
    partial = directory / f"{_WEIGHTS}.partial"
    safetensors.numpy.save_file(weights, partial, metadata={"format": "pt"})
    partial.replace(directory / _WEIGHTS)
    partial = directory / f"{_CONFIG}.partial"
    partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    partial.replace(directory / _CONFIG)


# The table: our parameters and diffusers' tensors.

_TO_TORCH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "conv": lambda kernel: kernel.transpose(3, 2, 0, 1),
    "dense": lambda kernel: kernel.T,
    "pointwise": lambda kernel: kernel.T[:, :, None, None],
    "plain": lambda value: value,
}
_FROM_TORCH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "conv": lambda weight: weight.transpose(2, 3, 1, 0),
    "dense": lambda weight: weight.T,
    "pointwise": lambda weight: weight[:, :, 0, 0].T,
    "plain": lambda value: value,
}
# A layer's parameters: our name, diffusers' name, layout.
_LEAVES = {
    "conv": (("kernel", "weight", "conv"), ("bias", "bias", "plain")),
    "dense": (("kernel", "weight", "dense"), ("bias", "bias", "plain")),
    # A 1x1 convolution of diffusers', a dense layer of ours.
    "pointwise": (("kernel", "weight", "pointwise"), ("bias", "bias", "plain")),
    "norm": (("scale", "weight", "plain"), ("bias", "bias", "plain")),
    "embed": (("embedding", "weight", "plain"),),
}
# The modules of a block: our name, diffusers' name, kind.
_Modules = tuple[tuple[str, str, str], ...]
_RESNET: _Modules = (
    ("norm_0", "norm1", "norm"),
    ("conv_0", "conv1", "conv"),
    ("embedding", "time_emb_proj", "dense"),
    ("norm_1", "norm2", "norm"),
    ("conv_1", "conv2", "conv"),
)
_SHORTCUT: _Modules = (("shortcut", "conv_shortcut", "pointwise"),)
_ATTENTION: _Modules = (
    ("norm", "group_norm", "norm"),
    ("query", "to_q", "dense"),
    ("key", "to_k", "dense"),
    ("value", "to_v", "dense"),
    ("out", "to_out.0", "dense"),
)
# What diffusers called them in its first releases.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class _Row(NamedTuple):
    path: tuple[str, ...]
    name: str
    layout: str

    def torch_shape(self, shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> tuple[int, ...]:
        return _TO_TORCH[self.layout](np.broadcast_to(np.float32(0), shapes[self.path])).shape


def _rows(unet: UNet) -> Iterator[_Row]:
    """Every parameter of the U-Net beside diffusers' tensor."""
    for path, name, kind in _layers(unet):
        for leaf, torch_leaf, layout in _LEAVES[kind]:
            yield _Row((*path, leaf), f"{name}.{torch_leaf}", layout)


def _layers(unet: UNet) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(our path, diffusers' name, kind) of every layer."""

    def block(ours: str, theirs: str, modules: _Modules):
        for name, torch_name, kind in modules:
            yield (ours, name), f"{theirs}.{torch_name}", kind

    yield ("conv_in",), "conv_in", "conv"
    yield ("time_dense_0",), "time_embedding.linear_1", "dense"
    yield ("time_dense_1",), "time_embedding.linear_2", "dense"
    if unet.num_classes:
        yield ("label_embedding",), "class_embedding", "embed"
    last = len(unet.block_channels) - 1
    previous = unet.block_channels[0]
    for level, width in enumerate(unet.block_channels):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        for i in range(unet.num_blocks + 1):
            # Going up, the skip connection always widens the input: every block has a shortcut.
            yield from block(f"up_{level}_block_{i}", f"{up}.resnets.{i}", _RESNET + _SHORTCUT)
            if level in unet.attention_levels:
                yield from block(f"up_{level}_attention_{i}", f"{up}.attentions.{i}", _ATTENTION)
        for i in range(unet.num_blocks):
            modules = _RESNET + (_SHORTCUT if i == 0 and width != previous else ())
            yield from block(f"down_{level}_block_{i}", f"{down}.resnets.{i}", modules)
            if level in unet.attention_levels:
                name = f"{down}.attentions.{i}"
                yield from block(f"down_{level}_attention_{i}", name, _ATTENTION)
        if level < last:
            yield (f"down_{level}_downsample",), f"{down}.downsamplers.0.conv", "conv"
        if level > 0:
            yield (f"up_{level}_upsample",), f"{up}.upsamplers.0.conv", "conv"
        previous = width
    yield from block("mid_block_0", "mid_block.resnets.0", _RESNET)
    if unet.mid_attention:
        modules = _ATTENTION[1:] if unet.mid_num_groups == 0 else _ATTENTION
        yield from block("mid_attention", "mid_block.attentions.0", modules)
    yield from block("mid_block_1", "mid_block.resnets.1", _RESNET)
    yield ("norm_out",), "conv_norm_out", "norm"
    yield ("conv_out",), "conv_out", "conv"


def _shapes(unet: UNet, in_channels: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every parameter of the U-Net, asked of the U-Net itself."""
    size = 2 ** (len(unet.block_channels) - 1)
    label = jnp.zeros((1,), jnp.int32) if unet.num_classes else None
    xt = jnp.zeros((1, size, size, in_channels))
    variables = jax.eval_shape(lambda: unet.init(jax.random.key(0), xt, jnp.zeros((1,)), label))
    return {path: tuple(leaf.shape) for path, leaf in _flatten(variables["params"]).items()}


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    leaves: dict[tuple[str, ...], Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flatten(value, (*path, name))
        else:
            leaves[(*path, name)] = value
    return leaves


# The fields of config.json.


class _Field(NamedTuple):
    holds: Callable[[Any], bool]
    supported: str


def _is_int(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(*values: Any) -> _Field:
    # In Python True == 1, which would let downsample_padding be true.
    def holds(value: Any) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values)

    return _Field(holds, " or ".join(json.dumps(value) for value in values))


def _list_of(holds: Callable[[Any], bool], supported: str) -> _Field:
    return _Field(
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(holds, value)),
        f"a list of {supported}",
    )


def _block_kind(value: Any) -> str:
    # diffusers strips the prefix too: its first releases wrote "UNetResDownBlock2D".
    return value.removeprefix("UNetRes") if isinstance(value, str) else ""


_COUNT = _Field(_is_int, "a whole number from 1")
_COUNT_OR_NULL = _Field(lambda value: value is None or _is_int(value), "null or a whole number")
_SWITCH = _one_of(False, True)
_DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D")
_UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D")
_FIELDS: dict[str, _Field] = {
    # The size of the images is no property of the network, only a hint to pipelines.
    "sample_size": _Field(
        lambda value: (
            value is None
            or _is_int(value)
            or (isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_int, value)))
        ),
        "null, a whole number or two",
    ),
    "in_channels": _COUNT,
    "out_channels": _COUNT,
    "center_input_sample": _one_of(False),
    "time_embedding_type": _one_of("positional"),
    "time_embedding_dim": _COUNT_OR_NULL,
    "freq_shift": _Field(_is_number, "a number"),
    "flip_sin_to_cos": _SWITCH,
    "down_block_types": _list_of(
        lambda v: _block_kind(v) in _DOWN_BLOCKS, " or ".join(_DOWN_BLOCKS)
    ),
    "mid_block_type": _one_of("UNetMidBlock2D"),
    "up_block_types": _list_of(lambda v: _block_kind(v) in _UP_BLOCKS, " or ".join(_UP_BLOCKS)),
    "block_out_channels": _list_of(_is_int, "whole numbers from 1"),
    "layers_per_block": _COUNT,
    "mid_block_scale_factor": _one_of(1),
    "downsample_padding": _one_of(0, 1),
    "downsample_type": _one_of("conv"),
    "upsample_type": _one_of("conv"),
    "dropout": _Field(lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)"),
    "act_fn": _one_of("silu", "swish"),
    "attention_head_dim": _COUNT_OR_NULL,
    "norm_num_groups": _COUNT,
    "attn_norm_num_groups": _COUNT_OR_NULL,
    "norm_eps": _Field(lambda value: _is_number(value) and value > 0, "a number above 0"),
    "resnet_time_scale_shift": _one_of("default", "scale_shift"),
    "add_attention": _SWITCH,
    "class_embed_type": _one_of(None),
    "num_class_embeds": _COUNT_OR_NULL,
    # Only a learned time embedding, refused above, has a row per time step.
    "num_train_timesteps": _COUNT_OR_NULL,
}


def _refuse(name: str, value: Any, supported: str) -> ValueError:
    return ValueError(f"config.json: {name} is {json.dumps(value)}; supported: {supported}")


def _unet(config: Mapping[str, Any]) -> UNet:
    """The U-Net that a checked config describes."""
    channels = tuple(config["block_out_channels"])
    down = [_block_kind(kind) for kind in config["down_block_types"]]
    up = [_block_kind(kind) for kind in config["up_block_types"]]
    for name in ("down_block_types", "up_block_types"):
        if len(config[name]) != len(channels):
            raise _refuse(
                name, config[name], f"one for each of the {len(channels)} block_out_channels"
            )
    attends = [kind == "AttnDownBlock2D" for kind in down]
    if [kind == "AttnUpBlock2D" for kind in up] != attends[::-1]:
        mirror = ["AttnUpBlock2D" if attention else "UpBlock2D" for attention in attends[::-1]]
        raise _refuse(
            "up_block_types",
            config["up_block_types"],
            f"{json.dumps(mirror)}, the mirror of down_block_types (attention at the same levels)",
        )
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    groups, mid_groups = config["norm_num_groups"], config["attn_norm_num_groups"]
    mid_attention = config["add_attention"]
    if mid_groups == groups or not mid_attention:
        mid_groups = None
    elif mid_groups is None and scale_shift:
        # diffusers builds this attention without a norm unless its groups are named.
        mid_groups = 0
    head_dim = config["attention_head_dim"]
    for width in channels:
        if width % groups:
            raise _refuse("norm_num_groups", groups, f"divisors of {width} of block_out_channels")
    if mid_groups and channels[-1] % mid_groups:
        raise _refuse("attn_norm_num_groups", mid_groups, f"divisors of {channels[-1]} channels")
    attending = [width for width, attention in zip(channels, attends, strict=True) if attention]
    for width in attending + [channels[-1]] * mid_attention:
        if head_dim and width % head_dim:
            raise _refuse("attention_head_dim", head_dim, f"null or divisors of {width} channels")
    classes = config["num_class_embeds"]
    return UNet(
        block_channels=channels,
        num_blocks=config["layers_per_block"],
        attention_levels=tuple(level for level, attention in enumerate(attends) if attention),
        out_channels=config["out_channels"],
        num_classes=classes or 0,
        # diffusers has none; without classes the field means nothing and keeps its default.
        null_class=classes is None,
        dropout=float(config["dropout"]),
        head_dim=head_dim,
        mid_attention=mid_attention,
        num_groups=groups,
        norm_epsilon=float(config["norm_eps"]),
        mid_num_groups=mid_groups,
        embedding_dim=config["time_embedding_dim"],
        scale_shift_norm=scale_shift,
        downsample_padding=config["downsample_padding"],
        freq_shift=float(config["freq_shift"]),
        flip_sin_to_cos=config["flip_sin_to_cos"],
    )


def _config(
    unet: UNet, in_channels: int, sample_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """What diffusers writes about this U-Net; every field, so that no default of its can change."""
    mid_groups = unet.mid_num_groups if unet.mid_attention else None
    if mid_groups is None and unet.mid_attention and unet.scale_shift_norm:
        mid_groups = unet.num_groups
    elif mid_groups == 0:
        if not unet.scale_shift_norm:
            raise ValueError(
                "mid_num_groups=0 (attention without a norm) without scale_shift_norm has no "
                "counterpart in diffusers' UNet2DModel"
            )
        mid_groups = None
    levels = range(len(unet.block_channels))
    attends = [level in unet.attention_levels for level in levels]
    classes = unet.num_classes + int(unet.null_class) if unet.num_classes else None
    shift = unet.freq_shift
    config = {
        **_DEFAULTS,
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": unet.out_channels,
        "time_embedding_dim": unet.embedding_dim,
        "freq_shift": int(shift) if shift == int(shift) else shift,
        "flip_sin_to_cos": unet.flip_sin_to_cos,
        "down_block_types": [_DOWN_BLOCKS[attention] for attention in attends],
        "up_block_types": [_UP_BLOCKS[attention] for attention in attends[::-1]],
        "block_out_channels": list(unet.block_channels),
        "layers_per_block": unet.num_blocks,
        "downsample_padding": int(bool(unet.downsample_padding)),
        "dropout": unet.dropout,
        "attention_head_dim": unet.head_dim,
        "norm_num_groups": unet.num_groups,
        "attn_norm_num_groups": mid_groups,
        "norm_eps": unet.norm_epsilon,
        "resnet_time_scale_shift": "scale_shift" if unet.scale_shift_norm else "default",
        "add_attention": unet.mid_attention,
        "num_class_embeds": classes,
    }
    for name, value in config.items():
        if not _FIELDS[name].holds(value):
            raise ValueError(f"diffusers' {name} cannot be {value!r}: {_FIELDS[name].supported}")
    return {"_class_name": _CLASS, "_diffusers_version": _VERSION, **config}


# The files.


def _check_directory(directory: Path) -> None:
    if directory.suffix in _PICKLES and not directory.is_dir():
        raise _pickle(directory)
    if directory.is_file():
        raise ValueError(f"{directory} is a file; give the directory that save_pretrained wrote")
    if not directory.is_dir():
        raise ValueError(
            f"no directory {directory}; give one that save_pretrained wrote on this machine "
            "(nothing is downloaded)"
        )
    if not (directory / _CONFIG).is_file():
        if (directory / "model_index.json").is_file():
            raise ValueError(
                f"{directory} holds a pipeline; give its network: {directory / 'unet'}"
            )
        raise ValueError(f"{directory} has no {_CONFIG}; give what save_pretrained wrote")


def _pickle(path: Path) -> ValueError:
    return ValueError(
        f"{path} is a pickle, which can execute code when it is read; load it where you trust it "
        "and save it again: unet.save_pretrained(directory, safe_serialization=True)"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def _read_config(path: Path) -> dict[str, Any]:
    """Every field of UNet2DModel: the file's value, checked, or diffusers' default."""
    given = _read_json(path)
    if given.get("_class_name") != _CLASS:
        raise _refuse("_class_name", given.get("_class_name"), f'"{_CLASS}"')
    for name in given:
        if name not in _DEFAULTS and name not in _BOOKKEEPING:
            raise _refuse(
                name, given[name], f"the fields of {_CLASS} in diffusers {_VERSION}; not this one"
            )
    config = {name: given.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in config.items():
        if not _FIELDS[name].holds(value):
            raise _refuse(name, value, _FIELDS[name].supported)
    return config


def _read_weights(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor by its present name, in the file's own float type."""
    if (directory / _INDEX).is_file():  # diffusers too takes the shards where both are there
        shards = _read_json(directory / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
            raise ValueError(f"{directory / _INDEX} has no weight_map of file names")
        files = sorted(set(shards.values()))
    else:
        files = [_WEIGHTS]
    weights: dict[str, np.ndarray] = {}
    for file in files:
        path = directory / file
        if Path(file).name != file:
            raise ValueError(f"{directory / _INDEX} names {file}, outside the directory")
        if path.suffix != ".safetensors":
            raise _pickle(path)
        if not path.is_file():
            raise _no_weights(directory, file)
        for name, tensor in _read_tensors(path):
            if ".attentions." in name:
                for old, new in _OLD_NAMES.items():
                    name = name.replace(f".{old}.", f".{new}.")
            if name in weights:
                raise ValueError(f"{directory}: tensor {name} is there twice")
            weights[name] = tensor
    return weights


def _no_weights(directory: Path, file: str) -> ValueError:
    there = sorted(path.name for path in directory.iterdir())
    if not any(name.endswith(".safetensors") for name in there):
        for name in there:
            if name.endswith(_PICKLES):
                return _pickle(directory / name)
    return ValueError(f"{directory} has no {file}; it holds {', '.join(there)}")


def _read_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    # numpy has no bfloat16 of its own, so safetensors.numpy cannot read such a file.
    dtypes = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16}
    for name, tensor in tensors:
        if tensor["dtype"] not in dtypes:
            raise ValueError(
                f"{path}: tensor {name} is {tensor['dtype']}; supported: {', '.join(dtypes)}"
            )
        flat = np.frombuffer(tensor["data"], np.dtype(dtypes[tensor["dtype"]]))
        yield name, flat.reshape(tensor["shape"])


def _check_target(directory: Path) -> None:
    """Refuses a directory whose files an export would destroy or be hidden by."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory")
    config = directory / _CONFIG
    if config.exists() and _read_json(config).get("_class_name") != _CLASS:
        raise ValueError(f"{config} is not diffusers' {_CLASS}'s; give another directory")
    if (directory / _INDEX).exists():
        raise ValueError(f"{directory / _INDEX} would hide the new weights; give another directory")
