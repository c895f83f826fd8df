"""Training steps of networks that people know, in images a second and beside diffusers'."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ddpm_jax.commands.benchmark import turns
from ddpm_jax.commands.benchmark.options import Options, config_file
from ddpm_jax.commands.benchmark.processes import Failed
from ddpm_jax.measures import device_peaks

PEER = "diffusers"
# The same for all: what diffusers' scripts have too. Labels are never dropped.
PLAIN: dict[str, dict[str, Any]] = {
    "diffusion": {
        "schedule": "linear",
        "variance": "fixed_large",
        "loss": "simple",
        "label_dropout": 0.0,
    },
    "optim": {"name": "adam", "weight_decay": 0.0, "grad_clip": 1.0},
    "mesh": {"data": 1, "fsdp": 1},
}


class Network(NamedTuple):
    """A network to train.

    Attributes:
      config: a file of configs/.
      changes: of its fields, beside PLAIN.
      batch: on a CPU, and on an accelerator.
      dit: of a transformer, the fields of diffusers'.
    """

    config: str
    changes: dict[str, dict[str, Any]]
    batch: tuple[int, int]
    dit: Mapping[str, Any] | None = None


NETWORKS: Mapping[str, Network] = {
    # 0.9 million parameters, on images of 8x8 pixels.
    "digits_unet": Network(
        "digits.py", {"model": {"num_classes": 0}, "sample": {"guidance_scale": 1.0}}, (64, 64)
    ),
    # 35.7 million.
    "cifar10_unet": Network("cifar10.py", {}, (8, 128)),
    # Peebles & Xie's, on images of 32x32: 130 million, 256 tokens.
    "dit_b2": Network(
        "adm64.py",
        {
            "data": {"image_size": (32, 32)},
            "model": {
                "name": "dit",
                "channels": 768,
                "num_blocks": 12,
                "head_dim": 0,
                "num_heads": 12,
                "patch_size": 2,
                "dropout": 0.0,
            },
        },
        (4, 128),
        {
            "num_attention_heads": 12,
            "attention_head_dim": 64,
            "in_channels": 3,
            "num_layers": 12,
            "sample_size": 32,
            "num_embeds_ada_norm": 1000,
            "norm_eps": 1e-6,
        },
    ),
    # 296 million, on images of 64x64.
    "adm64": Network("adm64.py", {}, (1, 32)),
}


def train_steps(options: Options) -> dict[str, Any]:
    """A step of each of NETWORKS, or of those that were named, in each precision.

    Ours is the whole step of a run: t, eps and dropout are drawn; the gradient is clipped and
    looked at by the guard; Adam, and a moving average. `peers.train_step` says what theirs is.

    Returns:
      {"cifar10_unet float32": as `turns.compared`, with images_per_second and, where the device's
      peak is known, mfu; or {"failed": reason}}.
    """
    rows = {}
    for dtype in options.dtypes:
        for name in options.networks or NETWORKS:
            network = NETWORKS[name]
            asked = spec(network, dtype, options)
            try:
                row = with_rates(turns.compared(asked, options.beside(PEER), rounds=options.rounds))
            except Failed as error:  # such as for want of memory; the others may fit
                row = {"failed": str(error)}
            rows[f"{name} {dtype}"] = row
    return rows


def spec(network: Network, dtype: str, options: Options) -> dict[str, Any]:
    """What `turns.compared` takes of a network."""
    batch = network.batch[options.platform != "cpu"]
    changes = {
        group: {**PLAIN.get(group, {}), **network.changes.get(group, {})}
        for group in {*PLAIN, *network.changes, "data", "model"}
    }
    changes["data"]["batch_size"] = batch
    changes["model"]["dtype"] = dtype
    return {
        "what": "train_step",
        **config_file(network.config),
        "changes": changes,
        "dtype": dtype,
        **({"dit": network.dit} if network.dit else {}),
    }


def with_rates(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `turns.compared` with images and FLOP a second."""
    rate = row["flop_per_step"] / row[turns.OURS]["seconds"]
    return {
        **row,
        "images_per_second": row["batch"] / row[turns.OURS]["seconds"],
        "flop_per_second": rate,
        "mfu": device_peaks.mfu(rate, row["device_kind"], row["devices"]),
    }
