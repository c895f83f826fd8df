"""Parity with open_clip's CLIP, both ways, on perturbed random weights."""

import importlib.util
import json
import sys
import types

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.numpy  # noqa: E402
import safetensors.torch  # noqa: E402

from ddpm_jax.interop import clip as interop  # noqa: E402

TOLERANCE = 2e-5  # of the output's standard deviation
TEXT = {"context_length": 9, "vocab_size": 62, "width": 24, "heads": 3, "layers": 2}
RESNET = {"image_size": 64, "layers": [2, 1, 1, 2], "width": 8, "head_width": 32}
RESNET["patch_size"] = None
VIT = {"image_size": 20, "layers": 2, "width": 24, "head_width": 6, "patch_size": 6}
CASES = {
    "resnet": {"embed_dim": 12, "vision_cfg": RESNET, "text_cfg": TEXT},
    "vit": {
        "embed_dim": 7,
        "quick_gelu": True,
        "vision_cfg": VIT | {"mlp_ratio": 2.3},
        "text_cfg": TEXT | {"mlp_ratio": 3.0},
    },
    "vit, tanh, other epsilon, both ways": {
        "embed_dim": 7,
        "vision_cfg": VIT | {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-4}},
        "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "eos", "eos_id": 61},
    },
}


@pytest.fixture(scope="module")
def open_clip_model():
    """open_clip.model alone: its package imports torchvision for pictures, and ftfy for words."""
    pytest.importorskip("transformers")  # before anything that looks like torchvision is there
    package = importlib.util.find_spec("open_clip")
    if package is None:
        pytest.skip("open_clip_torch is not installed")
    stubs = {
        name: types.ModuleType(name)
        for name in ("open_clip", "torchvision", "torchvision.ops", "torchvision.ops.misc")
    }
    stubs["open_clip"].__path__ = list(package.submodule_search_locations)
    stubs["torchvision.ops.misc"].FrozenBatchNorm2d = torch.nn.BatchNorm2d
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stubs.items():
            patch.setitem(sys.modules, name, module)
        yield importlib.import_module("open_clip.model")
    for name in [name for name in sys.modules if name.startswith("open_clip.")]:
        del sys.modules[name]


def theirs(module, config):
    """Attention that is far from even, no bias or norm at its start, statistics of a pass."""
    torch.manual_seed(0)
    model = module.CLIP(**config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            if name.endswith("bn3.weight"):
                parameter += 1  # or a block would be all but its shortcut
            if name.endswith("in_proj_weight"):
                parameter[: 2 * len(parameter) // 3] *= 3
            if "q_proj.w" in name or "k_proj.w" in name:
                parameter *= 3
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.1 * torch.randn(buffer.shape, generator=generator)
            if name.endswith("running_var"):
                buffer *= 0.5 + torch.rand(buffer.shape, generator=generator)
    return model


def worst(ours, expected):
    expected = expected.detach().numpy()
    assert np.shape(ours) == expected.shape
    return np.abs(np.asarray(ours) - expected).max() / expected.std()


def check(model, clip, params, size):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, size, size, 3)).astype(np.float32)
    tokens = rng.integers(1, 61, (5, 9))
    tokens[np.arange(5), [8, 5, 3, 4, 1]] = 61
    with torch.no_grad():
        image_embeds, text_embeds, scale = model(
            torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(tokens)
        )
    ours = jax.jit(lambda p: clip.apply({"params": p}, images, tokens))(params)
    assert worst(ours.image_embeds, image_embeds) < TOLERANCE
    assert worst(ours.text_embeds, text_embeds) < TOLERANCE
    logits = ours.logit_scale * ours.image_embeds @ ours.text_embeds.T
    assert worst(logits, scale * image_embeds @ text_embeds.T) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_embeddings_and_logits_agree_both_ways(open_clip_model, name, tmp_path):
    config = CASES[name]
    model = theirs(open_clip_model, config)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), file)
    clip, params = interop.clip_from_open_clip(file, config)
    check(model, clip, params, config["vision_cfg"]["image_size"])
    interop.clip_to_open_clip(clip, params, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "open_clip_config.json").read_text())["model_cfg"]
    back = open_clip_model.CLIP(**written)
    weights = tmp_path / "ours" / "open_clip_model.safetensors"
    back.load_state_dict(safetensors.torch.load_file(weights))  # strict
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back.state_dict()[key], value, err_msg=key)
    again, params_again = interop.clip_from_open_clip(weights)  # by the config beside it
    assert again == clip
    jax.tree.map(np.testing.assert_array_equal, params, params_again)


def test_without_a_config_shapes_and_open_clips_defaults_say_what_it_is(open_clip_model, tmp_path):
    text = TEXT | {"width": 64, "heads": 1}
    for vision in (
        RESNET | {"head_width": 64},
        {"image_size": 18, "layers": 1, "width": 128, "patch_size": 6},
    ):
        config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
        file = tmp_path / "weights.safetensors"
        model = theirs(open_clip_model, config)
        # A CustomTextCLIP's names: its text tower stands by itself.
        tower = ("visual.", "logit_scale")
        weights = {
            k if k.startswith(tower) else f"text.{k}": v for k, v in model.state_dict().items()
        }
        safetensors.torch.save_file(weights, file)
        assert interop.clip_from_open_clip(file)[0] == interop.clip_from_open_clip(file, config)[0]
    clip, _ = interop.clip_from_open_clip(file, quick_gelu=True)
    assert clip.image.activation == clip.text.activation == "quick_gelu"


@pytest.fixture(scope="module")
def weights(open_clip_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("open_clip") / "weights.safetensors"
    safetensors.torch.save_file(theirs(open_clip_model, CASES["resnet"]).state_dict(), file)
    return file


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "embed_dim", 0),
        (None, "init_logit_bias", -10),
        (None, "text_cfg", 3),
        (None, "novelty", 1),
        ("vision_cfg", "layers", [1, 2, 3]),
        ("vision_cfg", "image_size", "64"),
        ("vision_cfg", "timm_model_name", "resnet50"),
        ("vision_cfg", "head_width", 3),
        ("text_cfg", "heads", 5),
        ("text_cfg", "pool_type", "none"),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "mlp_ratio", "4"),
        ("text_cfg", "norm_kwargs", {"bias": False}),
    ],
)
def test_a_config_of_another_network_is_refused(weights, part, field, value):
    config = json.loads(json.dumps(CASES["resnet"]))
    (config if part is None else config[part])[field] = value
    with pytest.raises(ValueError, match=rf"open_clip's config: [\w.]*{field} is ") as caught:
        interop.clip_from_open_clip(weights, config)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_are_refused(weights, tmp_path):
    whole = safetensors.numpy.load_file(weights)
    file = tmp_path / "weights.safetensors"
    name = "visual.layer1.1.bn2.running_var"
    for changed, message in [
        ({k: v for k, v in whole.items() if k != name}, rf"1 missing \({name} "),
        (whole | {name: np.zeros(3, np.float32)}, rf"another shape \({name} \(3,\) "),
        (whole | {"visual.ls_1.gamma": np.zeros(3, np.float32)}, r"over \(visual.ls_1.gamma "),
        ({k: v for k, v in whole.items() if k != "text_projection"}, "text_projection is missing"),
    ]:
        safetensors.numpy.save_file(changed, file)
        with pytest.raises(ValueError, match=message):
            interop.clip_from_open_clip(file)
    with pytest.raises(ValueError, match="is a pickle"):
        interop.clip_from_open_clip("open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no file none\.safetensors"):
        interop.clip_from_open_clip("none.safetensors")
    clip, params = interop.clip_from_open_clip(weights, CASES["resnet"])
    with pytest.raises(ValueError, match="batch norms, not 'group'"):
        interop.clip_to_open_clip(
            clip.clone(image=clip.image.clone(norm="group")), params, tmp_path
        )
    with pytest.raises(ValueError, match="no image tower of ModifiedResNet"):
        interop.clip_to_transformers(clip, params | {"image": {}}, tmp_path / "none")
