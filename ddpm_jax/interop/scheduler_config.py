"""scheduler_config.json of diffusers' schedulers: each field honoured or refused."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.interop.config_fields import (
    SWITCH,
    Field,
    Known,
    is_int,
    is_number,
    one_of,
    refuse,
)
from ddpm_jax.interop.unet2d_config import read_json

CONFIG = "scheduler_config.json"
PNDM, DDIM, DDPM = "PNDMScheduler", "DDIMScheduler", "DDPMScheduler"
EULER, ANCESTRAL = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
HEUN = "HeunDiscreteScheduler"
DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
# The times of evenly spaced noise levels, and the field that asks for each.
SPACED = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}
ZERO, SIGMA_MIN = "zero", "sigma_min"

_NUMBER = Field(is_number, "a number")
_LEVEL_OR_NULL = Field(
    lambda value: value is None or (is_number(value) and value > 0), "null or a number above 0"
)
_BETA = Field(lambda value: is_number(value) and 0 < value < 1, "a number between 0 and 1")
_OFF = one_of(False, None)
_SWITCH_OR_NULL = one_of(False, True, None)
_NULL = one_of(None)


def _are_betas(value: Any) -> bool:
    return isinstance(value, list) and all(is_number(v) and 0 < v < 1 for v in value)


_BETAS: dict[str, Known] = {
    "num_train_timesteps": Known(1000, Field(lambda v: is_int(v, 2), "a whole number from 2")),
    "beta_start": Known(0.0001, _BETA),
    "beta_end": Known(0.02, _BETA),
    "beta_schedule": Known("linear", one_of("linear", "scaled_linear", "squaredcos_cap_v2")),
    "trained_betas": Known(
        None, Field(lambda v: v is None or _are_betas(v), "null or numbers between 0 and 1")
    ),
    "steps_offset": Known(0, Field(lambda v: is_int(v, 0), "a whole number from 0")),
}


def _predictions(*names: str) -> Known:
    return Known("epsilon", one_of(*names))


_ALL_FORMS = _predictions("epsilon", "v_prediction", "sample")


def _spacing(default: str) -> dict[str, Known]:
    return {"timestep_spacing": Known(default, one_of("leading", "trailing", "linspace"))}


# Without thresholding these have no effect.
_THRESHOLDING: dict[str, Known] = {
    "thresholding": Known(False, one_of(False)),
    "dynamic_thresholding_ratio": Known(0.995, _NUMBER),
    "sample_max_value": Known(1.0, _NUMBER),
}
_LEVELS: dict[str, Known] = {
    "use_karras_sigmas": Known(False, _SWITCH_OR_NULL),
    "use_exponential_sigmas": Known(False, _SWITCH_OR_NULL),
    "use_beta_sigmas": Known(False, _SWITCH_OR_NULL),
}
_FINAL: dict[str, Known] = {"final_sigmas_type": Known(ZERO, one_of(ZERO, SIGMA_MIN))}
_ZERO_SNR: dict[str, Known] = {"rescale_betas_zero_snr": Known(False, SWITCH)}
# Of the multistep solvers, whose times are whole numbers: these two are cut to one, and where one
# falls on a node a rounding decides which.
_CUT = {
    field: Known(False, Field(_OFF.holds, f"false for this class; use_karras_sigmas, or {EULER}"))
    for field in ("use_exponential_sigmas", "use_beta_sigmas")
}
# Of flow matching, which none of these is about.
_NO_FLOW: dict[str, Known] = {
    "use_flow_sigmas": Known(False, _OFF),
    "flow_shift": Known(1.0, _NUMBER),
    "use_dynamic_shifting": Known(False, _OFF),
    "time_shift_type": Known("exponential", one_of("exponential", "linear")),
}
# The defaults are those of diffusers 0.42.1.
FIELDS: dict[str, dict[str, Known]] = {
    PNDM: {
        **_BETAS,
        **_spacing("leading"),
        "skip_prk_steps": Known(False, one_of(True)),
        "set_alpha_to_one": Known(False, SWITCH),
        "prediction_type": _predictions("epsilon", "v_prediction"),
    },
    DDIM: {
        **_BETAS,
        **_spacing("leading"),
        **_THRESHOLDING,
        **_ZERO_SNR,
        # It clips x_0 and keeps the eps of before, which then belong to no x_t.
        "clip_sample": Known(True, one_of(False)),
        "clip_sample_range": Known(1.0, _NUMBER),
        "set_alpha_to_one": Known(True, SWITCH),
        "prediction_type": _ALL_FORMS,
    },
    DDPM: {
        **_BETAS,
        **_spacing("leading"),
        **_THRESHOLDING,
        **_ZERO_SNR,
        "beta_schedule": Known(
            "linear", one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
        ),
        "variance_type": Known(
            "fixed_small", one_of("fixed_small", "fixed_small_log", "fixed_large")
        ),
        "clip_sample": Known(True, SWITCH),
        "clip_sample_range": Known(1.0, _NUMBER),
        "prediction_type": _ALL_FORMS,
    },
    EULER: {
        **_BETAS,
        **_spacing("linspace"),
        **_LEVELS,
        **_FINAL,
        **_ZERO_SNR,
        "prediction_type": _predictions("epsilon", "v_prediction", "sample", "original_sample"),
        "interpolation_type": Known("linear", one_of("linear", "log_linear")),
        "sigma_min": Known(None, _LEVEL_OR_NULL),
        "sigma_max": Known(None, _LEVEL_OR_NULL),
        "timestep_type": Known("discrete", one_of("discrete", "continuous")),
    },
    ANCESTRAL: {
        **_BETAS,
        **_spacing("linspace"),
        **_ZERO_SNR,
        "prediction_type": _predictions("epsilon", "v_prediction"),
    },
    HEUN: {
        **_BETAS,
        **_spacing("linspace"),
        **_LEVELS,
        "beta_start": Known(0.00085, _BETA),
        "beta_end": Known(0.012, _BETA),
        "prediction_type": _ALL_FORMS,
        "clip_sample": Known(False, SWITCH),
        "clip_sample_range": Known(1.0, _NUMBER),
    },
    DPM: {
        **_BETAS,
        **_spacing("linspace"),
        **_THRESHOLDING,
        **_FINAL,
        **_ZERO_SNR,
        **_NO_FLOW,
        **_CUT,
        "use_karras_sigmas": Known(False, _SWITCH_OR_NULL),
        "use_lu_lambdas": Known(False, _SWITCH_OR_NULL),
        "solver_order": Known(2, one_of(1, 2, 3)),
        "prediction_type": _ALL_FORMS,
        # What other classes call theirs, it takes for its own default.
        "algorithm_type": Known("dpmsolver++", one_of("dpmsolver++", "sde-dpmsolver++", "deis")),
        "solver_type": Known("midpoint", one_of("midpoint", "heun", "logrho", "bh1", "bh2")),
        "lower_order_final": Known(True, SWITCH),
        "euler_at_final": Known(False, SWITCH),
        "lambda_min_clipped": Known(
            -math.inf,
            Field(lambda v: is_number(v) or v == -math.inf, "a number or -Infinity"),
        ),
        "variance_type": Known(None, _NULL),
    },
    UNIPC: {
        **_BETAS,
        **_spacing("linspace"),
        **_THRESHOLDING,
        **_FINAL,
        **_ZERO_SNR,
        **_NO_FLOW,
        **_CUT,
        "use_karras_sigmas": Known(False, _SWITCH_OR_NULL),
        "solver_order": Known(2, one_of(1, 2, 3)),
        "prediction_type": _ALL_FORMS,
        "predict_x0": Known(True, one_of(True)),
        "solver_type": Known("bh2", one_of("bh1", "bh2", "midpoint", "heun", "logrho")),
        "lower_order_final": Known(True, SWITCH),
        "disable_corrector": Known([], Field(lambda value: value == [], "an empty list")),
        "solver_p": Known(None, _NULL),
        "sigma_min": Known(None, _LEVEL_OR_NULL),
        "sigma_max": Known(None, _LEVEL_OR_NULL),
        "shift_terminal": Known(None, _NULL),
    },
}
# Fields of diffusers' other schedulers. A config that was made for one class and is used with
# another keeps them, and diffusers passes over what a class does not have.
_OF_OTHERS = {
    "original_inference_steps",
    "rho",
    "sigma_data",
    "sigma_schedule",
    "tensor_format",
    "timestep_scaling",
    "timestep_values",
}


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """The class, and the fields that a file states. Raises OSError if it cannot be read."""
    fields = read_json(path, constants=["-Infinity"])  # lambda_min_clipped
    stated = {field: value for field, value in fields.items() if not field.startswith("_")}
    return fields.get("_class_name", ""), stated


def checked(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a class: what is stated, checked, or diffusers' default.

    Raises:
      ValueError: for a class, field or value that is not supported.
    """
    if name not in FIELDS:
        raise refuse("_class_name", name, ", ".join(FIELDS), CONFIG)
    known = FIELDS[name]
    passed_over = _OF_OTHERS.union(*FIELDS.values())
    for field in fields:
        if field not in passed_over:
            raise refuse(field, fields[field], f"the fields of {name} in diffusers", CONFIG)
    config = {field: fields.get(field, one.default) for field, one in known.items()}
    for field, value in config.items():
        if not known[field].field.holds(value):
            raise refuse(field, value, known[field].field.supported, CONFIG)
    _check(name, config)
    return config


def spaced(config: Mapping[str, Any]) -> str | None:
    """Which evenly spaced noise levels a checked config asks for, a key of SPACED, or None."""
    return next((name for name, field in SPACED.items() if config.get(field)), None)


def _check(name: str, config: Mapping[str, Any]) -> None:
    """The fields go together, or ValueError."""
    betas, size = config["trained_betas"], config["num_train_timesteps"]
    if betas is None and config["beta_start"] > config["beta_end"]:
        start = config["beta_start"]
        raise refuse("beta_end", config["beta_end"], f"beta_start, {start:g}, or more", CONFIG)
    if betas is not None and len(betas) != size:
        raise refuse("num_train_timesteps", size, f"{len(betas)}, as many as trained_betas", CONFIG)
    asked = [field for field in SPACED.values() if config.get(field)]
    if len(asked) > 1:
        raise refuse(asked[1], True, f"false beside {asked[0]}", CONFIG)
    if config.get("clip_sample") and config["clip_sample_range"] != 1:
        raise refuse("clip_sample_range", config["clip_sample_range"], "1", CONFIG)
    CHECKS.get(name, lambda config: None)(config)


def _check_ddpm(config: Mapping[str, Any]) -> None:
    at_zero = {"linspace": True, "trailing": False, "leading": config["steps_offset"] == 0}
    if config["variance_type"] == "fixed_large" and not at_zero[config["timestep_spacing"]]:
        # The last step then adds noise to x_0.
        supported = "fixed_small where the list of times does not end at 0"
        raise refuse("variance_type", config["variance_type"], supported, CONFIG)


def _check_dpm(config: Mapping[str, Any]) -> None:
    if config["solver_order"] < 3:
        return
    if config["solver_type"] == "heun":
        raise refuse("solver_type", "heun", "midpoint beside solver_order 3", CONFIG)
    if config["final_sigmas_type"] == SIGMA_MIN and (config["euler_at_final"] or spaced(config)):
        field = SPACED[spaced(config) or ""] if spaced(config) else "euler_at_final"
        supported = "false beside solver_order 3 with final_sigmas_type sigma_min"
        raise refuse(field, True, supported, CONFIG)


def _check_unipc(config: Mapping[str, Any]) -> None:
    if config["final_sigmas_type"] == SIGMA_MIN and spaced(config):
        # A last step of no length, which theirs divides by.
        raise refuse("final_sigmas_type", SIGMA_MIN, "zero beside use_karras_sigmas", CONFIG)


CHECKS = {DDPM: _check_ddpm, DPM: _check_dpm, UNIPC: _check_unipc}
