"""Parity with diffusers' UNet2DConditionModel and ControlNetModel, on perturbed random weights."""

# Over 300 lines: one process imports diffusers for both classes, which takes 11 seconds.

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


from ddpm_jax.interop.unet_condition import (  # noqa: E402
    unet_condition_from_diffusers,
    unet_condition_to_diffusers,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
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
    """What a network is told: (ours, theirs)."""
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
        label = np.array([1, fields["num_class_embeds"] - 1])
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
