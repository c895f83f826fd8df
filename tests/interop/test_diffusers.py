"""Parity with diffusers' own UNet2DModel: random weights carried over, outputs compared."""

import inspect
import json
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import safetensors.numpy  # noqa: E402

from ddpm_jax.interop import unet2d_config  # noqa: E402
from ddpm_jax.interop.diffusers import unet_from_diffusers, unet_to_diffusers  # noqa: E402
from ddpm_jax.models import UNet  # noqa: E402

WEIGHTS = "diffusion_pytorch_model.safetensors"
TIMES = np.array([0, 1, 500, 999])

# google/ddpm-cifar10-32's config.json: Ho et al.'s CIFAR-10 network.
CIFAR10 = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": (128, 256, 256, 256),
    "center_input_sample": False,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
PLAIN = {
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
ATTENTION = {
    **PLAIN,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}

# name: (fields of UNet2DModel, height and width of the image)
CASES = {
    "ho_cifar10_narrow": (
        {**CIFAR10, "block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8},
        (16, 16),
    ),
    "diffusers_defaults": ({"block_out_channels": (32, 64, 64, 96)}, (16, 16)),
    "no_attention": ({**PLAIN, "add_attention": False}, (8, 8)),
    "mid_attention_only": ({**PLAIN, "attention_head_dim": None}, (8, 8)),
    "several_heads": ({**ATTENTION, "attention_head_dim": 4}, (8, 8)),
    "attention_at_full_resolution": (
        {
            **PLAIN,
            "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
            "add_attention": False,
        },
        (8, 8),
    ),
    "class_labels": ({**ATTENTION, "num_class_embeds": 5}, (8, 8)),
    "one_class": ({**PLAIN, "num_class_embeds": 1}, (8, 8)),
    "gray": ({**ATTENTION, "in_channels": 1, "out_channels": 1}, (8, 8)),
    "other_channels_out": ({**PLAIN, "in_channels": 4, "out_channels": 6}, (8, 8)),
    "one_level": (
        {
            **PLAIN,
            "down_block_types": ("AttnDownBlock2D",),
            "up_block_types": ("AttnUpBlock2D",),
            "block_out_channels": (16,),
        },
        (5, 7),
    ),
    "three_levels_three_layers": (
        {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (16, 24, 40),
            "layers_per_block": 3,
            "norm_num_groups": 4,
        },
        (8, 8),
    ),
    "five_levels_one_layer": (
        {
            "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D",),
            "up_block_types": ("AttnUpBlock2D",) + ("UpBlock2D",) * 4,
            # Narrower again half way down: a shortcut on the way down, other widths on the way up.
            "block_out_channels": (16, 32, 16, 32, 16),
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        (16, 32),
    ),
    "not_square": ({**ATTENTION, "downsample_padding": 0}, (6, 10)),
    "padding_1": ({**ATTENTION, "downsample_padding": 1}, (6, 10)),
    "scale_shift_without_mid_norm": (
        {**ATTENTION, "resnet_time_scale_shift": "scale_shift"},
        (8, 8),
    ),
    "scale_shift_with_mid_norm": (
        {**ATTENTION, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
        (8, 8),
    ),
    "mid_norm_of_other_groups": ({**ATTENTION, "attn_norm_num_groups": 2}, (8, 8)),
    "odd_embedding": (
        {**PLAIN, "block_out_channels": (15, 30), "norm_num_groups": 5, "time_embedding_dim": 37}
        | {"attention_head_dim": 5},
        (8, 8),
    ),
    # ADM's blocks (Dhariwal & Nichol 2021), class-conditional.
    "adm": (
        {
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "block_out_channels": (16, 24, 32),
            "layers_per_block": 2,
            "norm_num_groups": 8,
            "attn_norm_num_groups": 8,
            "attention_head_dim": 8,
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "num_class_embeds": 5,
            "out_channels": 6,
        },
        (8, 12),
    ),
    "other_frequencies": (
        {**PLAIN, "freq_shift": 1, "flip_sin_to_cos": False, "act_fn": "swish", "dropout": 0.3},
        (8, 8),
    ),
}


def torch_unet(**config):
    """A UNet2DModel whose every parameter is random, with outputs of order 1."""
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:  # biases, and the scales of norms around their 1
                parameter.copy_(parameter.round().clamp(0, 1) + 0.3 * noise)
            else:
                parameter.copy_(noise / np.sqrt(parameter[0].numel()))
    return model


def inputs(config, size, batch=4):
    rng = np.random.default_rng(0)
    xt = rng.standard_normal((batch, *size, config.get("in_channels", 3))).astype(np.float32)
    classes = config.get("num_class_embeds")
    label = None if classes is None else np.arange(batch, dtype=np.int32) % classes
    return xt, TIMES[:batch], label


def from_pretrained(directory):
    return diffusers.UNet2DModel.from_pretrained(directory, low_cpu_mem_usage=False).eval()


def torch_output(model, xt, time, label):
    with torch.no_grad():
        y = model(
            torch.from_numpy(xt.transpose(0, 3, 1, 2).copy()),
            torch.from_numpy(time),
            None if label is None else torch.from_numpy(label).long(),
        ).sample
    return y.numpy().transpose(0, 2, 3, 1)


def our_output(unet, params, xt, time, label):
    return np.asarray(jax.jit(unet.apply)({"params": params}, xt, time, label))


def save(directory, **changes):
    """A small model's files, with fields of config.json changed; a field set to ... is removed."""
    torch_unet(**ATTENTION).save_pretrained(directory)
    change_config(directory, **changes)
    return directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved"))


def change_config(directory, **changes):
    config = json.loads((directory / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(config))


def change_weights(directory, change):
    weights = safetensors.numpy.load_file(directory / WEIGHTS)
    change(weights)
    safetensors.numpy.save_file(weights, directory / WEIGHTS)


def number_of(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert 0.1 < theirs.std() < 10  # of order 1, so that the tolerance means something
    difference = np.abs(ours - theirs).max()
    print(f"max |difference| {difference:.2e}, relative {difference / np.abs(theirs).max():.2e}")
    assert difference < 1e-4


@pytest.mark.wide(13)
@pytest.mark.parametrize("name", CASES)
def test_outputs_agree_and_come_back(name, tmp_path):
    config, size = CASES[name]
    theirs = torch_unet(**config)
    theirs.save_pretrained(tmp_path / "a")
    unet, params = unet_from_diffusers(tmp_path / "a")
    xt, time, label = inputs(config, size)
    expected = torch_output(theirs, xt, time, label)
    assert_close(our_output(unet, params, xt, time, label), expected)

    unet_to_diffusers(unet, params, tmp_path / "b", sample_size=theirs.config.sample_size)
    back = from_pretrained(tmp_path / "b")
    state = theirs.state_dict()
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in back.state_dict().items())
    np.testing.assert_array_equal(torch_output(back, xt, time, label), expected)

    again, params_again = unet_from_diffusers(tmp_path / "b")
    assert again == unet
    jax.tree.map(np.testing.assert_array_equal, params, params_again)


@pytest.mark.slow
@pytest.mark.wide(3)
def test_published_cifar10_network(tmp_path):
    theirs = torch_unet(**CIFAR10)
    assert sum(p.numel() for p in theirs.parameters()) == 35_746_307
    theirs.save_pretrained(tmp_path)
    unet, params = unet_from_diffusers(tmp_path)
    assert number_of(params) == 35_746_307
    assert unet == UNet()  # our defaults are Ho et al.'s
    xt, time, label = inputs(CIFAR10, (32, 32))
    assert_close(our_output(unet, params, xt, time, label), torch_output(theirs, xt, time, label))


@pytest.mark.wide(3)
@pytest.mark.parametrize(
    "fields",
    [
        {"num_classes": 4, "head_dim": 8},
        {"num_classes": 4, "null_class": False, "downsample_padding": 1},
        {"scale_shift_norm": True, "freq_shift": 0.5, "out_channels": 6},
        {"mid_attention": False, "embedding_dim": 48, "flip_sin_to_cos": True},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_our_network_runs_in_diffusers(fields, tmp_path):
    unet = UNet(
        block_channels=(16, 32), num_blocks=1, attention_levels=(1,), num_groups=8, **fields
    )
    xt, time, _ = inputs({}, (8, 12))
    label = None
    if unet.num_classes:
        label = np.array([0, 3, 2, -1 if unet.null_class else 1])
    shapes = jax.eval_shape(unet.init, jax.random.key(0), xt, time, label)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(  # random to the last bias: at initialisation the output is all zeros
        lambda p: (
            rng.standard_normal(p.shape).astype(np.float32)
            / np.sqrt(np.prod(p.shape[:-1]) if p.ndim > 1 else 4)
        ),
        shapes,
    )
    unet_to_diffusers(unet, params, tmp_path, sample_size=(8, 12))
    theirs = from_pretrained(tmp_path)
    assert tuple(theirs.config.sample_size) == (8, 12)
    their_label = None
    if label is not None:
        # diffusers asks for the null class by its number.
        their_label = np.where(label < 0, unet.num_classes, label)
        assert theirs.config.num_class_embeds == unet.num_classes + unet.null_class
    assert_close(
        our_output(unet, params, xt, time, label), torch_output(theirs, xt, time, their_label)
    )


def test_fields_left_out_take_the_defaults_of_diffusers(tmp_path):
    parameters = inspect.signature(diffusers.UNet2DModel.__init__).parameters
    theirs = {name: p.default for name, p in parameters.items() if name != "self"}
    assert theirs == unet2d_config.DEFAULTS

    directory = save(tmp_path)
    left_out = ("attention_head_dim", "norm_eps", "flip_sin_to_cos", "freq_shift", "add_attention")
    change_config(directory, downsample_padding=..., **dict.fromkeys(left_out, ...))
    unet, _ = unet_from_diffusers(directory)
    assert (unet.head_dim, unet.norm_epsilon, unet.freq_shift) == (8, 1e-5, 0)
    assert (unet.flip_sin_to_cos, unet.downsample_padding, unet.mid_attention) == (True, 1, True)


def test_neither_torch_nor_diffusers_is_imported(saved):
    code = f"""
import sys
from ddpm_jax.interop.diffusers import unet_from_diffusers
unet_from_diffusers({str(saved)!r})
print(sorted({{"torch", "diffusers", "safetensors.torch"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_small_precision_becomes_float32(tmp_path):
    model = torch_unet(**PLAIN)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model.to(dtype).save_pretrained(tmp_path)
        _, params = unet_from_diffusers(tmp_path)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        expected = model.state_dict()["conv_in.bias"].float().numpy()
        np.testing.assert_array_equal(params["conv_in"]["bias"], expected)


def test_shards_are_read(tmp_path):
    model = torch_unet(**ATTENTION)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert not (tmp_path / "shards" / WEIGHTS).exists()
    whole, shards = (unet_from_diffusers(tmp_path / name) for name in ("whole", "shards"))
    assert whole[0] == shards[0]
    jax.tree.map(np.testing.assert_array_equal, whole[1], shards[1])
    with pytest.raises(ValueError, match=r"index\.json would hide the new weights"):
        unet_to_diffusers(*whole, tmp_path / "shards")

    index = tmp_path / "shards" / f"{WEIGHTS}.index.json"
    text = index.read_text()
    index.write_text(text.replace("diffusion_pytorch_model-00002", "../elsewhere"))
    with pytest.raises(ValueError, match=r"names \.\./elsewhere.*, outside the directory"):
        unet_from_diffusers(tmp_path / "shards")
    index.write_text(text.replace(".safetensors", ".bin"))
    with pytest.raises(ValueError, match="is a pickle"):
        unet_from_diffusers(tmp_path / "shards")
    index.write_text(text.replace("00002-of", "00999-of"))
    with pytest.raises(ValueError, match="has no diffusion_pytorch_model-00999-of"):
        unet_from_diffusers(tmp_path / "shards")


def test_names_of_the_first_releases(tmp_path):
    directory = save(tmp_path)
    _, expected = unet_from_diffusers(directory)

    def rename(weights):
        for name in list(weights):
            old = name
            for theirs, first in (
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ):
                old = old.replace(f".{theirs}.", f".{first}.")
            weights[old] = weights.pop(name)

    change_weights(directory, rename)
    change_config(
        directory,
        down_block_types=["UNetResDownBlock2D", "UNetResAttnDownBlock2D"],
        up_block_types=["UNetResAttnUpBlock2D", "UNetResUpBlock2D"],
    )
    _, params = unet_from_diffusers(directory)
    jax.tree.map(np.testing.assert_array_equal, expected, params)
    change_weights(
        directory,
        lambda w: w.update({"mid_block.attentions.0.to_q.bias": np.zeros(32, np.float32)}),
    )
    with pytest.raises(ValueError, match=r"mid_block\.attentions\.0\.to_q\.bias occurs twice"):
        unet_from_diffusers(directory)


def test_averaged_weights_of_diffusers_load(tmp_path):
    from diffusers.training_utils import EMAModel

    model = torch_unet(**PLAIN)
    ema = EMAModel(model.parameters(), model_cls=diffusers.UNet2DModel, model_config=model.config)
    ema.save_pretrained(tmp_path)  # writes its decay and counters into config.json
    assert "decay" in json.loads((tmp_path / "config.json").read_text())
    unet_from_diffusers(tmp_path)


REFUSED_FIELDS = [
    ("_class_name", "UNet2DConditionModel", '"UNet2DModel"'),
    ("_class_name", ..., '"UNet2DModel"'),
    ("center_input_sample", True, "false"),
    ("time_embedding_type", "fourier", '"positional"'),
    ("time_embedding_type", "learned", '"positional"'),
    ("mid_block_type", None, '"UNetMidBlock2D"'),
    ("mid_block_scale_factor", 1.4142, "1"),
    ("downsample_type", "pool", '"conv" or "resnet"'),
    ("upsample_type", "pool", '"conv" or "resnet"'),
    ("down_block_types", ["ResnetDownsampleBlock2D", "AttnDownBlock2D"], "one way of resampling"),
    ("downsample_padding", 2, "0 or 1"),
    ("act_fn", "gelu", '"silu" or "swish"'),
    ("class_embed_type", "timestep", "null"),
    ("num_class_embeds", 0, "null or a whole number"),
    ("resnet_time_scale_shift", "ada_group", '"default" or "scale_shift"'),
    ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"], "a list of DownBlock2D or Attn"),
    ("down_block_types", ["AttnDownBlock2D"], "one for each of the 2 block_out_channels"),
    ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"], r'\["AttnUpBlock2D", "UpBlock2D"\], the mi'),
    ("block_out_channels", [], "a list of whole numbers"),
    ("layers_per_block", [1, 2], "a whole number"),
    ("norm_num_groups", 12, "divisors of 16"),
    ("norm_num_groups", None, "a whole number"),
    ("attn_norm_num_groups", 12, "divisors of 32"),
    ("attention_head_dim", 12, "null or divisors of 32"),
    ("norm_eps", 0, "a number above 0"),
    ("dropout", 1.0, r"a number in \[0, 1\)"),
    ("freq_shift", "1", "a number"),
    ("flip_sin_to_cos", "yes", "false or true"),
    ("add_attention", None, "false or true"),
    ("sample_size", [32], "null, a whole number or two"),
    ("encoder_hid_dim", 8, "the fields of UNet2DModel"),
    ("_auto_map", "x.py", "the fields of UNet2DModel"),
    ("auto_map", {"UNet": "x.py"}, "the fields of UNet2DModel"),
]


@pytest.mark.parametrize(("name", "value", "supported"), REFUSED_FIELDS)
def test_refused_fields(name, value, supported, saved, tmp_path):
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    change_config(tmp_path, **{name: value})
    shown = "null" if value is ... else json.dumps(value)
    with pytest.raises(
        ValueError, match=f"^config.json: {name} is .*; supported: {supported}"
    ) as e:
        unet_from_diffusers(tmp_path)
    assert f"{name} is {shown};" in str(e.value)
    assert "\n" not in str(e.value)


def test_files_that_are_missing_or_broken(saved, tmp_path):
    with pytest.raises(ValueError, match=r"no directory .*nothing is downloaded"):
        unet_from_diffusers("google/ddpm-cifar10-32")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        unet_from_diffusers(tmp_path)
    with pytest.raises(ValueError, match="is a file; give the directory"):
        unet_from_diffusers(saved / WEIGHTS)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds a pipeline; give its network: .*unet"):
        unet_from_diffusers(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        unet_from_diffusers(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no JSON object"):
        unet_from_diffusers(tmp_path)
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"has no diffusion_pytorch_model.safetensors; it holds c"):
        unet_from_diffusers(tmp_path)
    whole = (saved / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        unet_from_diffusers(tmp_path)
    header = json.dumps({"conv_in.bias": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}})
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    with pytest.raises(ValueError, match=r"tensor conv_in.bias is I64; supported: F64, F32"):
        unet_from_diffusers(tmp_path)


def test_pickles_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch_unet(**PLAIN).save_pretrained(tmp_path, safe_serialization=False)
    pickle = tmp_path / "diffusion_pytorch_model.bin"
    torch.save(Trap(), pickle)
    remedy = r"is a pickle, which can execute code .* unet.save_pretrained\(.*safe_serialization"
    for path in (tmp_path, pickle, tmp_path / "model.ckpt", tmp_path / "model.pt"):
        with pytest.raises(ValueError, match=remedy):
            unet_from_diffusers(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv_in.bias"), r"1 missing \(conv_in\.bias \(16,\)\)"),
        (
            lambda w: w.update({"conv_in.weight": np.zeros((16, 1, 3, 3), np.float32)}),
            r"1 of another shape \(conv_in\.weight \(16, 1, 3, 3\) for \(16, 3, 3, 3\)\)",
        ),
        (
            lambda w: w.update({"conv_in.lora": np.zeros((2, 2), np.float32)}),
            r"1 left over \(conv_in\.lora \(2, 2\)\)",
        ),
    ],
    ids=["missing", "shape", "left_over"],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    directory = save(tmp_path)
    change_weights(directory, change)
    with pytest.raises(ValueError, match=message):
        unet_from_diffusers(directory)


def test_exports_that_are_refused(saved, tmp_path):
    unet, params = unet_from_diffusers(saved)
    with pytest.raises(ValueError, match=r"no conv_in/kernel .* \['params'\]"):
        unet_to_diffusers(unet, {"params": params}, tmp_path)
    without = {name: value for name, value in params.items() if name != "norm_out"}
    with pytest.raises(ValueError, match=r"norm_out/bias has nothing; the network needs \(16,\)"):
        unet_to_diffusers(unet, without, tmp_path)
    with pytest.raises(ValueError, match=r"extra/a has \(2,\); the network needs nothing"):
        unet_to_diffusers(unet, {**params, "extra": {"a": np.zeros(2)}}, tmp_path)
    other = {**params, "norm_out": {"bias": np.zeros(8), "scale": np.zeros(16)}}
    with pytest.raises(ValueError, match=r"norm_out/bias has \(8,\); the network needs \(16,\)"):
        unet_to_diffusers(unet, other, tmp_path)
    with pytest.raises(ValueError, match="mid_num_groups=0"):
        unet_to_diffusers(unet.clone(mid_num_groups=0), params, tmp_path)
    with pytest.raises(ValueError, match="sample_size cannot be 0"):
        unet_to_diffusers(unet, params, tmp_path, sample_size=0)
    with pytest.raises(ValueError, match="is a file; give a directory"):
        unet_to_diffusers(unet, params, saved / WEIGHTS)
    assert list(tmp_path.iterdir()) == []

    # A run's own config.json must survive a mistaken export into its workdir.
    (tmp_path / "config.json").write_text('{"seed": 0}')
    with pytest.raises(ValueError, match=r"config\.json is not diffusers' .*another directory"):
        unet_to_diffusers(unet, params, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == '{"seed": 0}'


def test_an_export_replaces_an_earlier_one(saved, tmp_path):
    unet, params = unet_from_diffusers(saved)
    unet_to_diffusers(unet, params, tmp_path)
    doubled = jax.tree.map(lambda p: 2 * p, params)
    unet_to_diffusers(unet, doubled, tmp_path)
    _, read = unet_from_diffusers(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, doubled, read)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", WEIGHTS]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.keys() == unet2d_config.DEFAULTS.keys() | {"_class_name", "_diffusers_version"}
