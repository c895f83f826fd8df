"""What a pipeline of diffusers computes with, read of its folder's JSON files: no weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.interop import (
    autoencoder_config,
    clip_config,
    pipeline_config,
    pipeline_tokenizers,
    scheduler,
    text_encoders,
    unet_condition_config,
)
from ddpm_jax.interop.pipeline_config import SCHEDULER, UNET, VAE, Family, Index
from ddpm_jax.interop.pipeline_tokenizers import PipelineTokenizer
from ddpm_jax.interop.scheduler import Scheduler
from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.models.autoencoder import Autoencoder
from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.unet_condition import UNet2DCondition


class PipelineNetworks(NamedTuple):
    """A pipeline without its weights.

    Attributes:
      described: what the folder says of itself.
      unet, autoencoder: the networks.
      texts: the text encoders, by their folders' names.
      tokenizers: of each of them.
      scheduler: the noise that the U-Net was trained on.
    """

    described: Index
    unet: UNet2DCondition
    autoencoder: Autoencoder
    texts: dict[str, TextTransformer]
    tokenizers: dict[str, PipelineTokenizer]
    scheduler: Scheduler


def read(folder: Path) -> PipelineNetworks:
    """What a pipeline's folder says, checked.

    Raises:
      ValueError: as `stable_diffusion.load`, for what shows without weights.
    """
    index = pipeline_config.read(folder)
    tokenizers = read_tokenizers(folder, index.family)
    texts = {name: _text(folder / name, name) for name in tokenizers}
    text_encoders.check(texts)
    for name, words in index.family.towers:
        check_tokenizer(folder / words, tokenizers[name], name, texts[name])
    unet = unet_condition_config.to_unet(unet_condition_config.read(folder / UNET / CONFIG))
    network = autoencoder_config.to_network(*autoencoder_config.read(folder / VAE / CONFIG))
    check_fit(folder, index.name, index.family.pools, unet, texts, network.latent_channels)
    made = scheduler.read(folder / SCHEDULER)
    return PipelineNetworks(index, unet, network, texts, tokenizers, made)


def read_tokenizers(folder: Path, family: Family) -> dict[str, PipelineTokenizer]:
    """The tokenizer of each text encoder. Raises ValueError for files that are none of CLIP's."""
    try:
        found = pipeline_tokenizers.read(folder)
    except UserError as error:
        raise ValueError(str(error)) from error
    return {name: found[words] for name, words in family.towers}


def check_tokenizer(
    folder: Path, words: PipelineTokenizer, name: str, text: TextTransformer
) -> None:
    """Raises ValueError for a tokenizer with tokens that a text encoder does not have."""
    if words.tokenizer.size > text.vocab_size or words.context > text.context_length:
        raise ValueError(
            f"{folder} has {words.tokenizer.size:,} tokens and rows of {words.context}, and {name} "
            f"reads {text.vocab_size:,} and {text.context_length}: they are of different models"
        )


def check_fit(
    path: Path,
    name: str,
    pools: bool,
    unet: UNet2DCondition,
    texts: Mapping[str, TextTransformer],
    channels: int,
) -> None:
    """Whether the parts of a pipeline fit each other.

    Args:
      path: for messages.
      name: the pipeline's class.
      pools: as of `pipeline_config.Family`.
      unet, texts: the networks.
      channels: of the latents.

    Raises:
      ValueError: for parts that do not.
    """
    read = unet.tokens_projected_from or unet.tokens_channels
    told = sum(text.width for text in texts.values())
    if read != told:
        raise ValueError(
            f"{path}: its U-Net reads {read} channels of a text, and its text encoders give {told}"
        )
    if unet.in_channels not in (channels, 2 * channels + 1) or unet.out_channels != channels:
        raise ValueError(
            f"{path}: its U-Net has {unet.in_channels} channels in and {unet.out_channels} out, "
            f"its autoencoder {channels}: need {channels} in, or {2 * channels + 1} for one that "
            "completes images"
        )
    if bool(unet.vector_channels) != pools:
        raise ValueError(
            f"{path}: a {name} has a U-Net that reads "
            f"{'the pooled text and sizes' if pools else 'tokens alone'}"
        )


def check_control(controlnet: ControlNet, unet: UNet2DCondition) -> None:
    """Raises ValueError for a ControlNet that was not made for such a U-Net."""
    read = unet.tokens_projected_from or unet.tokens_channels
    for what, own, needed in (
        ("channels of a text", controlnet.tokens_channels, read),
        ("channels of pooled texts and sizes", controlnet.vector_channels, unet.vector_channels),
        ("channels of each level", controlnet.block_channels, unet.block_channels),
        ("blocks of each level", controlnet.num_blocks, unet.num_blocks),
    ):
        if own != needed:
            raise ValueError(
                f"it is of another model: its {what} are {own}, and those of the pipeline's U-Net "
                f"{needed}"
            )


def _text(folder: Path, name: str) -> TextTransformer:
    """A text encoder, of which the second alone has a projection."""
    try:
        fields = read_json(folder / CONFIG)
        clip_config.check_text(fields)
        projected = name == text_encoders.SECOND
        return clip_config.text_of(
            fields, clip_config.projection_dim(fields) if projected else None
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
