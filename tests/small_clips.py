"""Tiny runs of CLIP on drawn shapes."""

from ml_collections import ConfigDict

from ddpm_jax.config import config_files, defaults

FIELDS = {
    "data": {
        "name": "shapes",
        "image_size": (16, 16),
        "batch_size": 16,
        "tokenizer": "words",
        "vocabulary": 64,
        "context": 24,
    },
    "model": {
        "embed_dim": 8,
        "image_options": {"patch_size": 8, "width": 16, "depth": 1, "num_heads": 2},
        "text_options": {"width": 16, "depth": 1, "num_heads": 2},
    },
    "optim": {"learning_rate": 1e-3, "warmup_steps": 0, "decay": "constant"},
    "ema": {"decay": 0.9},
    "train": {
        "num_steps": 6,
        "log_every": 1,
        "checkpoint_every": 2,
        "validate_every": 6,
        "validate_examples": 24,
        "writers": (),
    },
    "mesh": {"data": 1},
}

# The changes of the session's own run, `clip_run`: of its data a pair is held out.
OF_THE_RUN = {"data": {"options": {"held_out": ("red circle",)}}}


def config(kind="clip", seed=0, **changes) -> ConfigDict:
    """The tiny config, changed: config(data={"batch_size": 8}, objective={"name": "triplet"}).

    Of noised images it is on the path of `tiny_runs.BRIEF`.
    """
    groups = {name: FIELDS.get(name, {}) | changes.get(name, {}) for name in {**FIELDS, **changes}}
    made = defaults.get_config(kind)
    made.seed = seed
    if "diffusion" in made:
        groups["diffusion"] = {"schedule": "cosine", "num_steps": 10} | groups.get("diffusion", {})
    return config_files.override(made, groups)
