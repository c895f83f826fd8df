"""Draw images from a trained model.

  python scripts/sample.py --workdir=runs/digits --num_samples=100 --out=samples.npz
  python scripts/sample.py --workdir=runs/digits --labels=3 --inpaint image.png mask.png --out=x.png
  python scripts/sample.py --workdir=runs/text --prompt="a red circle above a cross" --out=x.npz
  python scripts/sample.py --workdir=runs/any --clip_workdir=runs/clip --clip_scale=2 \\
    --prompt="a red circle" --out=x.npz
  python scripts/sample.py --prior_workdir=runs/prior --workdir=runs/unclip --out=drawn.npz \\
    --prompt="a red circle above a cross"
  python scripts/sample.py --workdir=runs/small --upsampler_workdir=runs/upsampler --out=large.png
  python scripts/sample.py --pipeline=stable-diffusion-v1-5 --prompt="a red fox" --out=fox.png

--out=F.npz gets `samples` uint8 [N, H, W, C], `labels` int32 [N] (-1 without classes) and, of what
is drawn by prompts, `prompts` [N], and a grid F.png beside it; --out=F.png only the grid, of one
image the image itself; a folder one PNG an image. What is not given comes from the run's config.
"""

from collections.abc import Sequence

from absl import flags

from ddpm_jax import cli, sample_flags
from ddpm_jax.errors import UserError

PAIRS = sample_flags.PAIRS


def define() -> None:
    """Define the command's flags."""
    flags.DEFINE_string("workdir", None, "the run to sample from")
    sample_flags.define_pipeline()
    flags.DEFINE_string("controlnet", None, "of a pipeline: the folder of a ControlNet")
    flags.DEFINE_string("control_image", None, "what the ControlNet reads")
    flags.DEFINE_integer("num_samples", 100, "how many images")
    flags.DEFINE_string("out", None, "F.npz, F.png, or a folder for PNG files")
    flags.DEFINE_integer("seed", 0, "image k depends on (seed, k) alone", 0, 2**32 - 1)
    flags.DEFINE_list(
        "labels",
        [],
        "classes by name or number, cycled; without any image k is of class k mod classes",
    )
    flags.DEFINE_multi_string(
        "prompt",
        [],
        "what to draw, in words, of a model that reads text or towards which a CLIP guides; "
        "several, one a flag, are cycled",
    )
    flags.DEFINE_string("prompts", None, "a file of prompts in UTF-8, one a line")
    flags.DEFINE_multi_string(
        "clip_prompt", [], "what the CLIP of --clip_workdir is told, if not --prompt; cycled"
    )
    flags.DEFINE_multi_string(
        "condition",
        [],
        "name=value of config.model.conditions, once for each; several values, "
        "shape=circle,cross, are cycled; an image is a PNG file",
    )
    sample_flags.define_paths(
        "upsampler_workdir",
        "runs that enlarge the images, one after another; out holds theirs",
    )
    flags.DEFINE_string(
        "step", None, "of the checkpoint, or best, with the smallest distance or loss; the latest"
    )
    sample_flags.define_average()
    sample_flags.define_sampler()
    sample_flags.define_scales()
    sample_flags.define_guides()
    sample_flags.define_images()
    flags.adopt_module_key_flags(sample_flags)
    for name in ("compile_cache", "code", "code_path"):
        flags.declare_key_flag(name)


def main() -> None:
    """Draw samples into files, as the flags say."""
    f = flags.FLAGS
    if not f.pipeline:
        cli.require("workdir", "name the run to sample from")
    cli.require("out", "name a file F.npz or F.png, or a folder for PNG files")
    cli.start_jax()
    if f.pipeline:
        _by_pipeline()
        return
    if given := _given(sample_flags.PIPELINE):
        raise UserError(f"--{given[0]}: applies only to --pipeline; leave it out")
    from ddpm_jax.commands.sample import sample

    sample.to_files(
        f.workdir,
        f.out,
        num_samples=f.num_samples,
        labels=f.labels,
        prompts=f.prompt,
        prompts_file=f.prompts,
        negative_prompts=f.negative_prompt,
        clip_prompts=f.clip_prompt,
        conditions=f.condition,
        task=sample_flags.values(*sample_flags.GUIDES, *sample_flags.IMAGES),
        trajectory=f.trajectory,
        upsampler_workdirs=f.upsampler_workdir,
        seed=f.seed,
        step=f.step,
        ema=f.ema,
        raw_params=f.raw_params,
        options=f.options,
        code=f.code,
        **sample_flags.values(*sample_flags.SAMPLER, *sample_flags.SCALES),
    )


def _by_pipeline() -> None:
    from ddpm_jax.commands.sample import by_pipeline

    f = flags.FLAGS
    own = {*by_pipeline.FLAGS, "pipeline", "out", "num_samples", "prompt", "prompts", "seed"}
    own |= {"negative_prompt", "options"}
    defined = f.flags_by_module_dict()
    names = [one.name for module in (__name__, sample_flags.__name__) for one in defined[module]]
    by_pipeline.to_files(
        f.pipeline,
        f.out,
        num_samples=f.num_samples if f["num_samples"].present else None,
        prompts=f.prompt,
        prompts_file=f.prompts,
        negative_prompts=f.negative_prompt,
        seed=f.seed,
        not_its=_given([name for name in names if name not in own]),
        options=f.options,
        **sample_flags.values(*by_pipeline.FLAGS),
    )


def _given(names: Sequence[str]) -> list[str]:
    """Those flags that the command line has."""
    return [name for name in names if flags.FLAGS[name].present]
