"""Prepare a TFDS data set as array_record, for training without TensorFlow and network.

python scripts/prepare_data.py --dataset=cifar10 --data_dir=DIR

--dataset=emoji renders emoji ahead; --styles=noto,twemoji,fluent needs their npm packages in
--data_dir.
"""

from absl import flags

from ddpm_jax import cli


def define() -> None:
    """Define the command's flags."""
    flags.DEFINE_string("dataset", None, "TFDS data set: NAME, NAME/CONFIG or NAME:VERSION.")
    flags.DEFINE_string(
        "data_dir", None, "Where to put it; default: TFDS_DATA_DIR, else ~/tensorflow_datasets."
    )
    styles = "Of emoji: noto, twemoji, fluent, from npm packages in --data_dir."
    flags.DEFINE_list("styles", [], styles)
    flags.declare_key_flag("code_path")


def main() -> None:
    """Prepare the data set that the flags name, and say where it is."""
    cli.use_code_path()
    from ddpm_jax.data.prepare import prepare

    print(prepare(flags.FLAGS.dataset, flags.FLAGS.data_dir, flags.FLAGS.styles))
