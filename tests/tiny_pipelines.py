"""Tiny pipelines of Stable Diffusion as diffusers saves them, with random, perturbed weights."""

import json

import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
_UNET = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": (CROSS, PLAIN),
    "up_block_types": (PLAIN_UP, CROSS_UP),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
_UNET_XL = {
    **_UNET,
    "down_block_types": (PLAIN, CROSS),
    "up_block_types": (CROSS_UP, PLAIN_UP),
    "cross_attention_dim": 80,
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}
_UNET_REFINER = {
    **_UNET_XL,
    "cross_attention_dim": 48,
    "projection_class_embeddings_input_dim": 32 + 5 * 8,
}
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def perturbed(module, seed=0):
    """The module with weights at which a wrong epsilon or activation shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            elif any(part in name for part in ("to_q.", "to_k.", "q_proj.", "k_proj.")):
                parameter *= 3
    return module.eval()


def tokenizer(folder, pad="<|endoftext|>"):
    """CLIP's tokenizer with 519 tokens."""
    letters = [*bytes_to_unicode().values()]
    merges = [("a", "t</w>"), ("c", "at</w>"), ("r", "e"), ("re", "d</w>"), ("o", "n</w>")]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    lines = [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(
        folder, pad_token=pad, model_max_length=77, unk_token="<|endoftext|>"
    )


def text_encoder(size, *, projection=False, **fields):
    """A text encoder; its vocabulary is the tokenizer's."""
    config = transformers.CLIPTextConfig(
        **{
            "vocab_size": size,
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            "projection_dim": 32,
        }
        | fields
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return perturbed(kind(config), 1)


def autoencoder(channels=(8, 8, 16, 16)):
    """Four levels, by default: an image is eight times the size of its latents."""
    return perturbed(
        AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            norm_num_groups=8,
            layers_per_block=1,
        ),
        2,
    )


# Of a pipeline that is trained: one level, whose step compiles quickly.
BRIEF = {
    "sample_size": 8,
    "block_out_channels": (16,),
    "down_block_types": (CROSS,),
    "up_block_types": (CROSS_UP,),
}


def make(name, folder, vae=None, **unet):
    """A pipeline by name, saved in a folder.

    sd1, sd2 (v-prediction), sdxl, refiner, inpaint (9 channels) or controlnet; with another
    autoencoder, and other fields of the U-Net.
    """
    torch.manual_seed(0)
    words = tokenizer(
        folder.with_name(f"{folder.name}_words"), "!" if name == "sd2" else "<|endoftext|>"
    )
    size = len(words)
    vae = vae or autoencoder()
    safety = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if name in ("sdxl", "refiner"):
        second = text_encoder(
            size, projection=True, hidden_act="gelu", hidden_size=48, eos_token_id=size - 1
        )
        scheduler = EulerDiscreteScheduler(**_BETAS, timestep_spacing="leading", steps_offset=1)
        if name == "sdxl":
            network = perturbed(UNet2DConditionModel(**{**_UNET_XL, **unet}), 3)
            parts = [vae, text_encoder(size), second, words, words, network, scheduler]
            pipeline = StableDiffusionXLPipeline(*parts, add_watermarker=False)
        else:
            network = perturbed(UNet2DConditionModel(**{**_UNET_REFINER, **unet}), 3)
            pipeline = StableDiffusionXLImg2ImgPipeline(
                *[vae, None, second, None, words, network, scheduler],
                requires_aesthetics_score=True,
                force_zeros_for_empty_prompt=False,
                add_watermarker=False,
            )
    else:
        fields = dict(_UNET)
        scheduler = PNDMScheduler(
            **_BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False
        )
        text = {}
        if name == "sd2":
            fields |= {"attention_head_dim": (2, 4), "use_linear_projection": True}
            scheduler = DDIMScheduler(
                **_BETAS,
                steps_offset=1,
                set_alpha_to_one=False,
                clip_sample=False,
                prediction_type="v_prediction",
            )
            text = {"hidden_act": "gelu", "num_hidden_layers": 3}
        if name == "inpaint":
            fields["in_channels"] = 9
        unet = perturbed(UNet2DConditionModel(**{**fields, **unet}), 3)
        parts = [vae, text_encoder(size, **text), words, unet]
        if name == "controlnet":
            control = ControlNetModel.from_unet(
                unet, conditioning_embedding_out_channels=(8, 8, 16, 16)
            )
            for parameter in control.parameters():
                if not parameter.abs().max():
                    torch.nn.init.normal_(parameter, std=0.1)
            pipeline = StableDiffusionControlNetPipeline(*parts, control, scheduler, **safety)
        elif name == "inpaint":
            pipeline = StableDiffusionInpaintPipeline(*parts, scheduler, **safety)
        else:
            pipeline = StableDiffusionPipeline(*parts, scheduler, **safety)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(num, height, width, seed=0):
    """Standard normal latents, [num, height, width, 4]."""
    return np.random.default_rng(seed).standard_normal((num, height, width, 4)).astype(np.float32)


def to_torch(latents):
    """[B, H, W, C] as [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2)))


def to_numpy(latents):
    """[B, C, H, W] as [B, H, W, C]."""
    return latents.detach().numpy().transpose(0, 2, 3, 1)
