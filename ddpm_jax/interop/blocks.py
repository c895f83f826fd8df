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
TOKEN_ATTENTION: Modules = (
    ("query", "to_q", "dense_alone"),
    ("key", "to_k", "dense_alone"),
    ("value", "to_v", "dense_alone"),
    ("out", "to_out.0", "dense"),
)
GATED_MLP: Modules = (("mlp_0", "net.0.proj", "dense"), ("mlp_1", "net.2", "dense"))


def layers(ours: Path, theirs: str, modules: Modules) -> Iterator[Layer]:
    """The layers of a block at a path of ours and a name of theirs."""
    for name, torch_name, kind in modules:
        yield (*ours, name), f"{theirs}.{torch_name}", kind


def transformer(ours: Path, theirs: str, depth: int, linear: bool) -> Iterator[Layer]:
    """The layers of a `SpatialTransformer`, whose projections are matrices or 1x1 convolutions."""
    projection = "dense" if linear else "pointwise"
    yield (*ours, "norm"), f"{theirs}.norm", "norm"
    yield (*ours, "proj_in"), f"{theirs}.proj_in", projection
    for k in range(depth):
        block, name = (*ours, f"block_{k}"), f"{theirs}.transformer_blocks.{k}"
        for i in range(3):
            yield (*block, f"norm_{i}"), f"{name}.norm{i + 1}", "norm"
        for i in range(2):
            yield from layers((*block, f"attention_{i}"), f"{name}.attn{i + 1}", TOKEN_ATTENTION)
        yield from layers(block, f"{name}.ff", GATED_MLP)
    yield (*ours, "proj_out"), f"{theirs}.proj_out", projection
