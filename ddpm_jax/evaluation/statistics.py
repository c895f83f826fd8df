"""Reference statistics as files: the .npz with `mu` and `sigma` that FID codes share."""

import os
import zipfile
from typing import BinaryIO

import numpy as np

from ddpm_jax.evaluation import npz
from ddpm_jax.evaluation.moments import Statistics
from ddpm_jax.runtime import files

LIMIT_BYTES = 2**30  # of an array; 2048 dimensions take 2**25
_NUM_BYTES = 4096


def save(path: str | os.PathLike[str], statistics: Statistics) -> None:
    """Write `mu` and `sigma` in float64, and `num` if it is known; whole or not at all.

    Other codes read the first two and leave the third.

    Raises:
      OSError: if it cannot be written.
    """
    arrays = {"mu": np.asarray(statistics.mean), "sigma": np.asarray(statistics.covariance)}
    if statistics.num is not None:
        arrays["num"] = np.array(statistics.num, np.int64)
    with files.whole(path) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(path: str | os.PathLike[str], mean: str = "mu", covariance: str = "sigma") -> Statistics:
    """What such a file holds, whoever wrote it; arrays beside those are not read.

    ADM's reference batches hold 10,000 images, 2 GB, beside their statistics: those stay on disk.
    Nothing in it is executed: arrays of objects, which are pickles, are refused. An array is
    no larger than the file says in its list of contents, and that is bounded.

    Args:
      path: of the file.
      mean, covariance: the names of the arrays; ADM's reference batches have "mu_s" and "sigma_s"
        for sFID.

    Raises:
      OSError: if it cannot be opened.
      ValueError: for anything but such a file: one line with its path and what is wrong.
    """
    try:
        with files.regular(path) as file:
            return _statistics(file, mean, covariance)
    except (ValueError, *npz.BROKEN) as error:
        raise ValueError(
            f"{os.fspath(path)} is no .npz of reference statistics: {error or 'it is cut off'}"
        ) from error


def _statistics(file: BinaryIO, mean: str, covariance: str) -> Statistics:
    try:
        with zipfile.ZipFile(file) as archive:
            mu = _array(archive, mean, LIMIT_BYTES)
            sigma = _array(archive, covariance, LIMIT_BYTES)
            has_num = "num.npy" in archive.namelist() and (mean, covariance) == ("mu", "sigma")
            num = _array(archive, "num", _NUM_BYTES) if has_num else None
    except OSError as error:  # its list of contents points outside of it
        raise ValueError("it is damaged") from error
    return _checked(mu, sigma, num, f"{mean} and {covariance}")


def _array(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """An array of numbers, no larger than `limit`."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        names = ", ".join(archive.namelist()[:8])[:200] or "nothing"
        raise ValueError(f"it has no array {name!r}; it holds {names!r}") from None
    if info.file_size > limit:
        raise ValueError(f"{name} has more than the limit of {limit:,} bytes")
    with archive.open(info) as stream:
        return npz.array(stream, name, "fiu")


def _checked(mu: np.ndarray, sigma: np.ndarray, num: np.ndarray | None, names: str) -> Statistics:
    width = mu.shape[0] if mu.ndim == 1 else 0
    if not width or sigma.shape != (width, width):
        raise ValueError(f"{names} have shapes {mu.shape} and {sigma.shape}, not [D] and [D, D]")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{names} are not finite")
    largest = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > 1e-4 * largest or sigma.diagonal().min() < 0:
        raise ValueError(f"{names}: the second is no covariance, symmetric with variances >= 0")
    if num is not None and (num.shape or num.dtype.kind not in "iu" or num < 2):
        raise ValueError(f"num is {num.dtype} of shape {num.shape}, no number of 2 or more")
    return Statistics(mu, (sigma + sigma.T) / 2, None if num is None else int(num))
