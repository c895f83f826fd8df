"""What an evaluation's measures take on the host."""

import json
import time
from typing import Any

import numpy as np

from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import python
from ddpm_jax.evaluation import manifold

# In a process of its own, whose largest size is then that of the streaming.
STREAM = """
import json, resource, time
import numpy as np
from ddpm_jax.evaluation import moments

rng, taken = np.random.default_rng(0), 0.0
total = moments.zero(2048)
for _ in range(200):
    batch = rng.standard_normal((250, 2048), np.float32)
    began = time.perf_counter()
    total = moments.update(total, batch)
    taken += time.perf_counter() - began
assert total.num == 50_000
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": taken, "peak_memory": peak}))
"""


def feature_statistics(options: Options) -> dict[str, float]:
    """Mean and covariance of 50,000 features of 2048 dimensions that come in batches of 250."""
    done = python("-c", STREAM)
    return json.loads(done.stdout)


def prdc(options: Options) -> dict[str, Any]:
    """10,000 samples against 10,000 references in 64 dimensions, with intervals."""
    rng = np.random.default_rng(0)
    samples, references = rng.standard_normal((2, 10_000, 64), np.float32)
    began = time.perf_counter()
    manifold.prdc(samples, references)
    return {"seconds": time.perf_counter() - began}
