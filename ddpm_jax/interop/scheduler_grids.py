"""The lists that diffusers' schedulers make for a number of steps: indices and noise levels.

An index i - 1 of 0 .. T - 1 is what the network is shown at t = i / T. A level is sigma / alpha.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import betaincinv

from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.interop.scheduler_config import DPM, SIGMA_MIN, UNIPC, spaced

# What alpha_bar ends at, instead of 0, in the schedulers that divide by alpha.
FLOOR = 2.0**-24
_RHO = 7.0


class Levels(NamedTuple):
    """The calls of a scheduler that steps down a list of noise levels.

    Attributes:
      positions: [N] where on the chain each level lies, an index, not always a whole one.
      network_times: [N] what the network is shown.
      levels: [N + 1], the last is where the last step ends.
    """

    positions: np.ndarray
    network_times: np.ndarray
    levels: np.ndarray


def table_of(schedule: Schedule, zero_snr: bool) -> np.ndarray:
    """sigma / alpha at every index of a discrete schedule, [T]; zero_snr: its end at the floor."""
    alpha, sigma = schedule.values(np.arange(1, schedule.num_steps + 1) / schedule.num_steps)
    if not zero_snr:
        return sigma / alpha
    floor = FLOOR**-0.5 * (1 - FLOOR) ** 0.5
    return np.append(sigma[:-1] / alpha[:-1], floor)


def indices(config: Mapping[str, Any], num_steps: int) -> np.ndarray:
    """The indices of a spacing, descending, [num_steps]; those of linspace may lie between two.

    Raises:
      ValueError: for a list that leaves 0 .. T - 1, as for a few numbers of steps it does.
    """
    size, offset = config["num_train_timesteps"], config["steps_offset"]
    if config["timestep_spacing"] == "linspace":
        return np.linspace(0, size - 1, num_steps)[::-1]
    if config["timestep_spacing"] == "leading":
        found = np.arange(num_steps)[::-1] * (size // num_steps) + float(offset)
    else:
        found = _trailing(size, size / num_steps)
    return _checked(found, config, num_steps)


def solver_indices(config: Mapping[str, Any], num_steps: int, table: np.ndarray) -> np.ndarray:
    """Those of the multistep solvers: of one step more, without the last of them, index 0."""
    size, offset = config["num_train_timesteps"], config["steps_offset"]
    # Half log-SNRs below this are left out.
    cut = np.sum(-np.log(table) < config.get("lambda_min_clipped", -np.inf))
    last = int(size - cut)
    if config["timestep_spacing"] == "linspace":
        return np.linspace(0, last - 1, num_steps + 1).round()[:0:-1]
    if config["timestep_spacing"] == "leading":
        found = np.arange(num_steps + 1)[:0:-1] * (last // (num_steps + 1)) + float(offset)
    else:
        found = _trailing(last, size / num_steps)
    return _checked(found, config, num_steps)


def levels(name: str, config: Mapping[str, Any], num_steps: int, table: np.ndarray) -> Levels:
    """The calls of a scheduler that steps down a list of levels.

    Args:
      name: its class.
      config: checked.
      num_steps: as set_timesteps takes it.
      table: [T], of `table_of`.
    """
    solver = name in (DPM, UNIPC)
    own = solver_indices(config, num_steps, table) if solver else indices(config, num_steps)
    positions, network_times = own, own
    found = np.interp(own, np.arange(len(table)), table)
    if config.get("interpolation_type") == "log_linear":
        found = np.geomspace(table[-1], table[0], num_steps + 1)
        positions = _positions(found[:-1], table)
    kind = spaced(config)
    if kind is not None:
        ends = (table[-1], table[0]) if solver else (found[0], found[-1])
        high, low = (
            end if config.get(field) is None else config[field]
            for field, end in zip(("sigma_max", "sigma_min"), ends, strict=True)
        )
        found = _SPACINGS[kind](high, low, num_steps)
        positions = network_times = _positions(found, table)
        if solver:
            # To whole numbers; DPM-Solver's are cut to them on a cosine.
            cosine = name == DPM and config["beta_schedule"] == "squaredcos_cap_v2"
            network_times = np.floor(positions) if cosine else positions.round()
    if config.get("timestep_type") == "continuous" and config["prediction_type"] == "v_prediction":
        network_times = 0.25 * np.log(found[: len(network_times)])
    end = table[0] if config.get("final_sigmas_type") == SIGMA_MIN else 0.0
    found = np.append(found, end)[: len(positions) + 1]
    return Levels(positions, network_times, found)


def _trailing(last: int, stride: float) -> np.ndarray:
    return np.arange(last, 0, -stride).round() - 1


def _checked(found: np.ndarray, config: Mapping[str, Any], num_steps: int) -> np.ndarray:
    last = config["num_train_timesteps"] - 1
    if found.min() < 0 or found.max() > last:
        raise ValueError(
            f"timestep_spacing {config['timestep_spacing']} with steps_offset "
            f"{config['steps_offset']} and {num_steps=} asks the network at {found.min():g} to "
            f"{found.max():g}, outside of 0 to {last}: take another number of steps"
        )
    return found


def _positions(found: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Where levels lie on the chain: between its nodes linear in their logarithm."""
    logs = np.log(table)
    low = np.array(
        [np.flatnonzero(logs <= log)[-1] if (logs <= log).any() else 0 for log in np.log(found)]
    ).clip(max=len(table) - 2)
    share = (np.log(found) - logs[low]) / (logs[low + 1] - logs[low])
    return low + share.clip(0, 1)


def _karras(high: float, low: float, num_steps: int) -> np.ndarray:
    return np.linspace(high ** (1 / _RHO), low ** (1 / _RHO), num_steps) ** _RHO


def _exponential(high: float, low: float, num_steps: int) -> np.ndarray:
    return np.geomspace(high, low, num_steps)


def _beta(high: float, low: float, num_steps: int) -> np.ndarray:
    """Quantiles of Beta(0.6, 0.6) between the ends (Lee et al. 2024)."""
    return low + betaincinv(0.6, 0.6, np.linspace(1, 0, num_steps)) * (high - low)


_SPACINGS = {"karras": _karras, "exponential": _exponential, "beta": _beta, "lu": _exponential}
