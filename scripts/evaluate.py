"""Measure a trained model: its samples against its data, or its likelihood of held-out images.

  python scripts/evaluate.py --workdir=runs/digits --metrics=label_accuracy,memorisation,spread
  python scripts/evaluate.py --workdir=runs/shapes --metrics=attributes,held_out_pairs
  python scripts/evaluate.py --workdir=runs/digits_likelihood --metrics=bpd
  python scripts/evaluate.py --workdir=runs/classifier --metrics=accuracy

label_accuracy: share of samples that an SVM, trained on the real images, gives their own label.
memorisation: mean distance to the nearest training image, over the held-out images' own (1 is as
far from the training set as new data; near 0 is copies). spread: within-class pixel deviation over
the real images' own (1 is as varied; near 0 is collapse). recall: share of the real images of a
class that lie within the manifold of its samples, by pixels. attributes, of shapes: share of
samples that show all that they were told, then of each attribute alone. held_out_pairs: the same
share for objects of config.data.held_out, which training never showed, and composed_pairs with
shape and colour told apart. bpd: bits per pixel of all held-out images, with standard errors: by
the discrete bound with its three terms, and for a model of dequantised data by the continuous bound
and the probability-flow ODE as well. accuracy: of a classifier, by time. Prints a table and writes
it to DIR/eval/NAME.json; more than two scales are drawn in DIR/eval/NAME.png.
"""

from absl import flags

from ddpm_jax import cli, sample_flags

flags.DEFINE_string("workdir", None, "the run to evaluate")
MEASURES = ["label_accuracy", "memorisation", "spread", "recall"]
flags.DEFINE_list("metrics", MEASURES, "what to measure")
flags.DEFINE_integer("num_samples", None, "images to draw at each guidance scale; 500")
flags.DEFINE_list("guidance_scale", [], "scales, 1,2,3; by default the run's own, and 1 beside it")
flags.DEFINE_list("classifier_scale", [], "scales of a classifier's gradient, 1,2,4; by default 1")
flags.DEFINE_integer("seed", 0, "of the samples", 0, 2**32 - 1)
flags.DEFINE_integer("step", None, "of the checkpoint; the latest by default")
flags.DEFINE_bool("raw_params", False, "the parameters instead of their moving average")
flags.DEFINE_string("name", "", "of the file in DIR/eval; by default samples, or likelihood")
flags.DEFINE_integer("num_terms", None, "bpd: steps of the discrete bound to draw; all by default")
sample_flags.define_guides()
flags.adopt_module_key_flags(sample_flags)
flags.declare_key_flag("compile_cache")


def main() -> None:
    cli.use_compile_cache()
    from ddpm_jax.commands import evaluate

    f = flags.FLAGS
    report = evaluate.evaluate(
        f.workdir,
        metrics=f.metrics,
        num_samples=f.num_samples,
        guidance_scales=f.guidance_scale,
        classifier_scales=f.classifier_scale,
        guides=sample_flags.given(*sample_flags.GUIDES),
        seed=f.seed,
        step=f.step,
        raw_params=f.raw_params,
        name=f.name,
        num_terms=f.num_terms,
    )
    print(evaluate.table(report))


if __name__ == "__main__":
    cli.run(main)
