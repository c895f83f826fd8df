"""Deterministic kernels on a GPU: that a resumed run has the same bits, and what they cost."""

from typing import Any

from ddpm_jax.commands.benchmark import turns
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import Worker
from ddpm_jax.commands.benchmark.train_steps import NETWORKS, spec

VARIABLES = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
MEASURED = ("cifar10_unet", "dit_b2")
SKIPPED = {"skipped": "needs a GPU: a CPU's kernels are deterministic as they are"}


def deterministic(options: Options) -> dict[str, Any]:
    """Steps with and without deterministic kernels, in turns; and a run resumed with them.

    Returns:
      {"cifar10_unet": {"seconds", "plain_seconds", "ratio", "resumed_bit_for_bit": bool}, ...}, or
      why it was left out.
    """
    if options.platform != "gpu":
        return SKIPPED
    return {name: one(spec(NETWORKS[name], "bfloat16", options), options) for name in MEASURED}


def one(asked: dict[str, Any], options: Options) -> dict[str, Any]:
    """The same of one network."""
    asked = {**asked, "side": turns.OURS, "exchange": None}
    with Worker({**asked, "what": "resume"}, VARIABLES) as resumed:
        same = resumed.facts["resumed_bit_for_bit"]
    with Worker(asked) as plain, Worker(asked, VARIABLES) as exact:
        taken = turns.take_turns({"plain": plain, "exact": exact}, options.rounds)
    row = turns.medians(taken, "exact")
    return {
        "seconds": row["exact"]["seconds"],
        "plain_seconds": row["plain"]["seconds"],
        "ratio": row["plain"]["ratio"],
        "resumed_bit_for_bit": same,
    }
