"""Parity with transformers' CLIP, both ways, on perturbed random weights."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import safetensors.numpy  # noqa: E402
import safetensors.torch  # noqa: E402

from ddpm_jax.interop import clip as interop  # noqa: E402
from ddpm_jax.models import Clip  # noqa: E402
from ddpm_jax.models.text import BagOfWords  # noqa: E402

TOLERANCE = 2e-5  # of the output's standard deviation
EOS = 61
TEXT = {
    "vocab_size": 62,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "eos_token_id": EOS,
    "bos_token_id": 60,
    "pad_token_id": 1,
}
VISION = {
    "hidden_size": 20,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 23,
    "patch_size": 5,
}
CASES = {
    "quick_gelu, first eos": ({}, {}, 16),
    "gelu, largest, other epsilon": (
        {"eos_token_id": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
        {"hidden_act": "gelu", "layer_norm_eps": 1e-6},
        7,
    ),
    "tanh, one channel, one layer": (
        {"hidden_act": "gelu_pytorch_tanh", "num_hidden_layers": 1},
        {"num_channels": 1, "image_size": 16, "patch_size": 8, "num_hidden_layers": 3},
        9,
    ),
}


def perturbed(model):
    """Attention that is far from even, and no bias or norm at its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            if "q_proj" in name or "k_proj" in name:
                parameter *= 3
    return model.eval()


def theirs(text=(), vision=(), projection_dim=16):
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**TEXT, **dict(text), "projection_dim": projection_dim},
        vision_config={**VISION, **dict(vision), "projection_dim": projection_dim},
        projection_dim=projection_dim,
    )
    return perturbed(transformers.CLIPModel(config))


def inputs(size, channels, text=()):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, size, size, channels)).astype(np.float32)
    tokens = rng.integers(3, 60, (5, 9))
    for row, end in enumerate([8, 5, 3, 4, 1]):
        # Behind the end another one, as in padding with the end of text itself.
        tokens[row, end:] = EOS
    return images, tokens


def worst(ours, expected):
    """The largest difference over the expected standard deviation."""
    expected = expected.detach().numpy()
    assert np.shape(ours) == expected.shape
    return np.abs(np.asarray(ours) - expected).max() / expected.std()


def run(model, images, tokens):
    with torch.no_grad():
        return model(
            pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
            input_ids=torch.from_numpy(tokens),
        )


def check_clip(model, clip, params):
    vision = model.config.vision_config
    images, tokens = inputs(vision.image_size, vision.num_channels)
    expected = run(model, images, tokens)
    apply = jax.jit(lambda p: clip.apply({"params": p}, images, tokens))
    image_embeds, text_embeds, scale = apply(params)
    assert worst(image_embeds, expected.image_embeds) < TOLERANCE
    assert worst(text_embeds, expected.text_embeds) < TOLERANCE
    logits = scale * image_embeds @ text_embeds.T
    assert worst(logits, expected.logits_per_image) < TOLERANCE
    np.testing.assert_allclose(scale, model.logit_scale.exp().item(), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_embeddings_and_logits_agree_both_ways(name, tmp_path):
    model = theirs(*CASES[name])
    model.save_pretrained(tmp_path / "theirs")
    clip, params = interop.clip_from_transformers(tmp_path / "theirs")
    check_clip(model, clip, params)
    interop.clip_to_transformers(clip, params, tmp_path / "ours")
    interop.clip_to_transformers(clip, params, tmp_path / "ours")  # an export may be replaced
    back, info = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[key], value, err_msg=key)
    again, params_again = interop.clip_from_transformers(tmp_path / "ours")
    assert again == clip
    jax.tree.map(np.testing.assert_array_equal, params, params_again)
    vision = model.config.vision_config
    images, tokens = inputs(vision.image_size, vision.num_channels)
    assert (
        worst(run(back, images, tokens).text_embeds.numpy(), run(model, images, tokens).text_embeds)
        == 0
    )


@pytest.mark.parametrize("projected", [False, True])
def test_text_encoders_agree_in_every_state_both_ways(projected, tmp_path):
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    torch.manual_seed(0)
    config = {**TEXT, "hidden_act": "gelu", "eos_token_id": 2, "projection_dim": 13}
    model = perturbed(kind(transformers.CLIPTextConfig(**config)))
    model.save_pretrained(tmp_path / "theirs")
    text, params = interop.text_encoder_from_transformers(tmp_path / "theirs")
    _, tokens = inputs(1, 1)
    found = jax.jit(lambda p: text.apply({"params": p}, tokens))(params)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens), output_hidden_states=True)
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert worst(one, other) < TOLERANCE
    assert worst(found.last, expected.last_hidden_state) < TOLERANCE
    if projected:
        assert worst(found.embedding, expected.text_embeds) < TOLERANCE
    else:
        assert worst(found.pooled, expected.pooler_output) < TOLERANCE
    interop.text_encoder_to_transformers(text, params, tmp_path / "ours")
    back, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[key], value, err_msg=key)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_names_of_either_release_are_read(prefix, tmp_path):
    """Release 5 dropped the prefix; release 4 kept counted positions beside the weights."""
    torch.manual_seed(0)
    model = perturbed(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)))
    model.save_pretrained(tmp_path)
    bare = {k.removeprefix("text_model."): v for k, v in model.state_dict().items()}
    weights = {prefix + name: value.contiguous() for name, value in bare.items()}
    weights[f"{prefix}embeddings.position_ids"] = torch.arange(11)[None]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    change(tmp_path, architectures=["CLIPTextModel"], dropout=0.0, torch_dtype="float32", top_k=50)
    _, params = interop.text_encoder_from_transformers(tmp_path)
    np.testing.assert_array_equal(
        params["token_embedding"]["embedding"], bare["embeddings.token_embedding.weight"]
    )


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("clip")
    theirs().save_pretrained(directory)
    return directory


@pytest.fixture
def saved(saved_once, tmp_path):
    for path in saved_once.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def change(directory, part=None, **fields):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    (config if part is None else config[part]).update(fields)
    path.write_text(json.dumps(config))


def test_of_two_configs_of_a_tower_the_older_name_counts(saved):
    change(saved, text_config_dict={**TEXT, "hidden_act": "gelu"})
    assert interop.clip_from_transformers(saved)[0].text.activation == "gelu"


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "model_type", "siglip"),
        (None, "novelty", 1),
        (None, "projection_dim", "16"),
        (None, "vision_config", [1]),
        ("text_config", "hidden_act", "relu"),
        ("text_config", "eos_token_id", [2, 3]),
        ("text_config", "num_attention_heads", 5),
        ("text_config", "novelty", 1),
        ("text_config", "pruned_heads", {"0": [1]}),
        ("vision_config", "attention_dropout", 0.1),
        ("vision_config", "image_size", [23, 23]),
        ("vision_config", "layer_norm_eps", 0),
    ],
)
def test_a_config_of_another_network_is_refused(saved, part, field, value):
    change(saved, part, **{field: value})
    with pytest.raises(ValueError, match=rf"config.json: [\w.]*{field} is ") as caught:
        interop.clip_from_transformers(saved)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused(saved):
    path = saved / "model.safetensors"
    whole = safetensors.numpy.load_file(path)
    name = "text_model.final_layer_norm.bias"
    for weights, message in [
        ({k: v for k, v in whole.items() if k != name}, rf"1 missing \({name} \(24,\)\)"),
        (whole | {name: np.zeros(3, np.float32)}, rf"1 of another shape \({name} \(3,\) for"),
        (whole | {"more": np.zeros(3, np.float32)}, r"1 left over \(more \(3,\)\)"),
    ]:
        safetensors.numpy.save_file(weights, path)
        with pytest.raises(ValueError, match=message):
            interop.clip_from_transformers(saved)
    path.rename(saved / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        interop.clip_from_transformers(saved)
    with pytest.raises(ValueError, match=f"no directory {saved / 'none'}"):
        interop.clip_from_transformers(saved / "none")
    with pytest.raises(ValueError, match='model_type is "clip"; supported: "clip_text_model"'):
        interop.text_encoder_from_transformers(saved)


def test_what_cannot_be_written_is_refused(saved, tmp_path):
    clip, params = interop.clip_from_transformers(saved)
    target = tmp_path / "target"
    for changed, message in [
        (clip.clone(text=clip.text.clone(causal=False)), "causal=False"),
        (clip.clone(text=clip.text.clone(pooling="mean")), "pooling='mean'"),
        (clip.clone(text=clip.text.clone(eos=2)), "eos=2 means the largest number"),
        (clip.clone(text=BagOfWords(62)), "no text tower of BagOfWords"),
        (clip.clone(image=clip.image.clone(embed_dim=3)), "embed_dim is 3 of images and 16"),
        (clip.clone(text=clip.text.clone(depth=1)), r"params: text/encoder/block_1/\w+/\w+ has"),
    ]:
        assert isinstance(changed, Clip)
        with pytest.raises(ValueError, match=message):
            interop.clip_to_transformers(changed, params, target)
    with pytest.raises(ValueError, match="params has no image/patch_embedding/kernel"):
        interop.clip_to_transformers(clip, {"a": 1}, target)
    assert not target.exists()
    change(saved, model_type="bert")
    with pytest.raises(ValueError, match="is not of a clip of transformers"):
        interop.clip_to_transformers(clip, params, saved)
