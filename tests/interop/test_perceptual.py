"""LPIPS beside its own package, on random trunks."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch

from ddpm_jax.interop.perceptual import perceptual_from_file
from ddpm_jax.models import perceptual

torch = pytest.importorskip("torch")


def trunk(net):
    """torchvision's `features`, of its own layers in its own order."""
    layers, channels = [], 3
    for stage in perceptual.TRUNKS[net]:
        for layer in stage:
            if isinstance(layer, perceptual.Pool):
                layers.append(torch.nn.MaxPool2d(layer.size, layer.stride))
            else:
                conv = (channels, layer.features, layer.size, layer.stride, layer.padding)
                layers += [torch.nn.Conv2d(*conv), torch.nn.ReLU()]
                channels = layer.features
    return torch.nn.Sequential(*layers)


@pytest.fixture(scope="module")
def theirs():
    """net -> lpips.LPIPS of a random trunk; torchvision, which it imports, is stood in for."""
    stand_in, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    for name, net in (("vgg16", "vgg"), ("alexnet", "alex")):
        setattr(
            models, name, lambda pretrained, net=net: types.SimpleNamespace(features=trunk(net))
        )
    models.squeezenet1_1 = None
    stand_in.models = models
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchvision", stand_in)
        patch.setitem(sys.modules, "torchvision.models", models)
        lpips = pytest.importorskip("lpips")

        def made(net):
            torch.manual_seed(3)
            network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
            for parameter in network.parameters():
                parameter.data += 0.02 * torch.randn_like(parameter)
            for lin in network.lins:
                lin.model[-1].weight.data.abs_()
            return network

        yield made


@pytest.mark.parametrize(
    ("net", "size"), [("vgg", (32, 32)), ("vgg", (37, 19)), ("alex", (64, 45))]
)
def test_distances_are_those_of_the_package(net, size, theirs, tmp_path):
    network = theirs(net)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "lpips.safetensors")
    params = perceptual_from_file(tmp_path / "lpips.safetensors")
    assert perceptual.net_of(params) == net
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(-1, 1, (3, *size, 3)).astype(np.float32) for _ in range(2))
    with torch.no_grad():
        want = network(*(torch.tensor(one.transpose(0, 3, 1, 2)) for one in (x, y))).numpy().ravel()
    np.testing.assert_allclose(perceptual.lpips(params, x, y), want, rtol=2e-5)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)

    def draw(shape):
        if isinstance(shape, dict):
            return {name: draw(one) for name, one in shape.items()}
        scale = 1 / np.sqrt(np.prod(shape[:-1])) if len(shape) == 4 else 0.05
        return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)

    made = draw(perceptual.shapes("vgg"))
    return made | {"weights": {name: abs(one) for name, one in made["weights"].items()}}


def test_an_image_is_not_different_from_itself_and_has_a_gradient_there(params):
    x = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    assert (perceptual.lpips(params, x, x) == 0).all()
    gradient = jax.grad(lambda y: perceptual.lpips(params, x, y).sum())(jnp.zeros_like(x))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    grey = x[..., :1]
    np.testing.assert_allclose(
        perceptual.lpips(params, grey, -grey),
        perceptual.lpips(params, *(jnp.repeat(one, 3, axis=-1) for one in (grey, -grey))),
        rtol=1e-6,
    )


def test_without_weights_the_distance_is_theirs_too(theirs, tmp_path):
    """As a classifier's features are compared."""
    network = theirs("vgg")
    network.lpips = False
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "lpips.safetensors")
    stages = functools.partial(
        perceptual._stages, perceptual_from_file(tmp_path / "lpips.safetensors")
    )
    x, y = (jax.random.uniform(jax.random.key(k), (2, 32, 32, 3), minval=-1) for k in (1, 2))
    with torch.no_grad():
        images = [torch.tensor(np.array(one).transpose(0, 3, 1, 2)) for one in (x, y)]
        want = network(*images).numpy().reshape(2)
    np.testing.assert_allclose(perceptual._apart(stages, x, y, None), want, rtol=2e-5)


def test_images_that_are_too_small_are_refused(params):
    with pytest.raises(ValueError, match="images of 8x8 are too small for the trunk vgg"):
        perceptual.lpips(params, *[jnp.zeros((1, 8, 8, 3))] * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("lin2.model.1.weight"),
            r"weights 2 of vgg has the shape \(\); need \(256,\)",
        ),
        (lambda s: s.pop("net.slice1.0.bias"), "trunk 0 of vgg has the shape"),
        (
            lambda s: [s.pop(f"net.slice1.0.{part}") for part in ("bias", "weight")],
            "its convolutions are 2, 5",
        ),
        (lambda s: s.update(other=s["lin0.model.1.weight"].clone()), "has no tensor other"),
    ],
)
def test_other_files_are_refused(change, message, theirs, tmp_path):
    state = {name: tensor.clone() for name, tensor in theirs("vgg").state_dict().items()}
    change(state)
    safetensors.torch.save_file(state, tmp_path / "lpips.safetensors")
    with pytest.raises(ValueError, match=message):
        perceptual_from_file(tmp_path / "lpips.safetensors")


def test_a_pickle_and_no_file_are_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle"):
        perceptual_from_file(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"no file .* of LPIPS weights"):
        perceptual_from_file(tmp_path / "nowhere.safetensors")
