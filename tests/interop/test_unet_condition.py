"""Parity with diffusers' UNet2DConditionModel and ControlNetModel, on perturbed random weights."""

# Over 300 lines: one process imports diffusers for both classes, which takes 11 seconds.

import inspect
import json
import math
import re

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from ddpm_jax.interop import (  # noqa: E402
    controlnet_config,
    latent_trunk,
    unet_condition_config,
)
from ddpm_jax.interop.controlnet import (  # noqa: E402
    controlnet_from_diffusers,
    controlnet_to_diffusers,
)
from ddpm_jax.interop.unet_condition import (  # noqa: E402
    unet_condition_from_diffusers,
    unet_condition_to_diffusers,
)
from ddpm_jax.models import spatial_transformer  # noqa: E402
from ddpm_jax.models.controlnet import ControlNet  # noqa: E402

# Of the output's standard deviation; the floor of float32 is 5e-6.
TOLERANCE = 2e-5
TIMES = np.array([981, 21])
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
SIZES = ((16, 16), (12, 20), (13, 9))

SD1 = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "down_block_types": (CROSS, CROSS, PLAIN),
    "up_block_types": (PLAIN_UP, CROSS_UP, CROSS_UP),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
SD2 = {**SD1, "attention_head_dim": (2, 4, 8), "use_linear_projection": True}
SDXL = {
    **SD1,
    "block_out_channels": (32, 64),
    "down_block_types": (PLAIN, CROSS),
    "up_block_types": (CROSS_UP, PLAIN_UP),
    "cross_attention_dim": 64,
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}
FAMILIES = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL, "inpainting": {**SD1, "in_channels": 9}}
SMALL = {
    **SD1,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": (CROSS, PLAIN),
    "up_block_types": (PLAIN_UP, CROSS_UP),
    "attention_head_dim": 2,
}
# (fields, height and width of the latents)
VARIANTS = {
    "classes": ({**SMALL, "num_class_embeds": 5}, (8, 8)),
    "noise_level": ({**SMALL, "class_embed_type": "timestep"}, (8, 8)),
    "vector": (
        {
            **SMALL,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 24,
        },
        (8, 8),
    ),
    "vector_of_one_layer": (
        {
            **SMALL,
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 24,
        },
        (8, 8),
    ),
    "summed_vector": ({**SMALL, "class_embed_type": "identity"}, (8, 8)),
    "upscaler": (
        {
            **SMALL,
            "in_channels": 7,
            "only_cross_attention": (True, False),
            "num_class_embeds": 1000,
        },
        (8, 8),
    ),
    "guidance_embedding": ({**SMALL, "time_cond_proj_dim": 12}, (8, 8)),
    "projected_tokens": ({**SMALL, "encoder_hid_dim": 20}, (8, 8)),
    "odd_heads": ({**SMALL, "attention_head_dim": (3, 5), "use_linear_projection": True}, (8, 8)),
    "odd_heads_and_convolutions": ({**SMALL, "attention_head_dim": (3, 5)}, (8, 8)),
    # Distilled networks leave out bottoms and transformers.
    "no_bottom": ({**SMALL, "mid_block_type": None}, (8, 8)),
    "plain_bottom_and_depths_of_each": (
        {
            **SMALL,
            "mid_block_type": "UNetMidBlock2D",
            "layers_per_block": (1, 2),
            "down_block_types": (PLAIN, CROSS),
            "up_block_types": (CROSS_UP, CROSS_UP),
            "transformer_layers_per_block": [1, [2, 1]],
            "reverse_transformer_layers_per_block": [[1, 2, 0], 1],
        },
        (8, 12),
    ),
    "depths_that_differ_by_level": (
        {**SMALL, "transformer_layers_per_block": [2, [1, 3]]}
        | {"reverse_transformer_layers_per_block": [1, [1, 2]]},
        (8, 8),
    ),
    "no_text_at_all": (
        {
            **SMALL,
            "down_block_types": (PLAIN, PLAIN),
            "up_block_types": (PLAIN_UP, PLAIN_UP),
            "mid_block_type": "UNetMidBlock2D",
        },
        (8, 8),
    ),
    "text_on_the_way_up_alone": (
        {**SMALL, "down_block_types": (PLAIN, PLAIN), "up_block_types": (CROSS_UP, PLAIN_UP)},
        (8, 8),
    ),
    "scale_shift": (
        {**SMALL, "resnet_time_scale_shift": "scale_shift", "time_embedding_dim": 40},
        (8, 8),
    ),
    "other_sinusoids": (
        {**SMALL, "freq_shift": 1, "flip_sin_to_cos": False, "dropout": 0.3, "act_fn": "swish"},
        (8, 8),
    ),
    "other_windows": (
        {**SMALL, "conv_in_kernel": 5, "conv_out_kernel": 1, "center_input_sample": True},
        (7, 8),
    ),
    "other_norms": ({**SMALL, "norm_num_groups": 4, "norm_eps": 1e-3}, (8, 8)),
    # Norms around a mean of many deviations, which the fast variance loses.
    "groups_of_one_channel": (
        {
            **SMALL,
            "block_out_channels": (4, 8, 12),
            "layers_per_block": (1, 2, 3),
            "norm_num_groups": 4,
            "norm_eps": 1e-3,
            "down_block_types": (PLAIN, CROSS, CROSS),
            "up_block_types": (CROSS_UP, PLAIN_UP, CROSS_UP),
            "mid_block_type": "UNetMidBlock2D",
            "only_cross_attention": True,
            "resnet_time_scale_shift": "scale_shift",
            "class_embed_type": "timestep",
            "time_embedding_dim": 20,
            "downsample_padding": 0,
        },
        (15, 9),
    ),
    "padding_of_two_sides": (
        {
            **SMALL,
            "block_out_channels": (16, 16, 32),
            "down_block_types": (CROSS, PLAIN, PLAIN),
            "up_block_types": (PLAIN_UP, PLAIN_UP, CROSS_UP),
            "downsample_padding": 0,
        },
        (15, 10),
    ),
    "first_releases": (
        {
            **SMALL,
            "down_block_types": ("UNetResDownBlock2D", CROSS),
            "up_block_types": (CROSS_UP, "UNetResUpBlock2D"),
            "cross_attention_dim": (32, 32),
            "upcast_attention": True,
        },
        (1, 3),
    ),
    "refiner": (
        {
            **SDXL,
            "block_out_channels": (16, 32, 32),
            "layers_per_block": 1,
            "down_block_types": (PLAIN, CROSS, PLAIN),
            "up_block_types": (PLAIN_UP, CROSS_UP, PLAIN_UP),
            "attention_head_dim": (1, 2, 4),
            "transformer_layers_per_block": 2,
            "projection_class_embeddings_input_dim": 32 + 5 * 8,
        },
        (8, 9),
    ),
}


def perturbed(network, seed=0):
    """Sharp attention and moved norms: wrong epsilons, heads and halves then show."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                parameter *= 3
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            if name.startswith("controlnet_") and parameter.ndim > 1 and not parameter.any():
                parameter += torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    return network.eval()


def theirs_of(fields, network=diffusers.UNet2DConditionModel):
    torch.manual_seed(1)
    return perturbed(network(**fields))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conditions_of(fields, mask=None):
    """The conditions of a network: (ours, theirs)."""
    ours, added, kwargs = {}, {}, {"encoder_hidden_states": None}
    types = (*fields["down_block_types"], *fields.get("up_block_types", ()))
    mid = fields.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if any("Cross" in str(kind) for kind in (*types, mid)):
        dim = fields["cross_attention_dim"]
        width = dim if isinstance(dim, int) else dim[0]
        ours["tokens"] = normal(2, 7, fields.get("encoder_hid_dim") or width, seed=1)
        kwargs["encoder_hidden_states"] = torch.tensor(ours["tokens"])
    if mask is not None:
        ours["tokens_mask"] = mask
        kwargs["encoder_attention_mask"] = torch.tensor(mask)
    embedding = fields.get("time_embedding_dim") or 4 * fields["block_out_channels"][0]
    vector = fields.get("projection_class_embeddings_input_dim")
    label = {
        "timestep": np.array([3.0, 250.0], np.float32),
        "projection": normal(2, vector or 1, seed=2),
        "simple_projection": normal(2, vector or 1, seed=2),
        "identity": normal(2, embedding, seed=2),
    }.get(fields.get("class_embed_type"))
    if label is None and fields.get("num_class_embeds"):
        label = np.array([0, fields["num_class_embeds"] - 1])
    if label is not None:
        ours["label"], kwargs["class_labels"] = label, torch.tensor(label)
    if fields.get("addition_embed_type"):
        ids = np.array([[1024, 768, 0, 64, 1024, 960], [256, 256, 8, 0, 512, 512]], np.float32)
        ids = ids[:, : (vector - 32) // fields["addition_time_embed_dim"]]
        ours |= {"pooled": normal(2, 32, seed=3), "time_ids": ids}
        added = {"text_embeds": torch.tensor(ours["pooled"]), "time_ids": torch.tensor(ids)}
        kwargs["added_cond_kwargs"] = added
    if fields.get("time_cond_proj_dim"):
        ours["guidance_embedding"] = normal(2, fields["time_cond_proj_dim"], seed=4)
        kwargs["timestep_cond"] = torch.tensor(ours["guidance_embedding"])
    return ours, kwargs


def latents(fields, size):
    return normal(2, *size, fields.get("in_channels", 4))


def torch_images(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def output_of(network, xt, kwargs, **more):
    with torch.no_grad():
        tokens = kwargs.pop("encoder_hidden_states")
        y = network(torch_images(xt), torch.tensor(TIMES), tokens, **kwargs, **more)
    return channels_last(y.sample)


def our_output(unet, params, xt, conditions):
    return np.asarray(jax.jit(unet.apply)({"params": params}, xt, TIMES, conditions))


def error(ours, theirs):
    """The largest difference, over the deviation of theirs."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    found = np.abs(ours - theirs).max() / theirs.std()
    print(f"{found:.2e}")
    return found


def states_are_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def agree_and_come_back(fields, size, folder, mask=None):
    theirs = theirs_of(fields)
    theirs.save_pretrained(folder / "a")
    unet, params = unet_condition_from_diffusers(folder / "a")
    xt, (ours, kwargs) = latents(fields, size), conditions_of(fields, mask)
    assert error(our_output(unet, params, xt, ours), output_of(theirs, xt, kwargs)) < TOLERANCE
    unet_condition_to_diffusers(unet, params, folder / "b", sample_size=16)
    back, said = diffusers.UNet2DConditionModel.from_pretrained(
        folder / "b", output_loading_info=True
    )
    assert not any(said.values())
    assert back.config.sample_size == 16
    assert states_are_equal(back, theirs)
    assert unet_condition_from_diffusers(folder / "b")[0] == unet


@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for size in SIZES for name in FAMILIES], ids=str
)
@pytest.mark.wide(6)
def test_published_families_agree_and_come_back(name, size, tmp_path):
    agree_and_come_back(FAMILIES[name], size, tmp_path)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.wide(8)
def test_every_field_agrees_and_comes_back(name, tmp_path):
    agree_and_come_back(*VARIANTS[name], tmp_path)


MASKS = np.array([[True] * 4 + [False] * 3, [False] * 7])


@pytest.mark.parametrize("fields", [SMALL, VARIANTS["upscaler"][0]], ids=["each", "only_tokens"])
@pytest.mark.wide(2)
def test_masked_tokens_are_read_as_by_diffusers(fields, tmp_path):
    """A row that masks all of its tokens reads all of them, in theirs up to the mask's rounding."""
    theirs = theirs_of(fields)
    theirs.save_pretrained(tmp_path)
    unet, params = unet_condition_from_diffusers(tmp_path)
    xt, (ours, kwargs) = latents(fields, (8, 8)), conditions_of(fields, MASKS)
    found, want = our_output(unet, params, xt, ours), output_of(theirs, xt, kwargs)
    assert error(found[:1], want[:1]) < TOLERANCE
    assert error(found[1:], want[1:]) < 1e-3
    unmasked = our_output(unet, params, xt, {**ours, "tokens_mask": np.ones_like(MASKS)})
    assert error(unmasked[1:], found[1:]) < 1e-6
    assert error(unmasked[:1], found[:1]) > 1e-2


# Ours, and what diffusers calls it.
PLACES = (
    (r"^down_(\d)_block_(\d)", r"down_blocks.\1.resnets.\2"),
    (r"^down_(\d)_transformer_(\d)", r"down_blocks.\1.attentions.\2"),
    (r"^down_(\d)_downsample", r"down_blocks.\1.downsamplers.0"),
    (r"^mid_block_(\d)", r"mid_block.resnets.\1"),
    (r"^mid_transformer", r"mid_block.attentions.0"),
    (r"^up_(\d)_block_(\d)", r"up_blocks.\1.resnets.\2"),
    (r"^up_(\d)_transformer_(\d)", r"up_blocks.\1.attentions.\2"),
    (r"^up_(\d)_upsample", r"up_blocks.\1.upsamplers.0"),
    (r"/block_(\d)$", r".transformer_blocks.\1"),
)


def their_name(path, levels):
    name = path
    for ours, theirs in PLACES:
        name = re.sub(ours, theirs, name)
    return re.sub(
        r"^up_blocks\.(\d)", lambda found: f"up_blocks.{levels - 1 - int(found[1])}", name
    )


def made_by_modules(network, xt, kwargs):
    """(what entered first, what came out) of every module of theirs in one pass, channels last."""
    made = {}

    def array(tensor):
        return channels_last(tensor) if tensor.ndim == 4 else tensor.numpy()

    def keep(name):
        def hook(module, inputs, output):
            tensor = output[0] if isinstance(output, tuple) else output
            if inputs and isinstance(tensor, torch.Tensor):
                made[name] = array(inputs[0]), array(tensor)

        return hook

    hooks = [m.register_forward_hook(keep(name)) for name, m in network.named_modules()]
    output_of(network, xt, kwargs)
    for hook in hooks:
        hook.remove()
    return made


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.wide(2)
def test_every_block_is_theirs(name, tmp_path):
    """Residual blocks, transformer blocks, transformers, and what changes the size."""
    fields = FAMILIES[name]
    theirs = theirs_of(fields)
    theirs.save_pretrained(tmp_path)
    unet, params = unet_condition_from_diffusers(tmp_path)
    xt, (ours, kwargs) = latents(fields, (13, 9)), conditions_of(fields)
    made = made_by_modules(theirs, xt, kwargs)
    _, captured = jax.jit(
        lambda p, x: unet.apply(
            {"params": p}, x, TIMES, ours, capture_intermediates=True, mutable="intermediates"
        )
    )(params, xt)
    compared = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(captured["intermediates"]):
        own = "/".join(key.key for key in path if hasattr(key, "key"))[: -len("/__call__")]
        place = their_name(own, len(unet.block_channels))
        if place != own and place in made:
            assert error(leaf, made[place][1]) < TOLERANCE, place
            compared += 1
    blocks = ("ResnetBlock2D", "BasicTransformerBlock", "Transformer2DModel")
    samplers = ("Downsample2D", "Upsample2D")
    kinds = [type(module).__name__ for module in theirs.modules()]
    assert compared == sum(kind in (*blocks, *samplers) for kind in kinds)

    # What attention adds is small beside the pixels, so it is compared on their own input.
    transformer = params["mid_transformer"]["block_0"]
    attention = spatial_transformer.TokenAttention(unet.num_heads[-1])
    for k, tokens in enumerate((None, ours["tokens"])):
        entered, left = made[f"mid_block.attentions.0.transformer_blocks.0.attn{k + 1}"]
        own = attention.apply({"params": transformer[f"attention_{k}"]}, entered, tokens)
        assert error(own, left) < TOLERANCE


@pytest.mark.parametrize("norm", ["residual_block", "GROUP_NORM_EPSILON", "LAYER_NORM_EPSILON"])
@pytest.mark.wide(3)
def test_the_tolerance_sees_a_wrong_epsilon(norm, tmp_path, monkeypatch):
    """Measured: 1.9e-4, 7.5e-5 and 7.7e-5."""
    theirs = theirs_of(SD1)
    theirs.save_pretrained(tmp_path)
    unet, params = unet_condition_from_diffusers(tmp_path)
    xt, (ours, kwargs) = latents(SD1, (16, 16)), conditions_of(SD1)
    if norm == "residual_block":
        unet = unet.clone(norm_epsilon=1e-6)
    else:
        right = getattr(spatial_transformer, norm)
        monkeypatch.setattr(spatial_transformer, norm, 1e-11 / right)  # 1e-5 and 1e-6 change places
    found = our_output(unet, params, xt, ours)
    assert error(found, output_of(theirs, xt, kwargs)) > 2 * TOLERANCE


def trunk(fields, **changes):
    """A ControlNet's fields of a U-Net's."""
    own = {k: v for k, v in fields.items() if k not in ("sample_size", "up_block_types")}
    return {**own, "conditioning_embedding_out_channels": (8, 16), **changes}


# (fields, options of the call, size of the latents)
CONTROLS = {
    "published": (
        trunk(SD1, conditioning_embedding_out_channels=(16, 32, 96, 256)),
        {},
        (8, 8),
    ),
    "odd_size_and_scale": (trunk(SMALL), {"conditioning_scale": 0.7}, (13, 9)),
    "guess_mode": (trunk(SMALL), {"conditioning_scale": 1.3, "guess_mode": True}, (8, 8)),
    "bgr": (trunk(SMALL, controlnet_conditioning_channel_order="bgr"), {}, (8, 8)),
    "pooled": (trunk(SMALL, global_pool_conditions=True), {"guess_mode": True}, (8, 8)),
    "heads_by_name": (
        trunk(
            SMALL,
            use_linear_projection=True,
            num_attention_heads=(2, 4),
            conditioning_channels=1,
            only_cross_attention=(True, False),
            conditioning_embedding_out_channels=(8,),
        ),
        {},
        (8, 8),
    ),
    "sdxl": (trunk(SDXL), {"conditioning_scale": 0.5}, (8, 8)),
    "classes_and_a_plain_bottom": (
        trunk(
            SMALL,
            num_class_embeds=4,
            mid_block_type="UNetMidBlock2D",
            downsample_padding=0,
            transformer_layers_per_block=[[2], 1],
        ),
        {},
        (7, 8),
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.wide(4)
def test_controlnets_agree_steer_and_come_back(name, tmp_path):
    fields, call, size = CONTROLS[name]
    theirs = theirs_of(fields, diffusers.ControlNetModel)
    theirs.save_pretrained(tmp_path / "a")
    controlnet, params = controlnet_from_diffusers(tmp_path / "a")
    xt, (ours, kwargs) = latents(fields, size), conditions_of(fields)
    factor = 2 ** (len(fields["conditioning_embedding_out_channels"]) - 1)
    channels = fields.get("conditioning_channels", 3)
    image = np.random.default_rng(5).random((2, *(factor * n for n in size), channels), np.float32)
    with torch.no_grad():
        tokens = kwargs.pop("encoder_hidden_states")
        down, mid = theirs(
            torch_images(xt),
            torch.tensor(TIMES),
            tokens,
            torch_images(image),
            **kwargs,
            **call,
            return_dict=False,
        )
    ours_too = {**ours, "control": image}
    found = jax.jit(
        lambda p, x, c: controlnet.apply({"params": p}, x, TIMES, c, **call),
    )(params, xt, ours_too)
    assert len(found.down_residuals) == len(down)
    for one, other in zip(found.down_residuals, down, strict=True):
        assert error(one, channels_last(other)) < TOLERANCE
    assert error(found.mid_residual, channels_last(mid)) < TOLERANCE

    controlnet_to_diffusers(controlnet, params, tmp_path / "b")
    back, said = diffusers.ControlNetModel.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(said.values())
    assert states_are_equal(back, theirs)
    # Heads by another name are written by the usual one.
    assert controlnet_from_diffusers(tmp_path / "b")[0] == controlnet

    steered = {
        name: value
        for name, value in fields.items()
        if name not in ("conditioning_embedding_out_channels", "conditioning_channels")
        and not name.startswith(("controlnet_", "global_"))
    }
    if name == "classes_and_a_plain_bottom":  # a U-Net of lists needs a second one
        steered["transformer_layers_per_block"] = [2, 1]
    steered["attention_head_dim"] = steered.pop("num_attention_heads", fields["attention_head_dim"])
    steered["up_block_types"] = tuple(
        CROSS_UP if kind == CROSS else PLAIN_UP for kind in fields["down_block_types"][::-1]
    )
    unet = theirs_of(steered)
    unet.save_pretrained(tmp_path / "c")
    ours_unet, ours_params = unet_condition_from_diffusers(tmp_path / "c")
    want = output_of(
        unet,
        xt,
        {"encoder_hidden_states": tokens, **kwargs},
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    )
    got = our_output(ours_unet, ours_params, xt, {**ours, **found._asdict()})
    assert error(got, want) < TOLERANCE
    assert error(our_output(ours_unet, ours_params, xt, ours), want) > 1e-2


PUBLISHED = {
    "sd1": ({"cross_attention_dim": 768, "sample_size": 64}, 859_520_964, 686),
    "inpainting": ({"cross_attention_dim": 768, "in_channels": 9}, 859_535_364, 686),
    "sd2": (
        {
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
            "upcast_attention": True,
            "sample_size": 96,
        },
        865_910_724,
        686,
    ),
    "sdxl": (
        {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": [PLAIN, CROSS, CROSS],
            "up_block_types": [CROSS_UP, CROSS_UP, PLAIN_UP],
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        2_567_463_684,
        1680,
    ),
    "refiner": (
        {
            "block_out_channels": [384, 768, 1536, 1536],
            "down_block_types": [PLAIN, CROSS, CROSS, PLAIN],
            "up_block_types": [PLAIN_UP, CROSS_UP, CROSS_UP, PLAIN_UP],
            "attention_head_dim": [6, 12, 24, 24],
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2560,
        },
        2_259_526_660,
        1220,
    ),
}


def counted(config_module, network, fields, folder):
    """(our parameters, tensors; theirs), of a config.json, without making room for any."""
    path = folder / "config.json"
    path.write_text(json.dumps({"_class_name": config_module.CLASS, **fields}))
    config = config_module.read(path)
    with torch.device("meta"):
        theirs = [*network.from_config(network.load_config(folder)).parameters()]
    return config, sum(p.numel() for p in theirs), len(theirs)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.wide(2)
def test_published_networks_have_their_counts(name, tmp_path):
    fields, count, tensors = PUBLISHED[name]
    network = diffusers.UNet2DConditionModel
    config, *theirs = counted(unet_condition_config, network, fields, tmp_path)
    shapes = latent_trunk.shapes_of(unet_condition_config.to_unet(config))
    assert [sum(map(math.prod, shapes.values())), len(shapes)] == theirs == [count, tensors]


def test_the_published_controlnet_has_its_count(tmp_path):
    fields = {"cross_attention_dim": 768}
    config, *theirs = counted(controlnet_config, diffusers.ControlNetModel, fields, tmp_path)
    controlnet = controlnet_config.to_controlnet(config)
    assert controlnet == ControlNet()
    shapes = latent_trunk.shapes_of(controlnet, (1, 64, 64, 3))
    assert [sum(map(math.prod, shapes.values())), len(shapes)] == theirs == [361_279_120, 340]


@pytest.mark.parametrize(
    ("module", "network"),
    [
        (unet_condition_config, diffusers.UNet2DConditionModel),
        (controlnet_config, diffusers.ControlNetModel),
    ],
    ids=["unet", "controlnet"],
)
def test_fields_left_out_take_the_defaults_of_diffusers(module, network):
    parameters = inspect.signature(network.__init__).parameters
    theirs = {name: p.default for name, p in parameters.items() if name != "self"}
    ours = {name: known.default for name, known in module.FIELDS.items()}
    assert json.loads(json.dumps(theirs)) == json.loads(json.dumps(ours))
