"""Names of tensors in single files of CompVis and Stability AI, from those of diffusers' folders.

A single file holds all networks of a pipeline under the names of the code that trained them, with a
prefix for each network.
"""

import re
from collections.abc import Mapping, Sequence

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    # The label's, or SDXL's of sizes: no network has both.
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_LATENT_ENDS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
}


def of_unet(name: str, num_blocks: Sequence[int]) -> str:
    """The name of a tensor of `UNet2DConditionModel` in a single file.

    Args:
      name: of the tensor in diffusers.
      num_blocks: residual blocks of each level on the way down, level 0 first.
    """
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name)
    if found:
        way, level, module, i, rest = found.groups()
        place = _before(way, int(level), num_blocks) + int(i)
        block = f"{_WAYS[way]}.{place}.{int(module == 'attentions')}"
        return f"{UNET}{block}.{_replaced(rest, _RESNET) if module == 'resnets' else rest}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\.(.*)", name)
    if found:
        way, level, rest = found[1], int(found[2]), found[3]
        place = _before(way, level + 1, num_blocks) - 1
        if way == "down":
            return f"{UNET}input_blocks.{place}.0.op.{rest}"
        # Behind the block and, where there is one, the transformer.
        return f"{UNET}output_blocks.{place}.{{upsampler}}.conv.{rest}"
    moved = _replaced(name, _ENDS)
    if moved.startswith("middle_block.") and not moved.startswith("middle_block.1."):
        head, rest = moved[: len("middle_block.0")], moved[len("middle_block.0.") :]
        moved = f"{head}.{_replaced(rest, _RESNET)}"
    return f"{UNET}{moved}"


def unet_names(names: Sequence[str], num_blocks: Sequence[int]) -> dict[str, str]:
    """{diffusers' name: the single file's} of all tensors of a U-Net. Arguments as `of_unet`."""
    attending = {
        found[1] for name in names if (found := re.match(r"up_blocks\.(\d+)\.attentions\.", name))
    }
    moved = {}
    for name in names:
        level = re.match(r"up_blocks\.(\d+)\.", name)
        place = 2 if level and level[1] in attending else 1
        moved[name] = of_unet(name, num_blocks).replace("{upsampler}", str(place))
    return moved


def of_autoencoder(name: str, num_levels: int) -> str:
    """The name of a tensor of `AutoencoderKL` in a single file; a layer of attention is 1x1 there.

    Args:
      name: of the tensor in diffusers.
      num_levels: of either way; the way up is counted from the largest images on.
    """
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return f"{AUTOENCODER}{name}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(.*)", rest)
    if found:
        way, level, rest = found[1], int(found[2]), found[3]
        place = level if way == "down" else num_levels - 1 - level
        rest = re.sub(r"^resnets\.(\d+)\.", r"block.\1.", rest)
        rest = re.sub(r"^attentions\.(\d+)\.", r"attn.\1.", rest)
        rest = re.sub(r"^(down|up)samplers\.0\.", r"\1sample.", rest)
        moved = f"{way}.{place}.{rest}"
    else:
        moved = _replaced(rest, _LATENT_ENDS)
    moved = moved.replace(".conv_shortcut.", ".nin_shortcut.")
    block = re.fullmatch(r"(.*\battn(?:_1|\.\d+))\.(.*)", moved)
    if block:
        moved = f"{block[1]}.{_replaced(block[2], _ATTENTION)}"
    return f"{AUTOENCODER}{half}.{moved}"


_WAYS = {"down": "input_blocks", "up": "output_blocks"}


def _before(way: str, level: int, num_blocks: Sequence[int]) -> int:
    """How many blocks stand before a level of a way; on the way up level 0 is the lowest."""
    if way == "down":  # the first convolution, then a level's blocks and what halves it
        return 1 + sum(count + 1 for count in num_blocks[:level])
    return sum(count + 1 for count in [*reversed(num_blocks)][:level])


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """The name with its beginning as in a table, which holds whole parts; itself without one."""
    for begin, moved in table.items():
        if name.startswith(f"{begin}."):
            return f"{moved}{name[len(begin) :]}"
    return name
