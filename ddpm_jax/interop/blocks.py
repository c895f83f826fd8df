"""The blocks that networks of diffusers are made of: our layers' names beside theirs."""

from collections.abc import Iterator

from ddpm_jax.interop.tensor_rows import Path

# (our path, diffusers' name, kind) of a layer.
Layer = tuple[Path, str, str]
# The modules of a block: our name, diffusers' name, kind.
Modules = tuple[tuple[str, str, str], ...]
RESNET: Modules = (
    ("norm_0", "norm1", "norm"),
    ("conv_0", "conv1", "conv"),
    ("norm_1", "norm2", "norm"),
    ("conv_1", "conv2", "conv"),
)
TIMED: Modules = (*RESNET, ("embedding", "time_emb_proj", "dense"))
SHORTCUT: Modules = (("shortcut", "conv_shortcut", "pointwise"),)
ATTENTION: Modules = (
    ("norm", "group_norm", "norm"),
    ("query", "to_q", "dense"),
    ("key", "to_k", "dense"),
    ("value", "to_v", "dense"),
    ("out", "to_out.0", "dense"),
)


def layers(ours: Path, theirs: str, modules: Modules) -> Iterator[Layer]:
    """The layers of a block at a path of ours and a name of theirs."""
    for name, torch_name, kind in modules:
        yield (*ours, name), f"{theirs}.{torch_name}", kind
