"""Measure a trained model: its samples against its data, or its likelihood of held-out images.

  python scripts/evaluate.py --workdir=runs/digits --metrics=fid,kid,prdc,is --num_samples=10000
  python scripts/evaluate.py --workdir=runs/shapes --metrics=attributes,held_out_pairs
  python scripts/evaluate.py --workdir=runs/digits --metrics=fid,kid --num_steps=10 --name=ten
  python scripts/evaluate.py --workdir=runs/digits --metrics=my_package.metrics:sharpness
  python scripts/evaluate.py --workdir=runs/shapes_clip --metrics=retrieval,linear_probe
  python scripts/evaluate.py --pipeline=stable-diffusion-v1-5 --dataset=captions \\
    --data_dir=photos --metrics=clip_score,kid --clip_judge=clip-vit-base-patch32
  python scripts/evaluate.py metrics
  python scripts/evaluate.py compare A.json B.json

Prints a table and writes DIR/eval/NAME.json: figures with intervals, and all that they depend on.
Flags override how the run's config says that samples are drawn. "metrics" lists what can be
measured. A metric of your own is a function (samples, real) -> number of uint8 images
[N, H, W, C], an extractor of your own one (images) -> features [N, D]; each is imported where you
name it as package.module:NAME. "compare" prints the difference of two results, and refuses, naming
the fields, what was not measured alike. DIR/eval/cache holds samples, and may be deleted.
"""

from absl import flags

from ddpm_jax import cli, sample_flags

ACTIONS = {"": 0, "compare": 2, "metrics": 0}


def define() -> None:
    """Define the command's flags."""
    text, number, many = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
    text("workdir", None, "the run to evaluate; of a pipeline where its results are written")
    sample_flags.define_pipeline()
    text("dataset", None, "of a pipeline: captioned data, captions, shapes, emoji or your own")
    many("data_options", [], "of these data: config.data.options, holdout=0.1,captions_file=c.csv")
    many("metrics", None, "what to measure; by default of pixels, as fits the run")
    number("num_samples", None, "images to draw at each guidance scale; 500")
    number("repeats", None, "sets of so many samples, of the next seeds; 1")
    many(
        "guidance_scale",
        [],
        "1,2,3; the run's own, and 1 beside it; over two are drawn in NAME.png",
    )
    many("classifier_scale", [], "scales of a classifier's gradient, 1,2,4; by default 1")
    many("clip_scale", [], "the same of a CLIP's gradient")
    text(
        "extractor",
        None,
        "classifier (digits, shapes), inception (others), pca, pixels, your own",
    )
    text("inception_weights", None, "of --extractor=inception: a .safetensors file")
    text("resize", None, "of inception: bicubic, as clean-fid, bilinear_torch, ...; bicubic")
    text("reference", None, "train, validation, or F.npz with mu and sigma; train")
    number("num_reference", None, "at most so many images of it; 50,000")
    text("export_reference", None, "F.npz to write mu and sigma of the reference to")
    text(
        "sample_features",
        None,
        "F.npz or F.safetensors that another program exported: measure these",
    )
    text("reference_features", None, "with --sample_features: the data's, of the same program")
    number("kid_subsets", None, "100: the mean over subsets of 1,000; by default all pairs, if few")
    number("seed", 0, "of the samples", 0, 2**32 - 1)
    text("step", None, "of the checkpoint, or best, with the smallest distance or loss; the latest")
    sample_flags.define_average()
    text("name", "", "of the file in DIR/eval; by default samples, or likelihood")
    text("data_dir", None, "where the data lie; of a run if they were moved")
    number("num_terms", None, "bpd: steps of the discrete bound to draw; all by default")
    text("templates", None, "zero_shot: a file of prompts, a line each: 'a {colour} {shape}'")
    text("caption_style", None, "retrieval: of the pairs, the data's option captions, such as full")
    number("num_pairs", None, "retrieval: pairs of images and captions; 256")
    text("captioner_workdir", None, "captioned: the run of a captioner, who judges samples")
    text("clip_judge", None, "clip_score: the CLIP that compares, a run's workdir or transformers'")
    many("allow", [], "compare: fields of the protocol that may differ, sampling.num_steps")
    sample_flags.define_sampler()
    sample_flags.define_guides()
    flags.adopt_module_key_flags(sample_flags)
    for name in ("compile_cache", "code", "code_path"):
        flags.declare_key_flag(name)


def main(action: str, *result_files: str) -> None:
    """Measure a run, compare two results, or list the metrics, as the flags say."""
    if action:
        cli.use_code_path()
    else:
        f = flags.FLAGS
        if not f.sample_features and not f.reference_features and not f.pipeline:
            cli.require("workdir", "name the run to evaluate, or a --pipeline")
        cli.start_jax()
    from ddpm_jax.commands.evaluate import compare, evaluate, listing

    if action == "metrics":
        print(listing.table())
        return
    if action == "compare":
        cli.refuse(evaluate.FLAGS, "applies only to evaluating, not to comparing")
        first, second = result_files
        print(compare.compare(first, second, flags.FLAGS.allow))
        return
    cli.refuse(["allow"], "applies only to comparing")
    print(evaluate.table(evaluate.from_flags(sample_flags.values(*evaluate.FLAGS))))
