"""transformers' side of a CLIP's training step, in a process of its own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ddpm_jax.commands.benchmark.worker import Work

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def start(spec: Mapping[str, Any]) -> Work:
    """Set up the step of a spec, done once; threads and denormals as `peers.start` has them.

    Args:
      spec: {"exchange": where the weights and ours' arrays lie; "mode": "eager" or "compile";
        "dtype"; "facts": of ours}.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as jax has it there
    torch.manual_seed(0)
    return train_step(spec)


def train_step(spec: Mapping[str, Any]) -> Work:
    """What a training script with transformers does in a step.

    `CLIPModel(return_loss=True)`, whose loss is the mean of both cross-entropies; its gradient;
    `torch.optim.AdamW`, which decays matrices alone; the scale kept at 100 at most; a moving
    average by `_foreach_lerp_`. Compiled is the network. In bfloat16 the forward pass is under
    autocast, with parameters in float32.
    """
    facts, dtype, folder = spec["facts"], DTYPES[spec["dtype"]], Path(spec["exchange"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network: Any = transformers.CLIPModel.from_pretrained(
        str(folder / "weights"), local_files_only=True
    )
    network = network.to(device)
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        pixels = torch.tensor(arrays["pixels"], device=device).permute(0, 3, 1, 2).contiguous()
        tokens = torch.tensor(arrays["tokens"], dtype=torch.long, device=device)
        ours = float(arrays["loss"])
    parameters = [*network.parameters()]
    average = [p.detach().clone() for p in parameters]
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": facts["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=facts["learning_rate"],
        betas=(0.9, facts["beta2"]),
        eps=facts["epsilon"],
    )

    def loss_of(model: Any) -> torch.Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return model(pixel_values=pixels, input_ids=tokens, return_loss=True).loss

    network.eval()
    with torch.no_grad():
        difference = abs(float(loss_of(network)) / ours - 1)
    network.train()
    called = torch.compile(network) if spec["mode"] == "compile" else network

    def step() -> None:
        loss_of(called).backward()
        if facts["grad_clip"]:
            torch.nn.utils.clip_grad_norm_(parameters, facts["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            network.logit_scale.clamp_(max=float(np.log(100)))
            torch._foreach_lerp_(average, parameters, 1 - facts["ema_decay"])

    def run(repeats: int) -> None:
        for _ in range(repeats):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    run(2)  # the first one compiles, and makes the optimiser's moments
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    count = sum(p.numel() for p in parameters)
    return Work({**versions, "parameters": count, "loss_difference": difference}, run)
