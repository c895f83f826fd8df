"""model_index.json of diffusers' pipelines of Stable Diffusion: each field honoured or refused."""

from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.interop.config_fields import COUNT_OR_NULL, SWITCH, Field, Known, refuse
from ddpm_jax.interop.unet2d_config import read_json

CONFIG = "model_index.json"
WRITTEN_FOR = "0.42.1"  # without which some of diffusers' pipelines do not read a folder
UNET, VAE, SCHEDULER = "unet", "vae", "scheduler"
TEXT, TEXT_2, TOKENIZER, TOKENIZER_2 = (
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
)
CONTROLNET = "controlnet"
NOTHING = [None, None]  # of a part that a pipeline does without


class Family(NamedTuple):
    """What the pipelines of a model have alike.

    Attributes:
      towers: the folders of its text encoders, each with that of its tokenizer.
      pools: whether its U-Net reads a vector of the text, and sizes (SDXL).
    """

    towers: tuple[tuple[str, str], ...]
    pools: bool = False


_SD = Family(((TEXT, TOKENIZER),))
_XL = Family(((TEXT, TOKENIZER), (TEXT_2, TOKENIZER_2)), pools=True)
# Of each class what its model is; all of a family take an image to begin with, and a mask.
PIPELINES: dict[str, Family] = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "StableDiffusionControlNetPipeline": _SD,
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
    "StableDiffusionXLControlNetPipeline": _XL,
}
# The classes of each part, by its folder.
CLASSES: dict[str, tuple[str, ...]] = {
    UNET: ("UNet2DConditionModel",),
    VAE: ("AutoencoderKL",),
    TEXT: ("CLIPTextModel",),
    TEXT_2: ("CLIPTextModelWithProjection",),
    TOKENIZER: ("CLIPTokenizer", "CLIPTokenizerFast"),
    TOKENIZER_2: ("CLIPTokenizer", "CLIPTokenizerFast"),
    CONTROLNET: ("ControlNetModel",),
}
# Of no part in what an image is: the check of finished images, and what it reads.
LEFT_ALONE = ("safety_checker", "feature_extractor", "image_encoder")
_OTHERS: dict[str, Known] = {
    "requires_safety_checker": Known(True, SWITCH),
    "force_zeros_for_empty_prompt": Known(True, SWITCH),
    "add_watermarker": Known(
        None, Field(lambda v: v in (None, True, False), "true, false or null")
    ),
    "requires_aesthetics_score": Known(False, SWITCH),
    "vae_scale_factor": Known(None, COUNT_OR_NULL),
}


class Index(NamedTuple):
    """What a pipeline's folder says of itself.

    Attributes:
      name: the class.
      family: of the class.
      parts: the folders of what is read.
      empty_is_zero: of SDXL, no negative prompt is zeros, and not the text "".
      scored: of its refiner, the U-Net reads how well an image is to look, in place of its size.
    """

    name: str
    family: Family
    parts: tuple[str, ...]
    empty_is_zero: bool
    scored: bool


def read(directory: Path) -> Index:
    """What model_index.json says, checked.

    Raises:
      ValueError: for a folder that is no pipeline, saying what is missing; a class, a part or a
        field that is not supported.
    """
    if not directory.is_dir():
        raise ValueError(f"no directory {directory}; give a pipeline's, or a file F.safetensors")
    path = directory / CONFIG
    if not path.is_file():
        there = sorted(entry.name for entry in directory.iterdir())[:8]
        raise ValueError(
            f"{directory} is no pipeline: it has {', '.join(there) or 'nothing'}, and no {CONFIG}; "
            "give what save_pretrained of a pipeline wrote"
        )
    fields = read_json(path)
    name = fields.get("_class_name")
    if name not in PIPELINES:
        raise refuse("_class_name", name, " or ".join(PIPELINES), CONFIG)
    family = _without_missing(PIPELINES[name], fields)
    parts = [UNET, VAE, SCHEDULER, *(folder for pair in family.towers for folder in pair)]
    if CONTROLNET in fields:
        parts.append(CONTROLNET)
    for field, value in fields.items():
        if field.startswith("_") or field in LEFT_ALONE or field == SCHEDULER:
            continue
        if field in parts or (field in CLASSES and value != NOTHING):
            _check_part(field, value)
            continue
        if field in CLASSES:
            continue
        if field not in _OTHERS:
            raise refuse(field, value, f"the fields of {name}; not this one", CONFIG)
        if not _OTHERS[field].field.holds(value):
            raise refuse(field, value, _OTHERS[field].field.supported, CONFIG)
    needed = [part for part in parts if not (directory / part).is_dir()]
    if needed:
        raise ValueError(
            f"{directory} is no whole pipeline: {CONFIG} names {', '.join(needed)}, and no such "
            "folder is there"
        )
    empty = family.pools and fields.get("force_zeros_for_empty_prompt", True)
    scored = fields.get("requires_aesthetics_score", False)
    if scored and not family.pools:
        raise refuse("requires_aesthetics_score", True, f"false of a {name}", CONFIG)
    return Index(name, family, tuple(parts), empty, scored)


def of_pipeline(pipeline: Any) -> dict[str, Any]:
    """The model_index.json of a `pipeline.Pipeline`."""
    family = PIPELINES[pipeline.name]
    own = {tower.name for tower in pipeline.towers}
    folders = [folder for pair in family.towers if pair[0] in own for folder in pair]
    parts = [UNET, VAE, *folders]
    if pipeline.controlnet is not None:
        parts.append(CONTROLNET)
    libraries = dict.fromkeys((UNET, VAE, CONTROLNET), "diffusers")
    index: dict[str, Any] = {"_class_name": pipeline.name, "_diffusers_version": WRITTEN_FOR}
    for part in parts:
        index[part] = [libraries.get(part, "transformers"), CLASSES[part][0]]
    index[SCHEDULER] = ["diffusers", pipeline.scheduler.name]
    if family.pools:
        index |= {
            folder: NOTHING for pair in family.towers for folder in pair if folder not in parts
        }
        index["force_zeros_for_empty_prompt"] = pipeline.empty_is_zero
        if pipeline.scored:
            index["requires_aesthetics_score"] = True
        return index | {part: [None, None] for part in ("feature_extractor", "image_encoder")}
    index["requires_safety_checker"] = False
    return index | {part: [None, None] for part in LEFT_ALONE}


def _without_missing(family: Family, fields: dict[str, Any]) -> Family:
    """The family without a first text encoder that a file of SDXL says there is none of."""
    if not family.pools:
        return family
    there = [pair for pair in family.towers if fields.get(pair[0]) != NOTHING or pair[0] == TEXT_2]
    return family._replace(towers=tuple(there))


def _check_part(field: str, value: Any) -> None:
    names = CLASSES[field]
    if not (isinstance(value, list) and len(value) == 2 and value[1] in names):
        raise refuse(field, value, f'["diffusers" or "transformers", {" or ".join(names)}]', CONFIG)
