"""One training step over 1, 2, 4 and 8 devices: the same batch, split."""

from typing import Any

from ddpm_jax.commands.benchmark import turns
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.train_steps import NETWORKS, spec

DEVICES = (1, 2, 4, 8)


def scaling(options: Options) -> dict[str, Any]:
    """A step of a network, its batch split over so many devices, and over the data axis alone.

    On a CPU the devices are virtual and share its cores: what is seen there is what splitting
    costs, not what devices bring. On accelerators, the numbers of devices that are there; the batch
    of all is the same, so a perfect step over n devices takes an n-th.

    Returns:
      {"1 device": {"seconds", "over_one": over the seconds of one device, "batch"}, ...}.
    """
    on_cpu = options.platform == "cpu"
    network = NETWORKS["digits_unet" if on_cpu else "dit_b2"]
    dtype = options.dtypes[-1]
    rows: dict[str, Any] = {}
    for num in DEVICES:
        if not on_cpu and num > options.devices:
            break
        asked = spec(network, dtype, options)
        asked["changes"]["mesh"] = {"data": num, "fsdp": 1}
        variables = {"JAX_NUM_CPU_DEVICES": str(num)} if on_cpu else {}
        row = turns.compared(asked, rounds=options.rounds, variables=variables)
        seconds = row[turns.OURS]["seconds"]
        rows[f"{num} device{'s' * (num > 1)}"] = {"seconds": seconds, "batch": row["batch"]}
    one = rows["1 device"]["seconds"]
    return {name: {**row, "over_one": row["seconds"] / one} for name, row in rows.items()}
