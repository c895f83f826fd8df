"""Text encoders and tokenizers of pipelines: parity with transformers and with the pipelines."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

import safetensors.torch  # noqa: E402
from tokenizer_folders import small_merges, special_map, write_old  # noqa: E402

from ddpm_jax.errors import UserError  # noqa: E402
from ddpm_jax.interop import clip_config, pipeline_tokenizers, tensor_rows  # noqa: E402
from ddpm_jax.interop import text_encoders as interop  # noqa: E402

TOLERANCE = 2e-5  # of the output's standard deviation
TEXTS = ["a photo of the 2 cats", "THE hats!! they're there", "", "cat " * 100]
SMALL = {"intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 4}
# As the published ones differ from each other, but small.
SD1 = {**SMALL, "hidden_size": 32, "hidden_act": "quick_gelu", "eos_token_id": 2, "pad_token_id": 1}
SD2 = {**SMALL, "hidden_size": 32, "hidden_act": "gelu", "num_hidden_layers": 3, "eos_token_id": 2}
XL_1 = {**SD1, "num_hidden_layers": 3}
XL_2 = {
    **SMALL,
    "hidden_size": 48,
    "hidden_act": "gelu",
    "num_hidden_layers": 5,
    "projection_dim": 29,
}
PIPELINES = {
    "sd1": {"text_encoder": SD1},
    "sd2": {"text_encoder": SD2},
    "xl": {"text_encoder": XL_1, "text_encoder_2": XL_2},
    "xl, first end": {"text_encoder": XL_1, "text_encoder_2": {**XL_2, "eos_token_id": None}},
    "xl, refiner": {"text_encoder_2": {**XL_2, "eos_token_id": 2}},
}


def perturbed(model, seed):
    """Attention that is far from even, and no bias or norm at its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            if "q_proj" in name or "k_proj" in name:
                parameter *= 3
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By name: the folder of a pipeline's texts, its encoders and tokenizers of transformers."""
    found = {}
    for name, towers in PIPELINES.items():
        root = tmp_path_factory.mktemp("pipeline")
        peers = {}
        for seed, (part, fields) in enumerate(towers.items()):
            second = part == "text_encoder_2"
            tokenizer = part.replace("text_encoder", "tokenizer")
            padding = {"special_map": special_map("!")} if second or name == "sd2" else {}
            write_old(root / tokenizer, small_merges(), **padding)
            peers[tokenizer] = transformers.CLIPTokenizer.from_pretrained(root / tokenizer)
            if second:  # of both layouts
                (root / tokenizer).rename(root / "old")
                peers[tokenizer].save_pretrained(root / tokenizer)
            fields = {"vocab_size": len(peers[tokenizer]), **fields}
            if fields.get("eos_token_id", 0) is None:
                fields["eos_token_id"] = peers[tokenizer].eos_token_id
            torch.manual_seed(seed)
            kinds = (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection)
            model = kinds[second](transformers.CLIPTextConfig(**fields))
            peers[part] = perturbed(model, seed)
            peers[part].save_pretrained(root / part)
        found[name] = root, peers
    return found


def rows(root):
    """Rows of the texts for each encoder."""
    tokenizers = pipeline_tokenizers.read(root)
    return {name.replace("tokenizer", "text_encoder"): t(TEXTS) for name, t in tokenizers.items()}


def worst(ours, expected):
    """The largest difference over the expected standard deviation."""
    expected = expected.detach().numpy()
    assert np.shape(ours) == expected.shape
    return np.abs(np.asarray(ours) - expected).max() / expected.std()


def their_pipeline(peers):
    """A pipeline of no more than texts."""
    if "text_encoder_2" not in peers:
        return diffusers.StableDiffusionPipeline(
            **{"vae": None, "unet": None, "scheduler": None},
            **{"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
            **peers,
        )
    absent = {"vae": None, "unet": None, "scheduler": None}
    own = {"text_encoder": None, "tokenizer": None, **peers}
    return diffusers.StableDiffusionXLPipeline(**absent, **own, add_watermarker=False)


def expected(peers, tokens, clip_skip):
    """What the pipeline's U-Net reads."""
    if "text_encoder_2" not in peers and clip_skip is not None:
        # diffusers' own fails with transformers 5: as it says, the states so many blocks before the
        # end, behind the last norm.
        model = peers["text_encoder"]
        rows = torch.from_numpy(tokens["text_encoder"]).long()
        states = model(rows, output_hidden_states=True).hidden_states
        return model.final_layer_norm(states[-(clip_skip + 1)]), None
    pipeline = their_pipeline(peers)
    asked = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    found = pipeline.encode_prompt(TEXTS, clip_skip=clip_skip, **asked)
    return (found[0], found[2]) if "text_encoder_2" in peers else (found[0], None)


@pytest.mark.parametrize("clip_skip", [None, 0, 1, 2])
@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.wide(4)
def test_a_unet_reads_what_the_pipelines_makes_of_texts(name, clip_skip, made):
    root, peers = made[name]
    encoders, tokens = interop.read(root), rows(root)
    found = jax.jit(lambda p, t: interop.embed(encoders.networks, p, t, clip_skip))(
        encoders.params, tokens
    )
    with torch.no_grad():
        states, pooled = expected(peers, tokens, clip_skip)
    assert worst(found.states, states) < TOLERANCE
    assert (found.pooled is None) == (pooled is None)
    if pooled is not None:
        assert worst(found.pooled, pooled) < TOLERANCE


@pytest.mark.parametrize("name", PIPELINES)
def test_every_state_is_that_of_transformers_both_ways(name, made, tmp_path):
    root, peers = made[name]
    encoders, tokens = interop.read(root), rows(root)
    interop.write(encoders, tmp_path)
    interop.write(encoders, tmp_path)  # an export may be replaced
    for part, network in encoders.networks.items():
        found = network.apply({"params": encoders.params[part]}, tokens[part])
        ids = torch.from_numpy(tokens[part]).long()
        with torch.no_grad():
            theirs = peers[part](ids, output_hidden_states=True)
        assert len(found.hidden_states) == network.depth + 1
        for one, other in zip(found.hidden_states, theirs.hidden_states, strict=True):
            assert worst(one, other) < TOLERANCE
        assert worst(found.last, theirs.last_hidden_state) < TOLERANCE
        if network.embed_dim is None:
            assert worst(found.pooled, theirs.pooler_output) < TOLERANCE
        else:
            assert worst(found.embedding, theirs.text_embeds) < TOLERANCE
        kind = type(peers[part])
        back, info = kind.from_pretrained(tmp_path / part, output_loading_info=True)
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        for key, value in peers[part].state_dict().items():
            np.testing.assert_array_equal(back.state_dict()[key], value, err_msg=key)
        for field in ("hidden_act", "eos_token_id", "layer_norm_eps", "num_hidden_layers"):
            assert getattr(back.config, field) == getattr(peers[part].config, field)


@pytest.mark.parametrize("name", ["sd1", "xl"])
def test_names_of_transformers_4_and_half_precision_are_read(name, made, tmp_path):
    root, peers = made[name]
    for part in PIPELINES[name]:
        peers[part].save_pretrained(tmp_path / part)
        weights = {}
        for key, value in peers[part].state_dict().items():
            whole = key if key.startswith("text_") else f"text_model.{key}"
            weights[whole] = value.half().contiguous()
        weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        safetensors.torch.save_file(weights, tmp_path / part / "model.safetensors")
    encoders, before = interop.read(tmp_path), interop.read(root)
    assert encoders.networks == before.networks
    half = jax.tree.map(lambda x: np.float32(np.float16(x)), before.params)
    jax.tree.map(np.testing.assert_array_equal, encoders.params, half)


# As published (the fields that shape the network), with the number of parameters.
PUBLISHED = {
    "Stable Diffusion 1.5": (
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "eos_token_id": 2,
        },
        None,
        123_060_480,
    ),
    "the same, projected": (
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
        },
        768,
        123_650_304,
    ),
    "Stable Diffusion 2.1": (
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "hidden_act": "gelu",
        },
        None,
        340_387_840,
    ),
    "Stable Diffusion XL, second": (
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "hidden_act": "gelu",
        },
        1280,
        694_659_840,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_ones_have_as_many_parameters(name):
    fields, embed_dim, count = PUBLISHED[name]
    network = clip_config.text_of(fields, embed_dim)
    shapes = tensor_rows.shapes_of(network, jnp.zeros((1, 1), jnp.int32))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count


@pytest.mark.parametrize("name", PIPELINES)
def test_rows_are_those_of_transformers(name, made):
    root, peers = made[name]
    for part, tokenizer in pipeline_tokenizers.read(root).items():
        peer = peers[part]
        assert tokenizer.context == peer.model_max_length == 77
        asked = {"padding": "max_length", "max_length": 77, "truncation": True}
        np.testing.assert_array_equal(tokenizer(TEXTS), peer(TEXTS, **asked)["input_ids"])
        assert tokenizer(TEXTS)[3, -1] == peer.eos_token_id  # cut, but for the end
        # Stable Diffusion 1 pads with the end, the others with "!".
        pads_with = 0 if name == "sd2" or part == "tokenizer_2" else peer.eos_token_id
        assert tokenizer([""])[0, -1] == pads_with


def test_the_length_of_rows_is_stated_or_that_of_clip(tmp_path):
    folder = write_old(tmp_path / "tokenizer", small_merges(), model_max_length=12)
    assert pipeline_tokenizers.read(tmp_path)["tokenizer"](["a cat"]).shape == (1, 12)
    for length in (10**30, None):
        write_old(folder, small_merges(), model_max_length=length)
        assert pipeline_tokenizers.read(tmp_path)["tokenizer"].context == 77
    assert pipeline_tokenizers.read(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokenizer_class", "T5Tokenizer"),
        ("padding_side", "left"),
        ("truncation_side", "left"),
        ("do_lower_case", False),
        ("model_max_length", "77"),
        ("model_max_length", 1),
    ],
)
def test_a_tokenizer_of_another_sort_is_refused(field, value, tmp_path):
    write_old(tmp_path / "tokenizer", small_merges(), **{field: value})
    words = f"tokenizer/tokenizer_config.json: {field} is {json.dumps(value)}; supported: "
    with pytest.raises(ValueError, match=words):
        pipeline_tokenizers.read(tmp_path)


def test_a_folder_without_its_files_is_refused(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(UserError, match=r"no tokenizer in .*vocab.json with merges.txt"):
        pipeline_tokenizers.read(tmp_path)
    with pytest.raises(ValueError, match="has neither text_encoder nor text_encoder_2"):
        interop.read(tmp_path)


def test_encoders_that_no_pipeline_has_are_refused(made, tmp_path):
    _, peers = made["xl"]
    peers["text_encoder_2"].save_pretrained(tmp_path / "alone" / "text_encoder")
    with pytest.raises(ValueError, match="text_encoder is a CLIPTextModelWithProjection"):
        interop.read(tmp_path / "alone")
    peers["text_encoder"].save_pretrained(tmp_path / "bare" / "text_encoder_2")
    with pytest.raises(ValueError, match="text_encoder_2 has no projection; supported"):
        interop.read(tmp_path / "bare")
    config = tmp_path / "bare" / "text_encoder_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "relu"}))
    with pytest.raises(ValueError, match=r'text_encoder_2: config.json: hidden_act is "relu"'):
        interop.read(tmp_path / "bare")


@pytest.mark.parametrize(("name", "most"), [("sd1", 4), ("xl", 2)])
def test_a_clip_skip_beyond_the_encoder_is_refused(name, most, made):
    root, _ = made[name]
    encoders, tokens = interop.read(root), rows(root)
    for clip_skip in (-1, most + 1):
        with pytest.raises(ValueError, match=f"need 0 <= clip_skip <= {most}, got {clip_skip=}"):
            interop.embed(encoders.networks, encoders.params, tokens, clip_skip)
    with pytest.raises(ValueError, match="need tokens for text_encoder"):
        interop.embed(encoders.networks, encoders.params, {"tokenizer": tokens["text_encoder"]})
