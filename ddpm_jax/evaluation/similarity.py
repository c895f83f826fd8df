"""How alike two images are, pixel by pixel and in their structure."""

import numpy as np

WINDOW = 7  # pixels, high and wide
TOP = 255.0  # the range of 8-bit values


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """10 log10(255² / mean squared error) of each pair, in dB, float64 [N]; inf for equal images.

    Args:
      images, others: uint8 [N, H, W, C].

    Raises:
      ValueError: for arrays of another type or of two shapes.
    """
    _check(images, others)
    error = (images.astype(np.float64) - others) ** 2
    mean = error.reshape(len(images), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(TOP**2 / mean)


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The structural similarity of each pair, the mean over channels and windows, float64 [N].

    Over every whole window of 7x7 pixels, with the unbiased variances of its pixels, as
    scikit-image has it by default; the paper's windows are Gaussian.

    Args:
      images, others: uint8 [N, H, W, C], at least 7 high and wide.

    Raises:
      ValueError: for arrays of another type, of two shapes, or smaller ones.

    Source: Wang et al. 2004, equation 13, with K1 = 0.01 and K2 = 0.03.
    """
    _check(images, others)
    if min(images.shape[1:3]) < WINDOW:
        raise ValueError(f"need images of at least {WINDOW}x{WINDOW} pixels, got {images.shape}")
    x, y = images.astype(np.float64), others.astype(np.float64)
    size = WINDOW**2
    mean_x, mean_y = _means(x), _means(y)
    unbiased = size / (size - 1)
    variance_x = unbiased * (_means(x * x) - mean_x**2)
    variance_y = unbiased * (_means(y * y) - mean_y**2)
    covariance = unbiased * (_means(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * TOP) ** 2, (0.03 * TOP) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (above / below).reshape(len(images), -1).mean(axis=1)


def _means(x: np.ndarray) -> np.ndarray:
    """The mean of every whole window, [N, H, W, C] -> [N, H - 6, W - 6, C]."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (WINDOW, WINDOW), axis=(1, 2))
    return windows.mean(axis=(-2, -1))


def _check(images: np.ndarray, others: np.ndarray) -> None:
    if images.dtype != np.uint8 or others.dtype != np.uint8 or images.shape != others.shape:
        raise ValueError(
            f"need two arrays of uint8 images of one shape, got {images.dtype} {images.shape} and "
            f"{others.dtype} {others.shape}"
        )
