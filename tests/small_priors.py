"""Tiny runs of unCLIP on drawn shapes: priors and a decoder, on the embeddings of a tiny CLIP."""

from pathlib import Path

import small_clips
from ml_collections import ConfigDict

from ddpm_jax.config import config_files, defaults

# Texts are made tokens by the CLIP's own tokenizer.
OF_DATA = {name: v for name, v in small_clips.FIELDS["data"].items() if name != "tokenizer"}
FIELDS = {name: small_clips.FIELDS[name] for name in ("ema", "train", "mesh")} | {
    "data": OF_DATA,
    "optim": {"learning_rate": 1e-3, "warmup_steps": 0},
}
PRIOR = {
    "model": {
        "embed_dim": 8,
        "text_channels": 16,
        "channels": 16,
        "num_blocks": 1,
        "num_heads": 2,
    },
    "sample": {"num_steps": 4, "batch_size": 8},
}
AUTOREGRESSIVE = {
    "name": "autoregressive",
    "num_components": 6,
    "num_values": 8,
    "components_from": 64,
}
DECODER = {
    "data": {"vocabulary": 1024, "context": 77},
    "model": {
        "name": "dit",
        "channels": 16,
        "num_blocks": 1,
        "num_heads": 2,
        "patch_size": 8,
        "conditions": ("image_embedding",),
        "embed_dim": 8,
    },
    "diffusion": {"condition_dropout": (0.1,), "schedule": "cosine", "prediction": "v"},
    "train": {"sample_every": 6},
    "sample": {"sampler": "ddim", "num_steps": 2, "batch_size": 8, "grid_size": 4},
}


def prior(clip: Path, **changes) -> ConfigDict:
    """The tiny prior of a CLIP's workdir, changed: prior(clip, model=AUTOREGRESSIVE)."""
    return _config("prior", PRIOR, clip, changes)


def decoder(clip: Path, **changes) -> ConfigDict:
    """The tiny model that draws images by embeddings, changed."""
    return _config("denoiser", DECODER, clip, changes)


def _config(kind, own, clip, changes):
    groups = {}
    for part in (FIELDS, own, {"data": {"clip": str(clip)}}, changes):
        for name, fields in part.items():
            groups[name] = groups.get(name, {}) | fields
    return config_files.override(defaults.get_config(kind), groups)
