"""Files of conditional U-Nets and ControlNets: what is read, refused and written; memory."""

import json
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from random_networks import random_like

from ddpm_jax.interop import latent_trunk, unet_condition_config
from ddpm_jax.interop.controlnet import controlnet_from_diffusers, controlnet_to_diffusers
from ddpm_jax.interop.safetensor_files import INDEX, WEIGHTS
from ddpm_jax.interop.unet_condition import (
    unet_condition_from_diffusers,
    unet_condition_to_diffusers,
)
from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.unet_condition import UNet2DCondition

TINY = {
    "block_channels": (8, 16),
    "num_blocks": (1, 1),
    "down_depths": ((1,), ()),
    "num_heads": (2, 2),
    "only_tokens": (False, False),
    "tokens_channels": 12,
    "num_groups": 4,
}
UNET = UNet2DCondition(**TINY, up_depths=((1, 1), ()))
CONTROLNET = ControlNet(**TINY, hint_channels=(4, 8))


def nested(shapes):
    """A tree of the shapes of parameters, by their paths."""
    tree = {}
    for path, shape in shapes.items():
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = jax.ShapeDtypeStruct(shape, np.float32)
    return tree


def params_of(network):
    control = (1, 4, 4, 3) if isinstance(network, ControlNet) else None
    return random_like(nested(latent_trunk.shapes_of(network, control)))


def saved(folder):
    unet_condition_to_diffusers(UNET, params_of(UNET), folder)
    return folder


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def change_weights(folder, change):
    weights = safetensors.numpy.load_file(folder / WEIGHTS)
    safetensors.numpy.save_file(change(weights) or weights, folder / WEIGHTS)


REFUSED = [
    ("_class_name", "UNet2DModel", '"UNet2DConditionModel"'),
    ("_class_name", ..., '"UNet2DConditionModel"'),
    ("down_block_types", ["SimpleCrossAttnDownBlock2D", "DownBlock2D"], "a list of DownBlock2D or"),
    ("down_block_types", ["DownBlock2D"], "one for each of the 2 block_out_channels"),
    ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"], "a list of UpBlock2D or CrossAttnUpBlock2D"),
    ("up_block_types", ["UpBlock2D"], "one for each of the 2"),
    ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn", '"UNetMidBlock2DCrossAttn" or "UNetMid'),
    ("layers_per_block", [1], "one, or one for each of the 2 block_out_channels"),
    ("layers_per_block", 0, "a whole number from 1"),
    ("attention_head_dim", [2, 2, 2], "one, or one for each of the 2"),
    ("attention_head_dim", [9, 2], "at most 8 heads"),
    ("attention_head_dim", None, "a whole number from 1"),
    ("num_attention_heads", 4, "null"),
    ("transformer_layers_per_block", [[1], 1], None),
    ("transformer_layers_per_block", -1, "a whole number"),
    ("reverse_transformer_layers_per_block", [1], "null, or one for each of the 2"),
    ("reverse_transformer_layers_per_block", [1, [1]], "2 numbers where a block has so many"),
    ("reverse_transformer_layers_per_block", 1, "null, or a list"),
    ("cross_attention_dim", [12, 16], "one width for all levels"),
    ("norm_num_groups", None, "a whole number from 1"),
    ("norm_num_groups", 3, "divisors of 8"),
    ("norm_eps", 0, "a number above 0"),
    ("act_fn", "gelu", '"silu" or "swish"'),
    ("downsample_padding", 2, "0 or 1"),
    ("mid_block_scale_factor", 1.4, "1"),
    ("only_cross_attention", [True], "one, or one for each"),
    ("dual_cross_attention", True, "false"),
    ("class_embed_type", "one_hot", 'null or "timestep" or "projection"'),
    ("class_embed_type", "projection", None),
    ("class_embeddings_concat", True, "false"),
    ("num_class_embeds", 0, "null or a whole number"),
    ("addition_embed_type", "text", 'null or "text_time"'),
    ("addition_embed_type", "text_time", None),
    ("encoder_hid_dim_type", "image_proj", 'null or "text_proj"'),
    ("encoder_hid_dim_type", "text_proj", None),
    ("time_embedding_type", "fourier", '"positional"'),
    ("time_embedding_act_fn", "silu", "null"),
    ("timestep_post_act", "silu", "null"),
    ("resnet_time_scale_shift", "ada_group", '"default" or "scale_shift"'),
    ("resnet_skip_time_act", True, "false"),
    ("resnet_out_scale_factor", 2.0, "1"),
    ("attention_type", "gated", '"default"'),
    ("cross_attention_norm", "layer_norm", "null"),
    ("conv_in_kernel", 4, "an odd whole number"),
    ("dropout", 1.0, r"a number in \[0, 1\)"),
    ("sample_size", [32], "null, a whole number or two"),
    ("in_channels", True, "a whole number"),
    ("auto_map", {"UNet": "x.py"}, "the fields of UNet2DConditionModel"),
]
# Fields without which another one means nothing.
NEEDS = {
    "transformer_layers_per_block": ("reverse_transformer_layers_per_block", "a list for each"),
    "class_embed_type": ("projection_class_embeddings_input_dim", "with class_embed_type proj"),
    "addition_embed_type": ("addition_time_embed_dim", "with addition_embed_type text_time"),
    "encoder_hid_dim_type": ("encoder_hid_dim", "with encoder_hid_dim_type text_proj"),
}


@pytest.mark.parametrize(("name", "value", "supported"), REFUSED, ids=lambda value: str(value)[:30])
def test_fields_that_are_not_supported_are_named(name, value, supported, tmp_path):
    config = unet_condition_config.of_unet(UNET, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    change_config(tmp_path, **{name: value})
    if supported is None:
        name, supported = NEEDS[name]
        value = None
    with pytest.raises(ValueError, match=f"^config.json: {name} is .*; supported: .*{supported}"):
        unet_condition_from_diffusers(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_embed_type", "simple_projection"),
        ("encoder_hid_dim", 8),
        ("mid_block_type", None),
        ("layers_per_block", [1, 1]),
        ("controlnet_conditioning_channel_order", "hsv"),
        ("conditioning_embedding_out_channels", None),
        ("num_attention_heads", 0),
        ("up_block_types", ["UpBlock2D"]),
    ],
)
def test_fields_that_a_controlnet_has_not_are_named(name, value, tmp_path):
    controlnet_to_diffusers(CONTROLNET, params_of(CONTROLNET), tmp_path)
    change_config(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=f"^config.json: {name} is .*; supported: "):
        controlnet_from_diffusers(tmp_path)


def test_tensors_that_do_not_fit_are_counted_and_five_are_named(tmp_path):
    saved(tmp_path)
    gone = []

    def change(weights):
        gone.extend(name for name in weights if name.startswith("up_blocks.1.attentions.0"))
        kept = {name: one for name, one in weights.items() if name not in gone}
        kept["conv_in.weight"] = kept["conv_in.weight"][:, :3].copy()
        return {**kept, "conv_in.lora": np.zeros(2, np.float32)}

    change_weights(tmp_path, change)
    with pytest.raises(ValueError, match=f"{len(gone)} missing") as caught:
        unet_condition_from_diffusers(tmp_path)
    said = str(caught.value)
    assert sum(f"{name} " in said for name in gone) == 5
    assert "1 of another shape (conv_in.weight (8, 3, 3, 3) for (8, 4, 3, 3))" in said
    assert "1 left over (conv_in.lora (2,))" in said
    assert len(said.splitlines()) == 1


def test_files_that_are_no_network_of_diffusers(tmp_path):
    with pytest.raises(ValueError, match=r"no directory .*nothing is downloaded"):
        unet_condition_from_diffusers("runwayml/stable-diffusion-v1-5")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        unet_condition_from_diffusers(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a pipeline; give its network: .*unet"):
        unet_condition_from_diffusers(tmp_path)
    with pytest.raises(ValueError, match=r"holds a pipeline; give its network: .*controlnet"):
        controlnet_from_diffusers(tmp_path)
    for name in ("model.ckpt", "diffusion_pytorch_model.bin"):
        with pytest.raises(ValueError, match="is a pickle, which can execute code"):
            unet_condition_from_diffusers(tmp_path / name)
    folder = saved(tmp_path / "unet")
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle, which can execute code"):
        unet_condition_from_diffusers(folder)
    (folder / WEIGHTS).write_bytes(b"\x80\x02" + bytes(100))
    with pytest.raises(ValueError, match="is a pickle, which can execute code"):
        unet_condition_from_diffusers(folder)


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path):
    from ddpm_jax.interop import safetensor_files

    tensors = safetensor_files.read(saved(tmp_path))
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="became shorter"):
        [np.asarray(tensor) for tensor in tensors.values()]


def test_half_precision_is_read_and_kept(tmp_path):
    params = params_of(UNET)
    saved(tmp_path)
    weights = safetensors.numpy.load_file(tmp_path / WEIGHTS)
    halves = {"float16": np.float16, "bfloat16": jnp.bfloat16}
    for name, half in halves.items():
        _, found = unet_condition_from_diffusers(tmp_path, dtype=half)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {name}
        want = jax.tree.map(lambda p, half=half: p.astype(half), params)
        jax.tree.map(np.testing.assert_array_equal, found, want)
        # A file of that type, into float32.
        small = {key: tensor.astype(half) for key, tensor in weights.items()}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
        (folder / WEIGHTS).write_bytes(stored(small))
        _, again = unet_condition_from_diffusers(folder)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(again)} == {"float32"}
        jax.tree.map(np.testing.assert_array_equal, again, jax.tree.map(np.float32, want))
    with pytest.raises(ValueError, match="need parameters of float32, bfloat16, float16, got int8"):
        unet_condition_from_diffusers(tmp_path, dtype=np.int8)
    change_weights(tmp_path, lambda w: w.update({"conv_in.bias": np.full(8, 1e6, np.float32)}))
    with pytest.raises(ValueError, match=r"tensor conv_in\.bias has values that float16 cannot"):
        unet_condition_from_diffusers(tmp_path, dtype=jnp.float16)
    unet_condition_from_diffusers(tmp_path, dtype=jnp.bfloat16)


def stored(tensors):
    """The bytes of a safetensors file; numpy has no bfloat16, so the library writes none."""
    names = {"float16": "F16", "bfloat16": "BF16"}
    header, data = {}, b""
    for name, tensor in tensors.items():
        offsets = [len(data), len(data) + tensor.nbytes]
        kind = names[tensor.dtype.name]
        header[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": offsets}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_shards_variants_and_old_names_are_read(tmp_path):
    _, want = unet_condition_from_diffusers(saved(tmp_path))
    weights = safetensors.numpy.load_file(tmp_path / WEIGHTS)

    shards = saved(tmp_path / "shards")
    (shards / WEIGHTS).unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        safetensors.numpy.save_file({name: weights[name] for name in part}, shards / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (shards / INDEX).write_text(json.dumps(index))

    variant = saved(tmp_path / "variant")
    (variant / WEIGHTS).rename(variant / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(ValueError, match=r"it holds config\.json, diffusion_pytorch_model\.fp16"):
        unet_condition_from_diffusers(variant)

    both = saved(tmp_path / "both")
    (both / WEIGHTS).unlink()
    for file in parts:
        (both / file).write_bytes((shards / file).read_bytes())
    (both / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))

    for folder, options in (
        (shards, {}),
        (variant, {"variant": "fp16"}),
        (both, {"variant": "fp16"}),
    ):
        _, found = unet_condition_from_diffusers(folder, **options)
        jax.tree.map(np.testing.assert_array_equal, found, want)


def test_exports_that_are_refused_write_nothing(tmp_path):
    params = params_of(UNET)
    deeper = UNET.clone(down_depths=((), (1,)), mid_depth=2)
    with pytest.raises(ValueError, match="bottom has the depth of the lowest level's first"):
        unet_condition_to_diffusers(deeper, params, tmp_path / "out")
    with pytest.raises(ValueError, match="one number for label_channels=3 and vector_channels=9"):
        unet_condition_to_diffusers(
            UNET.clone(label="vector", label_channels=3, vector_channels=9, time_ids_channels=2),
            params,
            tmp_path / "out",
        )
    less = {name: value for name, value in params.items() if name != "conv_in"}
    with pytest.raises(ValueError, match="conv_in/bias has nothing"):
        unet_condition_to_diffusers(UNET, less, tmp_path / "out")
    with pytest.raises(ValueError, match="sample_size cannot be 0"):
        unet_condition_to_diffusers(UNET, params, tmp_path / "out", sample_size=0)
    for changes in ({"dropout": 0.1}, {"embedding_dim": 8}, {"guidance_channels": 3}):
        with pytest.raises(ValueError, match="has no counterpart in diffusers' ControlNetModel"):
            controlnet_to_diffusers(CONTROLNET.clone(**changes), {}, tmp_path / "out")
    with pytest.raises(ValueError, match="mid_block_type cannot be None"):
        controlnet_to_diffusers(CONTROLNET.clone(bottom=False), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    controlnet_to_diffusers(CONTROLNET, params_of(CONTROLNET), tmp_path / "out")
    with pytest.raises(ValueError, match="is not diffusers' UNet2DConditionModel's"):
        unet_condition_to_diffusers(UNET, params, tmp_path / "out")


def test_neither_torch_nor_diffusers_is_imported(tmp_path):
    code = f"""
import sys
from ddpm_jax.interop.controlnet import controlnet_from_diffusers
from ddpm_jax.interop.unet_condition import unet_condition_from_diffusers
unet_condition_from_diffusers({str(saved(tmp_path))!r})
print(sorted({{"torch", "diffusers", "safetensors.torch"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


MEGABYTES = 2**20
# 107 MB in float32; the largest tensor has 10.
WIDE = UNet2DCondition(
    block_channels=(192, 384),
    num_blocks=(1, 1),
    down_depths=((1,), ()),
    up_depths=((1, 1), ()),
    num_heads=(2, 2),
    only_tokens=(False, False),
    tokens_channels=64,
)
# VmHWM is of the process alone; what getrusage says of a child begins at its parent's size.
MEASURE = """
import re, sys
import jax, jax.numpy as jnp
from ddpm_jax.interop.unet_condition import unet_condition_from_diffusers

def peak():
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])

jnp.zeros(1).block_until_ready()
before = peak()
_, params = unet_condition_from_diffusers(sys.argv[1], sys.argv[2])
jax.block_until_ready(params)
print(peak() - before, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_takes_hardly_more_memory_than_the_parameters(tmp_path):
    """At most 1.2 times their size, and 16 MB in which the shapes are traced."""
    rng = np.random.default_rng(0)
    tree = nested(latent_trunk.shapes_of(WIDE))
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), tree)
    unet_condition_to_diffusers(WIDE, params, tmp_path)
    for dtype, least in (("float32", 100), ("bfloat16", 50)):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path), dtype],
            capture_output=True,
            text=True,
            check=True,
        )
        grown, size = map(int, done.stdout.split())
        print(f"{dtype}: {grown / MEGABYTES:.0f} MB for {size / MEGABYTES:.0f}")
        assert size > least * MEGABYTES
        assert grown < 1.2 * size + 16 * MEGABYTES
