"""diffusers' side of a comparison, in a process of its own; it imports torch, as `clip_peer`."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from ddpm_jax.commands.benchmark.worker import Work

# Of their networks, by the class that config.json names.
NETWORKS = {
    "UNet2DModel": diffusers.UNet2DModel,
    "DiTTransformer2DModel": diffusers.DiTTransformer2DModel,
    "UNet2DConditionModel": diffusers.UNet2DConditionModel,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def start(spec: Mapping[str, Any]) -> Work:
    """Set up the work of a spec, done once.

    All cores compute, as many as jax takes, and denormals are flushed, as XLA does: Adam's moments
    of what has no gradient yet are denormals, each of which takes a hundred times as long.

    Args:
      spec: {"what": a key of WORK; "exchange": where the weights and ours'
        arrays lie; "mode": "eager" or "compile"; "dtype"; "steps", of sampling; "facts": of ours;
        "dit": of weights, the network's fields}.
    """
    # Before any other thread is there: they take it over from the one that makes them.
    torch.set_flush_denormal(True)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as jax has it there
    torch.manual_seed(0)
    return WORK[spec["what"]](spec)


def weights(spec: Mapping[str, Any]) -> Work:
    """Write a transformer with one embedding of time and class, in all its blocks, as ours has."""
    network: Any = diffusers.DiTTransformer2DModel(**spec["dit"])
    first, *rest = network.transformer_blocks
    for block in rest:
        block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    network.save_pretrained(Path(spec["exchange"]) / "weights")
    return Work({}, lambda repeats: None)


def train_step(spec: Mapping[str, Any]) -> Work:
    """What a training script with diffusers does in a step.

    Draw t and eps; add the noise by DDPMScheduler; the squared error of eps; its gradient, clipped
    by `clip_grad_norm_`; `torch.optim.Adam` with its defaults; a moving average by
    `_foreach_lerp_`, the fastest one there is. Compiled is the network, the rest is as before. In
    bfloat16 the forward pass is under autocast, with parameters in float32.
    """
    facts, dtype = spec["facts"], DTYPES[spec["dtype"]]
    network, arrays, device = _network(spec), _arrays(spec), _device()
    scheduler: Any = diffusers.DDPMScheduler(1000)
    parameters = [p for p in network.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=facts["learning_rate"])
    x0, label = _channels_first(arrays["x0"]), _labels(network, arrays)

    def predicted(xt: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return network(xt, time, class_labels=label).sample

    def loss_of(time: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        xt = scheduler.add_noise(x0, eps, time)
        return torch.nn.functional.mse_loss(predicted(xt, time).float(), eps)

    network.eval()
    with torch.no_grad():
        time = torch.tensor(arrays["time"].round(), dtype=torch.long, device=device)
        loss = float(loss_of(time, _channels_first(arrays["eps"])))
    network.train()
    difference = abs(loss / float(arrays["loss"]) - 1)
    if spec["mode"] == "compile":
        network = torch.compile(network)

    def step() -> None:
        time = torch.randint(0, 1000, (len(x0),), device=device)
        loss_of(time, torch.randn_like(x0)).backward()
        if facts["grad_clip"]:
            torch.nn.utils.clip_grad_norm_(parameters, facts["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - facts["ema_decay"])

    count = sum(p.numel() for p in parameters)
    return _work({"parameters": count, "loss_difference": difference}, step)


def sampling(spec: Mapping[str, Any]) -> Work:
    """DDIMScheduler's loop, from noise on the host to images on the host."""
    network, arrays, device = _network(spec), _arrays(spec), _device()
    dtype = DTYPES[spec["dtype"]]
    if spec["mode"] == "compile":
        network = torch.compile(network)
    scheduler: Any = diffusers.DDIMScheduler(1000, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(spec["steps"])

    def draw() -> np.ndarray:
        sample = _channels_first(arrays["x"])
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        ):
            for timestep in scheduler.timesteps:
                output = network(sample, timestep).sample.float()
                sample = scheduler.step(output, timestep, sample).prev_sample
        return sample.permute(0, 2, 3, 1).cpu().numpy()

    difference = float(np.abs(draw() - arrays["images"]).max())
    return _work({"image_difference": difference}, draw)


def latent_unet(spec: Mapping[str, Any]) -> Work:
    """A forward pass that reads a text, its weights held in the precision of the computation."""
    dtype, device = DTYPES[spec["dtype"]], _device()
    network, arrays = _network(spec).to(dtype).eval(), _arrays(spec)
    xt = _channels_first(arrays["xt"]).to(dtype)
    time, tokens = (torch.tensor(arrays[name], device=device) for name in ("time", "tokens"))
    tokens = tokens.to(dtype)
    if spec["mode"] == "compile":
        network = torch.compile(network)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return network(xt, time, tokens).sample

    output = call().float().permute(0, 2, 3, 1).cpu().numpy()
    difference = float(np.abs(output - arrays["output"]).max() / arrays["output"].std())
    return _work({"output_difference": difference}, call)


WORK: dict[str, Callable[[Mapping[str, Any]], Work]] = {
    "weights": weights,
    "train_step": train_step,
    "sampling": sampling,
    "latent_unet": latent_unet,
}


def _work(facts: dict[str, Any], once: Callable[[], Any]) -> Work:
    """The work of repeating a function, done once already."""

    def run(repeats: int) -> None:
        for _ in range(repeats):
            once()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    run(2)  # the first one compiles, and makes the optimiser's moments
    return Work({"torch": torch.__version__, "diffusers": diffusers.__version__, **facts}, run)


def _network(spec: Mapping[str, Any]) -> Any:
    folder = Path(spec["exchange"]) / "weights"
    fields = diffusers.UNet2DModel.load_config(str(folder))
    options = {"low_cpu_mem_usage": False, "local_files_only": True}
    network: Any = NETWORKS[fields["_class_name"]].from_pretrained(str(folder), **options)
    blocks = getattr(network, "transformer_blocks", None)
    if blocks is not None:
        # As ours and the paper's: one embedding, the paper's frequencies, no label dropped.
        embedding = blocks[0].norm1.emb
        embedding.time_proj.downscale_freq_shift = 0
        embedding.class_embedder.dropout_prob = 0.0
        for block in blocks:
            block.norm1.emb = embedding
    return network.to(_device())


def _arrays(spec: Mapping[str, Any]) -> dict[str, np.ndarray]:
    with np.load(Path(spec["exchange"]) / "arrays.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def _labels(network: Any, arrays: dict[str, np.ndarray]) -> torch.Tensor | None:
    transformer = hasattr(network, "transformer_blocks")
    if not transformer and network.config.num_class_embeds is None:
        return None
    return torch.tensor(arrays["label"], dtype=torch.long, device=_device())


def _channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images, device=_device()).permute(0, 3, 1, 2).contiguous()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
