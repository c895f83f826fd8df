"""Parity with diffusers' own PriorTransformer on perturbed random weights."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from ddpm_jax.interop.prior import prior_from_diffusers  # noqa: E402

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "embedding_dim": 24,
    "num_embeddings": 7,
}
KARLO = {}
KANDINSKY = {"norm_in_type": "layer", "embedding_proj_norm_type": "layer"}
SIZES = {"time_embed_dim": 20, "embedding_proj_dim": 12, "clip_embed_dim": 24}


def theirs(**config):
    """Sharp attention, and no parameter of one dimension at its first value."""
    torch.manual_seed(0)
    model = diffusers.PriorTransformer(**{**SMALL, **config}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                parameter.mul_(3)
            if parameter.ndim == 1 or parameter.shape[0] == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module", params=[KARLO, KANDINSKY, SIZES], ids=str)
def pair(request, tmp_path_factory):
    """Their network and ours of the same file."""
    model = theirs(**request.param)
    directory = tmp_path_factory.mktemp("prior")
    model.save_pretrained(directory)
    return model, prior_from_diffusers(directory)


@pytest.mark.parametrize("masked", [False, True])
def test_outputs_agree(pair, masked):
    model, ours = pair
    rng = np.random.default_rng(0)
    text_dim = model.config.embedding_proj_dim or 24
    xt, text, tokens = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((4, 24), (4, text_dim), (4, 7, 24))
    )
    time, mask = np.array([0, 1, 500, 999]), np.arange(7)[None] < np.array([[1], [4], [7], [0]])
    told = {"attention_mask": torch.from_numpy(mask)} if masked else {}
    with torch.no_grad():
        expected = model(
            torch.from_numpy(xt),
            torch.from_numpy(time),
            torch.from_numpy(text),
            torch.from_numpy(tokens),
            **told,
        ).predicted_image_embedding.numpy()
    conditions = {"text_embedding": text, "tokens": tokens}
    conditions |= {"tokens_mask": mask} if masked else {}
    got = jax.jit(ours.prior.apply)({"params": ours.params}, xt, time, conditions)
    assert got.shape == expected.shape == (4, 24)
    assert 0.1 < expected.std() < 10
    assert np.abs(got - expected).max() < 2e-5 * expected.std()
    drawn = torch.from_numpy(xt)
    np.testing.assert_allclose(
        xt * ours.std + ours.mean, model.post_process_latents(drawn).detach(), rtol=1e-6
    )


def test_a_mask_changes_the_answer(pair):
    _, ours = pair
    rng = np.random.default_rng(0)
    text_dim = ours.params["text_projection"]["kernel"].shape[0]
    conditions = {
        "text_embedding": rng.standard_normal((1, text_dim)).astype(np.float32),
        "tokens": rng.standard_normal((1, 7, 24)).astype(np.float32),
    }
    xt = np.zeros((1, 24), np.float32)
    answers = [
        ours.prior.apply({"params": ours.params}, xt, np.zeros(1), conditions | more)
        for more in ({}, {"tokens_mask": np.ones((1, 7), bool)})
    ]
    assert np.abs(answers[0] - answers[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_class_name", "UNet2DModel"),
        ("added_emb_type", None),
        ("time_embed_act_fn", "gelu"),
        ("num_layers", True),
        ("clip_embed_dim", 12),
        ("dropout", 1.0),
        ("new_field", 1),
    ],
)
def test_what_it_does_not_have_is_refused(field, value, tmp_path):
    theirs(num_layers=1).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=f"config.json: {field} is "):
        prior_from_diffusers(tmp_path)


def test_tensors_that_do_not_fit_are_refused(tmp_path):
    theirs(num_layers=1).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    for changes in ({"num_layers": 2}, {"norm_in_type": "layer"}):
        path.write_text(json.dumps(fields | changes))
        with pytest.raises(ValueError, match=r"network: \d+ missing"):
            prior_from_diffusers(tmp_path)
