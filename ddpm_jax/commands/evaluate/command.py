"""Measure a trained model: its samples against its data, or its likelihood of held-out images.

  python scripts/evaluate.py --workdir=runs/digits --metrics=fid,kid,prdc,is --num_samples=10000
  python scripts/evaluate.py --workdir=runs/shapes --metrics=attributes,held_out_pairs
  python scripts/evaluate.py --workdir=runs/digits --metrics=fid,kid --num_steps=10 --name=ten
  python scripts/evaluate.py compare A.json B.json

Prints a table and writes DIR/eval/NAME.json: figures with intervals, and all that they depend on.
compare prints the difference of two of them, and refuses, naming the fields, what was not measured
alike. How samples are drawn is the run's own but for what is given, as in sample.py. The metrics:

In a space of features, --extractor: fid, the Frechet distance, with fid_infinity, less the bias of
a finite number of samples; sfid, of spatial features; kid, unbiased; is, the inception score; prdc:
precision, recall, density, coverage. Of pixels: label_accuracy, the share of samples that an SVM
trained on the real images gives their own label; memorisation, the mean distance to the nearest
training image over the held-out images' own (1 as new data, 0 copies), with NAME_nearest.png;
spread, the within-class deviation over the real one (0 is collapse); class_recall, the share of a
class's real images within the manifold of its samples. Of shapes: attributes, the share of samples
that show all that they were told, then of each; held_out_pairs, the same for objects of
data.options.held_out, composed_pairs with shape and colour told apart. bpd: bits per pixel of
held-out images. accuracy: of a classifier. DIR/eval/cache holds samples, and may be deleted.
"""

from absl import flags

from ddpm_jax import cli, sample_flags

ACTIONS = {"": 0, "compare": 2}


def define() -> None:
    """Define the command's flags."""
    text, number, many = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
    text("workdir", None, "the run to evaluate")
    many("metrics", None, "what to measure; by default of pixels, as fits the run")
    number("num_samples", None, "images to draw at each guidance scale; 500")
    number("repeats", None, "sets of so many samples, of the next seeds; 1")
    many(
        "guidance_scale",
        [],
        "1,2,3; the run's own, and 1 beside it; over two are drawn in NAME.png",
    )
    many("classifier_scale", [], "scales of a classifier's gradient, 1,2,4; by default 1")
    text("extractor", None, "classifier (digits, shapes), inception (others), pca or pixels")
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
    text("step", None, "of the checkpoint, or best, of the least distance or loss; the latest")
    flags.DEFINE_bool("raw_params", False, "the parameters instead of their moving average")
    text("name", "", "of the file in DIR/eval; by default samples, or likelihood")
    number("num_terms", None, "bpd: steps of the discrete bound to draw; all by default")
    many("allow", [], "compare: fields of the protocol that may differ, sampling.num_steps")
    sample_flags.define_sampler()
    sample_flags.define_guides()
    flags.adopt_module_key_flags(sample_flags)
    for name in ("compile_cache", "code", "code_path"):
        flags.declare_key_flag(name)


def main(action: str, *result_files: str) -> None:
    """Measure a run, or compare two results, as the flags say."""
    if action == "compare":
        cli.use_code_path()
    else:
        if not flags.FLAGS.sample_features and not flags.FLAGS.reference_features:
            cli.require("workdir", "name the run to evaluate")
        cli.start_jax()
    from ddpm_jax.commands.evaluate import compare, evaluate

    if action == "compare":
        cli.refuse(evaluate.FLAGS, "is of evaluating, not of comparing")
        first, second = result_files
        print(compare.compare(first, second, flags.FLAGS.allow))
        return
    cli.refuse(["allow"], "is of comparing")
    print(evaluate.table(evaluate.from_flags(sample_flags.given(*evaluate.FLAGS))))
