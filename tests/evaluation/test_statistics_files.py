import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from ddpm_jax.evaluation import moments, statistics
from ddpm_jax.evaluation.moments import Statistics


@pytest.fixture(scope="module")
def known():
    return moments.statistics(moments.of(np.random.default_rng(0).normal(size=(50, 5))))


def assert_same(read, known, rtol=0.0):
    np.testing.assert_allclose(read.mean, known.mean, rtol)
    np.testing.assert_allclose(read.covariance, known.covariance, rtol)


def test_what_was_saved_is_read(known, tmp_path):
    statistics.save(tmp_path / "a.npz", known)
    read = statistics.read(tmp_path / "a.npz")
    assert_same(read, known)
    assert read.num == 50
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:  # as other codes read it
        np.testing.assert_array_equal(file["mu"], known.mean)
        np.testing.assert_array_equal(file["sigma"], known.covariance)
    statistics.save(tmp_path / "b.npz", known._replace(num=None))
    assert statistics.read(tmp_path / "b.npz").num is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_others_saved_is_read(known, tmp_path, save):
    mu, sigma = known.mean.astype(np.float32), np.asfortranarray(known.covariance)
    images = np.array([{"an": "object"}], object)  # is not read
    save(tmp_path / "a.npz", mu=mu, sigma=sigma, mu_s=mu[:2], sigma_s=np.eye(2), arr_0=images)
    read = statistics.read(tmp_path / "a.npz")
    assert_same(read, known, rtol=1e-6)
    assert read.num is None
    assert read.mean.dtype == read.covariance.dtype == np.float64
    assert statistics.read(tmp_path / "a.npz", "mu_s", "sigma_s").covariance.shape == (2, 2)


WRONG = {
    "mu is missing": ({"sigma": np.eye(3)}, "no array 'mu'; it holds 'sigma.npy'"),
    "one wider": ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"\(3,\) and \(4, 4\)"),
    "scalar": ({"mu": np.zeros(()), "sigma": np.eye(1)}, "shapes"),
    "empty": ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "shapes"),
    "NaN": ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, "not finite"),
    "lopsided": ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2], [0, 1]])}, "no covariance"),
    "negative": ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "no covariance"),
    "objects": ({"mu": np.array([None] * 2), "sigma": np.eye(2)}, "'mu' is object"),
    "text": ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "'mu' is <U1"),
    "num": ({"mu": np.zeros(2), "sigma": np.eye(2), "num": np.array(-4)}, "num is int64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_statistics_is_refused_in_one_line(tmp_path, case):
    arrays, message = WRONG[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as refused:
        statistics.read(tmp_path / "a.npz")
    assert str(tmp_path / "a.npz") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, mu=np.array([0.3]), sigma=np.array([[0.7]]))
    whole, known = path.read_bytes(), statistics.read(path)
    cut = [whole[:end] for end in range(0, len(whole), 13)]
    # The lowest bit of each byte: lengths, sums, a method of compression, the mark of a password.
    flipped = [whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in range(len(whole))]
    refused = []
    for content in (*cut, *flipped, b"PK", b"no zip at all"):
        path.write_bytes(content)
        try:
            assert_same(statistics.read(path), known)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) / 2
    assert all(one.startswith(str(path)) and "\n" not in one for one in refused)
    assert any("encrypted" in one for one in refused)
    assert any("compression" in one for one in refused)


def npz_of(headers):
    """A .npz whose arrays have these headers and 64 bytes each."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, (shape, dtype) in headers.items():
            member = io.BytesIO()
            header = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            archive.writestr(f"{name}.npy", member.getvalue() + bytes(64))
    return file.getvalue()


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 2**62), (-1, -8), (-8, -1, 1), (7,)])
def test_a_header_that_promises_what_is_not_there_makes_no_room_for_it(tmp_path, shape):
    (tmp_path / "a.npz").write_bytes(npz_of({"mu": (shape, "<f8"), "sigma": (shape, "<f8")}))
    with pytest.raises(ValueError, match=r"'mu' has (shape|not the)"):
        statistics.read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x93NUMPY\x01\x00\x07\x00{[]: 1}",  # TypeError
        b"\x93NUMPY\x01\x00\x09\x00{'descr':",  # TokenError
        b"\x93NUMPY\x01\x00\xa0\x0f" + b"(" * 4000,
        b"\x93NUMPY\x01\x00\xff\xff" + b"1" * 0xFFFF,
        b"\x93NUMPY\x03\x00\x02\x00\x00\x00{}",
        b"\x93NUMPY\x09\x00",
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mu.npy", header)
        archive.writestr("sigma.npy", header)
    with pytest.raises(ValueError, match=r"has no header|has format|magic|EOF"):
        statistics.read(tmp_path / "a.npz")


def test_large_files_and_bombs_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(100), sigma=np.zeros((100, 100)))
    monkeypatch.setattr(statistics, "LIMIT_BYTES", 20_000)
    assert os.path.getsize(tmp_path / "a.npz") < 20_000
    with pytest.raises(ValueError, match="sigma has more than the limit of 20,000 bytes"):
        statistics.read(tmp_path / "a.npz")


def test_what_is_not_asked_for_is_not_read(known, tmp_path, monkeypatch):
    """A reference batch of ADM: its images take more than any array may, and stay on disk."""
    images = np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images, mu=known.mean, sigma=known.covariance)
    monkeypatch.setattr(statistics, "LIMIT_BYTES", 20_000)
    tracemalloc.start()
    read = statistics.read(tmp_path / "a.npz")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_same(read, known)
    assert most < images.nbytes / 4


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no regular file"):
        statistics.read(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        statistics.read(tmp_path / "b.npz")


def test_a_covariance_read_from_float32_is_symmetric(tmp_path):
    sigma = np.eye(3, dtype=np.float32)
    sigma[0, 1] = 1e-6
    np.savez(tmp_path / "a.npz", mu=np.zeros(3, np.float32), sigma=sigma)
    read: Statistics = statistics.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.covariance, read.covariance.T)
