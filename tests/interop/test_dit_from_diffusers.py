"""Parity with diffusers' own DiTTransformer2DModel on random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import safetensors.numpy  # noqa: E402

from ddpm_jax.interop.dit import dit_from_diffusers  # noqa: E402

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 3,
    "sample_size": 8,
    "num_embeds_ada_norm": 5,
    "norm_eps": 1e-6,
}


def theirs(**config):
    """Every parameter random; the copies of the embedding equal, as published weights have them."""
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(**{**SMALL, **config}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape))
        first = model.transformer_blocks[0].norm1.emb.state_dict()
        for block in model.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(first)
    return model


@pytest.fixture
def saved(tmp_path):
    theirs().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [{}, {"patch_size": 4, "out_channels": None}, {"num_layers": 1, "attention_head_dim": 16}],
    ids=str,
)
@pytest.mark.wide(3)
def test_outputs_agree(config, tmp_path):
    model = theirs(**config)
    model.save_pretrained(tmp_path)
    dit, params = dit_from_diffusers(tmp_path)
    xt = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
    time, label = np.array([0, 1, 500, 999]), np.array([0, 4, 2, 5])
    with torch.no_grad():
        expected = model(
            torch.from_numpy(xt.transpose(0, 3, 1, 2).copy()),
            timestep=torch.from_numpy(time),
            class_labels=torch.from_numpy(label),
        ).sample
    expected = expected.numpy().transpose(0, 2, 3, 1)
    # Their class 5 of 5 is the null class, ours is -1.
    ours = jax.jit(dit.apply)({"params": params}, xt, time, np.where(label == 5, -1, label))
    assert ours.shape == expected.shape
    assert 0.1 < expected.std() < 10  # of order 1, so that the tolerance means something
    assert np.abs(ours - expected).max() < 1e-4
    own = jax.eval_shape(dit.init, jax.random.key(0), xt, time, label)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activation_fn", "geglu"),
        ("norm_type", "ada_norm"),
        ("num_layers", 0),
        ("novelty", 1),
        ("_class_name", "UNet2DModel"),
    ],
)
def test_a_config_of_another_network_is_refused(saved, field, value):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=field):
        dit_from_diffusers(saved)


def change(directory, name, tensor):
    path = directory / "diffusion_pytorch_model.safetensors"
    weights = safetensors.numpy.load_file(path)
    weights[name] = tensor
    safetensors.numpy.save_file({k: v for k, v in weights.items() if v is not None}, path)


def test_weights_that_do_not_fit_are_refused(saved):
    bias = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    change(saved, bias, np.zeros(24, np.float32))
    with pytest.raises(ValueError, match="every block has its own"):
        dit_from_diffusers(saved)
    change(saved, bias, None)
    with pytest.raises(ValueError, match=f"{bias} is missing"):
        dit_from_diffusers(saved)
    change(saved, "proj_out_2.bias", np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"proj_out_2.bias|missing"):
        dit_from_diffusers(saved)
