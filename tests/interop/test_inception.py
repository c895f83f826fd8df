"""FID's InceptionV3 against torch-fidelity's on random weights, and the files of its weights."""

import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from fidelity_peer import torch_fidelity

from ddpm_jax.evaluation import inception
from ddpm_jax.interop.inception import CHECKPOINT, CONVERT, inception_from_file
from ddpm_jax.models.inception import InceptionV3

LAYERS = ("192", "768", "2048", "logits_unbiased", "logits")


def shapes():
    """The checkpoint's tensors by name, without torch."""
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    found = {}
    params = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]
    for name, leaves in params.items():
        if name.startswith("fc"):
            continue
        height, width, inputs, outputs = leaves["kernel"].shape
        found[f"{name}.conv.weight"] = (outputs, inputs, height, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{part}"] = (outputs,)
    return found | {"fc.weight": (1008, 2048), "fc.bias": (1008,)}


def random_weights():
    """He's weights and norms that keep values of order 1, all random."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in shapes().items():
        if name.endswith("running_var"):
            tensor = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("bn.weight"):
            tensor = rng.uniform(0.7, 1.3, shape)
        elif len(shape) == 1:
            tensor = rng.normal(0, 0.3, shape)
        else:
            tensor = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        weights[name] = tensor.astype(np.float32)
    return weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file of random weights, the weights, and what is read of it."""
    path, weights = tmp_path_factory.mktemp("inception") / "one.safetensors", random_weights()
    safetensors.numpy.save_file(weights, path)
    return weights, inception_from_file(path)


def theirs(weights, images, folder):
    """torch-fidelity's features of uint8 images by layer, and the layer of sFID."""
    torch_fidelity()
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = {name: torch.from_numpy(tensor) for name, tensor in weights.items()}
    torch.save(state, folder / "weights.pth")
    network = FeatureExtractorInceptionV3("inception", [*LAYERS], str(folder / "weights.pth"))
    spatial = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda *args: spatial.append(args[2]))
    with torch.no_grad():
        found = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    spatial = spatial[0].numpy().transpose(0, 2, 3, 1)[..., :7].reshape(len(images), -1)
    named = dict(zip(LAYERS, found, strict=True))
    return {name: value.numpy() for name, value in named.items()} | {"spatial": spatial}


@pytest.mark.slow
@pytest.mark.wide(6)
def test_outputs_agree_with_torch_fidelitys(checkpoint, tmp_path):
    rng = np.random.default_rng(1)
    images = np.stack(
        [rng.integers(0, 256, (40, 48, 3)), np.tile(np.arange(48)[None, :, None] * 5, (40, 1, 3))]
    ).astype(np.uint8)
    weights, (params, _) = checkpoint
    expected = theirs(weights, images, tmp_path)

    @jax.jit
    def network(params, images):
        x = inception.prepared(images, "bilinear_tensorflow", False, "tensorflow", 256)
        return InceptionV3().apply({"params": params}, x)

    found = network(params, images)
    ours = {
        "192": found.pool_192,
        "768": found.pool_768,
        "2048": found.pooled,
        "logits_unbiased": found.unbiased_logits,
        "logits": found.logits,
        "spatial": found.spatial,
    }
    assert expected["spatial"].shape == (2, 2023)
    for name, theirs_of_layer in expected.items():
        assert ours[name].shape == theirs_of_layer.shape
        # Of order 1 and different for different images, so that the tolerance means something.
        assert 0.05 < theirs_of_layer.std() < 10, name
        assert np.abs(theirs_of_layer[0] - theirs_of_layer[1]).mean() > 0.02, name
        assert np.abs(ours[name] - theirs_of_layer).max() < 1e-4, name


def changed(folder, **tensors):
    """A small file of the names that are read first; None leaves one out."""
    first = {name: np.ones(shape, np.float32) for name, shape in [*shapes().items()][:10]}
    path = folder / "changed.safetensors"
    tensors = {name.replace("__", "."): value for name, value in tensors.items()}
    kept = {name: value for name, value in (first | tensors).items() if value is not None}
    safetensors.numpy.save_file(kept, path)
    return path


def test_the_first_tensor_that_does_not_fit_is_named(tmp_path):
    one = "Conv2d_1a_3x3__bn__running_var"
    with pytest.raises(ValueError, match=r"tensor Conv2d_1a_3x3\.bn\.running_var is missing"):
        inception_from_file(changed(tmp_path, **{one: None}))
    with pytest.raises(ValueError, match=r"running_var has shape \(31,\); FID's has \(32,\)"):
        inception_from_file(changed(tmp_path, **{one: np.ones(31, np.float32)}))
    with pytest.raises(ValueError, match=r"tensor Conv2d_2b_3x3\.conv\.weight is missing"):
        inception_from_file(changed(tmp_path))
    with pytest.raises(ValueError, match="running_var is I32"):
        inception_from_file(changed(tmp_path, **{one: np.ones(32, np.int32)}))


def test_what_is_left_over_is_of_another_network(checkpoint, tmp_path):
    more = checkpoint[0] | {"AuxLogits.fc.bias": np.ones(2, np.float32)}
    safetensors.numpy.save_file(more, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=r"no tensor AuxLogits\.fc\.bias \(1 left over\)"):
        inception_from_file(tmp_path / "more.safetensors")


def test_the_digest_hangs_on_every_value_and_not_on_the_file(checkpoint, tmp_path):
    weights, (_, digest) = checkpoint
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file(weights, other, {"said": "by somebody else"})
    assert inception_from_file(other).digest == digest
    bias = "Mixed_7c.branch_pool.bn.bias"
    safetensors.numpy.save_file(weights | {bias: weights[bias] + 1e-3}, other)
    assert inception_from_file(other).digest != digest


def test_pickles_and_missing_files_are_refused_with_what_to_do(tmp_path):
    missing = tmp_path / "inception.safetensors"
    with pytest.raises(ValueError, match=f"{CHECKPOINT}.*sha256 begins with 6726825d") as caught:
        inception_from_file(missing)
    assert CONVERT in str(caught.value)
    for path, content in ((tmp_path / CHECKPOINT, b""), (missing, b"PK\x03\x04 and so on")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is a pickle, which can execute code") as caught:
            inception_from_file(path)
        assert CONVERT in str(caught.value)
    assert "weights_only=True" in CONVERT


def test_the_command_converts_a_checkpoint_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {"a.conv.weight": torch.ones(2, 3).T, "a.bn.num_batches_tracked": torch.tensor(5)}
    torch.save(weights, tmp_path / CHECKPOINT)
    code = shlex.split(CONVERT)
    assert code[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *code[1:]], cwd=tmp_path, check=True)
    found = safetensors.numpy.load_file(tmp_path / "inception.safetensors")
    assert {name: tensor.shape for name, tensor in found.items()} == {"a.conv.weight": (3, 2)}
