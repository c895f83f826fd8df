"""Pixels, principal components and exported features; batches and devices that change nothing."""

import io
import json
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from sklearn.decomposition import PCA

from ddpm_jax.evaluation import features


def random_images(number=40, shape=(3, 2, 1), levels=256, seed=0):
    return np.random.default_rng(seed).integers(0, levels, (number, *shape), np.uint8)


def test_pixels_go_from_0_to_1_in_reading_order():
    images = np.array([[[0, 16], [8, 4]]], np.uint8)[..., None]
    found = features.pixels((2, 2, 1), levels=17).apply(images)
    assert found.pooled.dtype == np.float32
    assert found.pooled.tolist() == [[0, 1, 0.5, 0.25]]
    assert found.logits is None
    assert found.spatial is None


@pytest.mark.parametrize("number", [100, 7], ids=["more images than pixels", "fewer"])
def test_principal_components_are_scikit_learns(number):
    images = random_images(number, (4, 3, 1))
    theirs = PCA(4, svd_solver="full").fit(images.reshape(number, -1) / 255)
    others = random_images(9, (4, 3, 1), seed=1)
    expected = theirs.transform(others.reshape(9, -1) / 255)
    found = features.pca(images, 4).apply(others).pooled
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    # The sign: it does not depend on the order of the images.
    again = features.pca(images[::-1].copy(), 4).apply(others).pooled
    np.testing.assert_allclose(found, again, atol=1e-6)


def test_a_components_largest_entry_is_positive():
    images = np.zeros((20, 1, 3, 1), np.uint8)
    images[:, 0, 1, 0] = np.arange(20) * 10  # alone varies
    found = features.pca(images, 1).apply(images).pooled[:, 0]
    np.testing.assert_allclose(found, (np.arange(20) - 9.5) * 10 / 255, atol=1e-6)


def test_components_that_are_rounding_alone_are_refused():
    images = random_images(30)
    images[:, 0] = 7
    features.pca(images, 4)
    with pytest.raises(ValueError, match="num_components=5: 30 images of 6 values vary in 4"):
        features.pca(images, 5)
    with pytest.raises(ValueError, match="vary in 0 directions"):
        features.pca(np.zeros_like(images), 1)


def test_protocols_tell_what_would_change_the_features():
    images = random_images()
    one = features.pca(images, 3).protocol
    assert one == features.pca(images.copy(), 3).protocol
    for other in (
        features.pca(images, 2),
        features.pca(images[:-1], 3),
        features.pca(images // 2, 3, levels=128),
    ):
        assert other.protocol != one
    json.dumps(one)
    assert features.pixels((3, 2, 1)).protocol != features.pixels((2, 3, 1)).protocol


@pytest.mark.parametrize("make", [features.pixels, None], ids=["pixels", "pca"])
def test_other_images_are_refused(make):
    images = random_images(levels=17)
    extractor = make((3, 2, 1), levels=17) if make else features.pca(images, 2, levels=17)
    with pytest.raises(ValueError, match="images are float32; need uint8 from 0 to 16"):
        extractor.apply(images.astype(np.float32))
    with pytest.raises(ValueError, match=r"\(3, 2, 3\), the extractor's are \(3, 2, 1\)"):
        extractor.apply(images.repeat(3, axis=-1))
    with pytest.raises(ValueError, match=r"need .N, H, W, C., N at least 1"):
        extractor.apply(images[:0])
    with pytest.raises(ValueError, match="a pixel is 17"):
        extractor.apply(images + np.uint8(17 - images.max()))
    with pytest.raises(ValueError, match="levels=1"):
        features.pixels((3, 2, 1), levels=1)


def network(params, images):
    x = features.scaled(images, 256)
    h = jax.lax.conv_general_dilated(x, params, (1, 1), "SAME", dimension_numbers=DIMENSIONS)
    return jnp.tanh(h).reshape(len(h), -1), None, h.mean(axis=(1, 2))


DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def test_neither_batch_size_nor_devices_change_features(monkeypatch):
    assert jax.local_device_count() == 8
    images = random_images(21, (6, 5, 3))
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype(np.float32)
    whole = features.compiled(network, kernel, per_device=2)(images)
    assert whole[0].shape == (21, 120)
    assert whole[1] is None
    apart = features.compiled(network, kernel, per_device=1)
    by_image = [apart(image[None]) for image in images]
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    alone = features.compiled(network, kernel, per_device=10)(images)
    for k in (0, 2):
        np.testing.assert_allclose(alone[k], whole[k], atol=1e-6, rtol=0)
        joined = np.concatenate([found[k] for found in by_image])
        np.testing.assert_allclose(joined, whole[k], atol=1e-6, rtol=0)


def test_features_that_are_not_finite_are_refused_with_their_image():
    def divide(params, images):
        return (1 / images.astype(jnp.float32).reshape(len(images), -1),)

    images = np.ones((20, 2, 2, 1), np.uint8)
    images[[13, 17], 1, 0] = 0
    with pytest.raises(ValueError, match=r"row 13 are not finite \(2 such rows of 20\)"):
        features.compiled(divide, {}, per_device=1)(images)


ARRAYS = {
    "features": np.random.default_rng(0).normal(size=(5, 3)),
    "logits": np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32),
}


def write(path, arrays, told=None):
    """What numpy or safetensors write themselves."""
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays, **({} if told is None else {"extractor": told}))
    else:
        safetensors.numpy.save_file(arrays, path, None if told is None else {"extractor": told})
    return path


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_exported_features_are_read(tmp_path, kind):
    found, protocol, digest = features.from_file(write(tmp_path / f"f{kind}", ARRAYS, "theirs"))
    assert found.pooled.dtype == np.float32
    np.testing.assert_array_equal(found.pooled, ARRAYS["features"].astype(np.float32))
    np.testing.assert_array_equal(found.logits, ARRAYS["logits"])
    assert found.spatial is None
    assert protocol == {"extractor": "theirs", "features": 3, "logits": 2, "spatial": None}
    other = write(tmp_path / f"g{kind}", {"features": -ARRAYS["features"]})
    assert features.from_file(other).digest != digest
    # As numpy keeps it: by columns, of the other byte order.
    if kind == ".npz":
        by_column = {"features": np.asfortranarray(ARRAYS["features"].astype(">f4"))}
        again = features.from_file(write(tmp_path / "h.npz", by_column))
        np.testing.assert_array_equal(again.features.pooled, found.pooled)


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": ARRAYS["logits"]}, 'no array "features".*it holds logits'),
        ({"features": np.zeros(5)}, r'"features" has shape \(5,\)'),
        ({**ARRAYS, "logits": np.zeros((4, 2))}, r'"logits" has shape \(4, 2\).*\[5, D\]'),
        ({"features": np.zeros((0, 3))}, r"has shape \(0, 3\)"),
        ({"features": np.where(np.eye(5, 3, -2), np.nan, 0.0)}, "row 2 are not finite"),
        ({"features": np.full((5, 3), 1e300)}, "row 0 are not finite"),  # in float32
        ({"features": np.zeros((5, 3), int)}, "'features' is"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path, kind, arrays, message):
    with pytest.raises(ValueError, match=message):
        features.from_file(write(tmp_path / f"f{kind}", arrays))


class Malice:
    """A pickle that leaves a trace when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(tmp_path):
    trace = tmp_path / "trace"
    np.savez(tmp_path / "f.npz", features=np.array([[Malice(trace)]], object))
    with pytest.raises(ValueError, match="'features' is object"):
        features.from_file(tmp_path / "f.npz")
    (tmp_path / "f.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"neither \.npz nor \.safetensors"):
        features.from_file(tmp_path / "f.pkl")
    assert not trace.exists()


def npy(header, data=b""):
    content = io.BytesIO()
    header = header.encode() + b"\n"
    content.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 8)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 8)}", bytes(64)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1)}", bytes(9)),
        npy("(" * 5000),
        b"nothing",
        b"",
    ],
)
def test_a_broken_npz_is_refused(tmp_path, content):
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", content)
    with pytest.raises(ValueError, match=r"is not a whole \.npz file"):
        features.from_file(path)


def test_a_file_that_expands_too_far_is_refused(tmp_path):
    path = write(tmp_path / "f.npz", {"features": np.zeros((1000, 1000))})
    with pytest.raises(ValueError, match="bytes say that they expand to 8,000,128"):
        features.from_file(path)


def test_files_that_are_missing_or_cut_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*f\.npz: give"):
        features.from_file(tmp_path / "f.npz")
    for kind in (".npz", ".safetensors"):
        path = write(tmp_path / f"f{kind}", ARRAYS)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ValueError, match=f"is not a whole {kind} file"):
            features.from_file(path)
