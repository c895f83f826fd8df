"""Prepares a TFDS data set as array_record, for training without TensorFlow and network.

python scripts/prepare_data.py --dataset=cifar10 --data_dir=DIR
"""

from absl import flags

from ddpm_jax import cli
from ddpm_jax.data.prepare import prepare

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "TFDS data set: NAME, NAME/CONFIG or NAME:VERSION.")
flags.DEFINE_string(
    "data_dir", None, "Where to put it; default: TFDS_DATA_DIR, else ~/tensorflow_datasets."
)


def main() -> None:
    print(prepare(FLAGS.dataset, FLAGS.data_dir))


if __name__ == "__main__":
    cli.run(main)
