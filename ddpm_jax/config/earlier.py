"""Configs that earlier versions wrote: where their fields stand now.

Options that only some choices take were fields of their own, None where they were not set; now they
are the entries of dicts. A classifier was a network's name; now it is a kind of run.
"""

from typing import Any

# {group: {field: (dict of options, its key)}}
MOVED: dict[str, dict[str, tuple[str, str]]] = {
    "data": {
        name: ("options", name)
        for name in (
            "max_objects",
            "held_out",
            "train_split",
            "validation_split",
            "holdout",
            "labels_file",
            "on_error",
        )
    },
    "diffusion": {
        name: ("schedule_options", name)
        for name in (
            "beta_start",
            "beta_end",
            "beta_min",
            "beta_max",
            "sigma_min",
            "sigma_max",
            "max_beta",
            "shift",
            "gamma_0",
            "gamma_1",
        )
    }
    | {
        "cosine_s": ("schedule_options", "s"),
        "sigma_data": ("prediction_options", "sigma_data"),
        "vlb_weight": ("loss_options", "vlb_weight"),
        "weighting_gamma": ("weighting_options", "gamma"),
        "weighting_k": ("weighting_options", "k"),
        "weighting_bias": ("weighting_options", "bias"),
        "weighting_sigma_data": ("weighting_options", "sigma_data"),
        "time_mean": ("time_options", "mean"),
        "time_std": ("time_options", "std"),
        "time_min": ("time_options", "t_min"),
        "time_history": ("time_options", "history_size"),
        "time_uniform_prob": ("time_options", "uniform_prob"),
    },
    "sample": {
        name: ("options", name)
        for name in (
            "eta",
            "S_churn",
            "S_min",
            "S_max",
            "S_noise",
            "step_size",
            "snr",
            "rtol",
            "atol",
            "t_min",
            "order",
            "steps_per_level",
            "num_corrections",
            "max_steps",
            "method",
            "form",
            "variant",
            "predictor",
            "solver",
            "corrector",
            "sde",
            "lower_order_final",
            "final_denoise",
            "num_resamples",
            "jump_length",
        )
    }
    | {
        f"grid_{name}": ("grid_options", name)
        for name in (
            "rho",
            "sigma_min",
            "sigma_max",
            "log_snr_min",
            "log_snr_max",
            "steps_offset",
        )
    },
}
# What the data's fields were by default, whether the data set took them or not.
DATA_DEFAULTS: dict[str, Any] = {
    "held_out": (),
    "train_split": "train",
    "validation_split": "test",
    "holdout": 0.05,
    "labels_file": "",
    "on_error": "stop",
}
# Which of them each data set took; a name that is not here was TFDS's.
TAKEN = {
    "digits": (),
    "shapes": ("max_objects", "held_out"),
    "folder": ("holdout", "labels_file", "on_error"),
}
TAKEN_BY_TFDS = ("train_split", "validation_split", "on_error")
JUMPS = ("num_resamples", "jump_length")


def place(name: str) -> str | None:
    """Where a dotted field of an earlier version stands now; None if it never moved."""
    group, _, field = name.partition(".")
    if field not in MOVED.get(group, {}):
        return None
    options, key = MOVED[group][field]
    return f"{group}.{options}.{key}"


def translated(content: dict[str, Any]) -> dict[str, Any]:
    """What a config.json holds, with the fields of earlier versions where they stand now.

    Args:
      content: {group: {field: value}}; as this version writes it, it comes back as it is.
    """
    groups = {name: dict(g) if isinstance(g, dict) else g for name, g in content.items()}
    for group, fields in groups.items():
        if isinstance(fields, dict):
            unread = [f for f in MOVED.get(group, {}) if _unread(fields, group, f)]
            kept = {field: value for field, value in fields.items() if field not in unread}
            groups[group] = moved(group, kept)
    sample, model = groups.get("sample"), groups.get("model")
    if isinstance(sample, dict) and set(JUMPS) & set(sample.get("options", {})):
        sample["sampler"] = "repaint"
    if isinstance(model, dict) and "kind" not in groups:
        groups["kind"] = "classifier" if model.get("name") == "classifier" else "denoiser"
    return groups


def moved(group: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a group, those of an earlier version as entries of dicts of options."""
    places = MOVED.get(group, {})
    made = {field: value for field, value in fields.items() if field not in places}
    for field, (options, key) in places.items():
        if fields.get(field) is not None:
            made[options] = {**made.get(options, {}), key: fields[field]}
    return made


def _unread(fields: dict[str, Any], group: str, field: str) -> bool:
    """A field that was not set: None, or of the data, at its default or never taken."""
    value = fields.get(field)
    if value is None or group != "data":
        return value is None
    takes = TAKEN.get(fields.get("name", ""), TAKEN_BY_TFDS)
    return field not in takes or DATA_DEFAULTS.get(field) == value
