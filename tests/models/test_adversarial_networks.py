"""Generators and discriminators: sizes, whose noise an image is of, and torch's PatchGAN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.interop.tensor_rows import CONV
from ddpm_jax.models.adversarial import Discriminator, Generator, PatchDiscriminator


@pytest.mark.parametrize("size", [(8, 8), (16, 32), (64, 64), (28, 28)])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_images_of_each_size_are_made_and_judged(size, num_classes):
    z, label = jnp.ones((2, 5)), jnp.array([0, 2]) if num_classes else None
    generator = Generator(size, channels=1, width=8, num_classes=num_classes)
    images, _ = jax.eval_shape(lambda: generator.init_with_output(jax.random.key(0), z, label))
    assert images.shape == (2, *size, 1)
    judge = Discriminator(width=8, num_classes=num_classes)
    x = jnp.zeros(images.shape)
    logits, _ = jax.eval_shape(lambda: judge.init_with_output(jax.random.key(0), x, label))
    assert logits.shape == (2,)


def test_an_image_is_of_its_own_noise_and_class_alone():
    generator = Generator((8, 8), channels=1, width=8, num_classes=3)
    z, label = jax.random.normal(jax.random.key(1), (3, 5)), jnp.array([0, 1, 2])
    images, variables = generator.init_with_output(jax.random.key(0), z, label)
    alone = generator.apply(variables, z[1:2], label[1:2])
    np.testing.assert_allclose(alone, images[1:2], atol=1e-6)
    other = generator.apply(variables, z[1:2], label[2:3])
    assert np.abs(other - alone).max() > 1e-3
    assert np.abs(images).max() <= 1


def test_a_size_that_no_doubling_leads_to_is_refused():
    with pytest.raises(ValueError, match="image size 3x8: need at least 4 pixels"):
        Generator((3, 8)).init(jax.random.key(0), jnp.zeros((1, 5)))
    with pytest.raises(ValueError, match="image size 16x18"):
        Discriminator().init(jax.random.key(0), jnp.zeros((1, 16, 18, 1)))


def test_patches_are_judged_as_by_torchs_layers():
    """Isola et al. 2017, appendix 6.1.2, with GroupNorm in place of batch norm."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2)]
    for before, after, stride in ((16, 32, 2), (32, 64, 2), (64, 128, 1)):
        layers += [
            nn.Conv2d(before, after, 4, stride, 1, bias=False),
            nn.GroupNorm(8, after, eps=1e-6),
            nn.LeakyReLU(0.2),
        ]
    theirs = nn.Sequential(*layers, nn.Conv2d(128, 1, 4, 1, 1))
    convs = [one for one in theirs if isinstance(one, nn.Conv2d)]
    kernels = [CONV.from_torch(one.weight.detach().numpy()) for one in convs]
    names = ["conv_in", "conv_1", "conv_2", "conv_3", "conv_out"]
    params = {name: {"kernel": kernel} for name, kernel in zip(names, kernels, strict=True)}
    for name, one in ((names[0], convs[0]), (names[-1], convs[-1])):
        params[name]["bias"] = one.bias.detach().numpy()
    for k, width in enumerate((32, 64, 128), 1):
        params[f"norm_{k}"] = {"scale": np.ones(width), "bias": np.zeros(width)}
    x = np.random.default_rng(0).standard_normal((2, 48, 56, 3)).astype(np.float32)
    ours = PatchDiscriminator(width=16).apply({"params": params}, x)
    with torch.no_grad():
        want = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert ours.shape == want.shape
    np.testing.assert_allclose(ours, want, atol=2e-5 * want.std())
