"""Power-function averages and their reconstruction after training (Karras et al. 2024).

"Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 3 and
appendix C. The profile of such an average at time t is p(tau) = (gamma + 1) tau^gamma / t^(gamma+1)
for 0 <= tau <= t. Profiles of other widths are linear combinations of stored ones up to a residual,
and so are the averages themselves. All of it is float64 on the host.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Of the uniform average, gamma = 0: that of a uniform distribution on [0, 1].
LARGEST_STD = 12**-0.5
# Directions of less than 1e-5 of a profile's norm are left out: snapshots that nearly coincide
# would otherwise get huge coefficients of opposite signs, and their rounding with them.
_RCOND = 1e-10


class Combination(NamedTuple):
    """A profile made of others.

    Attributes:
      coefficients: float64 [n], of the stored averages; their sum is 1.
      residual: the L2 norm of what the profile differs by, over its own.
    """

    coefficients: np.ndarray
    residual: float


def exponent(std: float) -> float:
    """gamma of a profile whose standard deviation is std t (eq. 126, algorithm 2).

    The root of std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (eq. 123), a cubic in gamma.

    Raises:
      ValueError: unless 0 < std < `LARGEST_STD`.
    """
    if not 0 < std < LARGEST_STD:
        raise ValueError(f"need a std above 0 and below {LARGEST_STD:.4f}, got {std}")
    inverse = float(std) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def inner_products(
    times: np.ndarray, exponents: np.ndarray, others: np.ndarray, other_exponents: np.ndarray
) -> np.ndarray:
    """Integrals of the products of two sets of profiles, [n, m] (eq. 151).

    Args:
      times, exponents: t and gamma of the first set, [n].
      others, other_exponents: of the second, [m].
    """
    t, s = times[:, None], others[None, :]
    a, b = exponents[:, None], other_exponents[None, :]
    # The shorter profile ends where the longer one is tau^gamma of its own time.
    decline = np.where(t < s, b, -a)
    return (a + 1) * (b + 1) * (t / s) ** decline / ((a + b + 1) * np.maximum(t, s))


def combine(times: Sequence[int], stds: Sequence[float], t: int, std: float) -> Combination:
    """The combination of stored averages that is nearest to another one (section 3.2).

    Least squares between profiles (algorithm 3), among combinations whose coefficients add up to
    1: parameters that stay the same are then their own average, whatever the residual. (The
    published code solves without this condition and divides by the sum.)

    Args:
      times: updates after which each was stored, [n], at least 1 and at most t.
      stds: relative widths, [n].
      t: updates after which the other one would have been taken.
      std: its relative width.

    Raises:
      ValueError: for a std out of range, no times, or times that are not in 1..t.
    """
    if not len(times) or not all(1 <= time <= t for time in times):
        raise ValueError(f"need times from 1 to {t}, got {[*times]}")
    of, gammas = np.asarray(times, np.float64) / t, np.array([exponent(s) for s in stds])
    whole, gamma = np.ones(1), np.array([exponent(std)])
    products = inner_products(of, gammas, of, gammas)
    wanted = inner_products(of, gammas, whole, gamma)[:, 0]
    square = inner_products(whole, gamma, whole, gamma)[0, 0]
    # Of unit norm each, or the narrow ones would decide what is left out.
    norms = np.sqrt(np.diag(products))
    sides = np.stack([wanted / norms, 1 / norms], axis=1)
    solved = np.linalg.lstsq(products / np.outer(norms, norms), sides, rcond=_RCOND)[0]
    free, along = (solved / norms[:, None]).T
    coefficients = free + along * (1 - free.sum()) / along.sum()
    squared = square - 2 * coefficients @ wanted + coefficients @ products @ coefficients
    return Combination(coefficients, float(np.sqrt(max(squared, 0.0) / square)))
