"""Flags of how samples are drawn, and of what is asked of them; see `commands.sample`."""

import os
from typing import Any

from absl import flags

# Fields of config.sample.
SAMPLER = ("sampler", "num_steps", "grid", "order", "eta", "batch_size")
SCALES = ("guidance_scale", "classifier_scale", "clip_scale")
# What guides, also where samples are measured.
GUIDES = ("classifier_workdir", "clip_workdir", "weaker_workdir", "weaker_step", "prior_workdir")
IMAGES = (
    "compose",
    "between_labels",
    "init_image",
    "strength",
    "inpaint",
    "colourise",
    "upscale",
    "observation_noise",
    "vary",
    "between_images",
    "text_diff",
    "theta",
)
# What only a pipeline takes.
PIPELINE = ("pipeline_config", "size", "controlnet", "control_image", "lora")
# Flags that take two words, --inpaint image.png mask.png; init_image takes one or two.
PAIRS = ("inpaint", "init_image", "between_images", "text_diff")


class _Paths(flags.ListParser):
    """Paths separated by commas; a single one that is there may hold commas itself."""

    def parse(self, argument: Any) -> list[str]:
        if isinstance(argument, str) and os.path.exists(argument):
            return [argument]
        return super().parse(argument)


def define_paths(name: str, about: str) -> None:
    """A flag of paths: A,B; a path with a comma alone, or in quotes, '"a,b.png",c.png'."""
    flags.DEFINE(_Paths(), name, [], about, serializer=flags.CsvListSerializer(","))


def define_sampler() -> None:
    """The most used fields of config.sample except scales, and --options for the others."""
    text, whole, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    text("sampler", None, "ddim, heun, dpm_solver_pp, ...: ddpm_jax/config/defaults.py lists them")
    whole("num_steps", None, "steps of the sampler's grid")
    text("grid", None, "uniform, karras, log_snr_uniform, ...")
    whole("order", None, "of dpm_solver_pp and unipc: 1, 2 or 3")
    number("eta", None, "noise of ddim and euler_ancestral, 0 to 1")
    flags.DEFINE_list(
        "options", [], "other fields of config.sample, method=singlestep,threshold=0.99"
    )
    whole("batch_size", None, "images of one call of the network")


def define_scales() -> None:
    """--guidance_scale, --classifier_scale and --clip_scale, one value each."""
    number = flags.DEFINE_float
    number("guidance_scale", None, "0 ignores label and conditions, 1 is unguided, above 1 guided")
    number("classifier_scale", None, "of a classifier's gradient; 1")
    number("clip_scale", None, "of a CLIP's gradient; 1")


def define_average() -> None:
    """--ema and --raw_params."""
    flags.DEFINE_string(
        "ema",
        None,
        "which moving average: a decay that the run kept, 0.999, or a width of a power average, "
        "std:0.08, made of its snapshots where it was not kept; that of config.ema.decay",
    )
    flags.DEFINE_bool("raw_params", False, "the parameters instead of their moving average")


def define_guides() -> None:
    """The workdirs of what guides, and --prior_workdir."""
    text = flags.DEFINE_string
    text("classifier_workdir", None, "a classifier trained on the same schedule, to guide by")
    text("clip_workdir", None, "a CLIP, to guide by towards each image's prompt")
    text("weaker_workdir", None, "a weaker run to guide away from (autoguidance)")
    flags.DEFINE_integer("weaker_step", None, "its checkpoint; alone, an earlier one of --workdir")
    text("prior_workdir", None, "of unCLIP: a prior that draws embeddings by the prompts")


def define_pipeline() -> None:
    """A pipeline of Stable Diffusion in the place of a run, and what is steered away from."""
    text = flags.DEFINE_string
    text(
        "pipeline",
        None,
        "in its place a pipeline of Stable Diffusion: diffusers' folder, or a single safetensors "
        "file",
    )
    text("pipeline_config", None, "of a single file: a pipeline's folder, for all but the weights")
    text("size", None, "of a pipeline's images, HEIGHTxWIDTH")
    flags.DEFINE_multi_string(
        "lora",
        [],
        "adapters that are added to a pipeline's weights: a safetensors file or a folder with one, "
        "also F.safetensors:SCALE",
    )
    flags.DEFINE_multi_string(
        "negative_prompt", [], "what to steer away from, with a guidance_scale above 1"
    )


def define_images() -> None:
    """Composition, and images to begin with or to keep."""
    text = flags.DEFINE_string
    flags.DEFINE_multi_string(
        "compose",
        [],
        "WEIGHT:name=value,name=value: guidance by several sets of conditions, once for each; a "
        "negative weight steers away",
    )
    flags.DEFINE_list("between_labels", [], "3,8: from one class to another along the images")
    define_paths(
        "init_image",
        "an image to begin with; of two, --init_image A B, begin between them",
    )
    flags.DEFINE_float("strength", None, "how far init_image is noised, above 0 to 1; 0.8")
    define_paths(
        "inpaint", "IMAGE MASK: keep the image but where the mask is white, and paint there"
    )
    text("colourise", None, "a grey image, to be coloured")
    text("upscale", None, "a smaller image, to be enlarged")
    flags.DEFINE_float("observation_noise", None, "of colourise and upscale; pixels are -1 to 1")
    text("vary", None, "of unCLIP: an image whose variations are drawn")
    define_paths("between_images", "of unCLIP, A B: from one image to another along the images")
    flags.DEFINE_list(
        "text_diff", [], "of unCLIP, FROM TO: --vary's image is turned from one text to another"
    )
    flags.DEFINE_float("theta", None, "of text_diff: how far, above 0 to 1; 0.5")
    text("trajectory", None, "F.png or F.gif: also draw the way from noise to image")


def values(*names: str) -> dict[str, Any]:
    """The values of these flags, by name."""
    return {name: flags.FLAGS[name].value for name in names}
