"""Training steps of CLIP, in pairs a second and beside transformers'."""

from typing import Any

from ddpm_jax.commands.benchmark import turns
from ddpm_jax.commands.benchmark.options import Options, config_file
from ddpm_jax.commands.benchmark.processes import Failed
from ddpm_jax.commands.benchmark.train_steps import with_rates

PEER = "transformers"
BATCH = (32, 256)  # on a CPU, and on an accelerator
# ViT-B/32 with CLIP's text tower, 151 million parameters, and AdamW as the paper has it.
CONFIG = "clip_vit_b32.py"
NAME = "vit_b32"


def section(options: Options) -> dict[str, Any]:
    """A step of CLIP's ViT-B/32 in each precision.

    Ours is the whole step of a run: the loss of all pairs of the batch, its gradient, which the
    guard looks at, AdamW, and a moving average. `clip_peer.train_step` says what theirs is.

    Returns:
      {"vit_b32 float32": as `turns.compared`, with images_per_second and mfu; or {"failed":
      reason}}.
    """
    rows = {}
    for dtype in options.dtypes:
        asked = spec(dtype, BATCH[options.platform != "cpu"])
        try:
            row = turns.compared(asked, options.beside(PEER), rounds=options.rounds)
            rows[f"{NAME} {dtype}"] = with_rates(row)
        except Failed as error:
            rows[f"{NAME} {dtype}"] = {"failed": str(error)}
    return rows


def spec(dtype: str, batch: int, **model: Any) -> dict[str, Any]:
    """What `turns.compared` takes of a precision and a batch; `model` changes config.model."""
    changes = {
        "data": {"batch_size": batch},
        "model": {"dtype": dtype, **model},
        "mesh": {"data": 1, "fsdp": 1},
    }
    return {"what": "clip_step", **config_file(CONFIG), "changes": changes, "dtype": dtype}
