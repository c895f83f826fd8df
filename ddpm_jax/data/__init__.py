"""Data: random-access sources of uint8 images, and batches as a pure function of (seed, step).

    source = build_source("digits", "train")
    encode = codecs.pixels(source.info.image_shape).encode_batch
    batches = Batches(source, batch_size=64, seed=0, encode=encode)
    batches.batch_at(0)["x0"]               # float32 [64, 8, 8, 1] in [-1, 1]

Importing this package is cheap: grain, scikit-learn and TFDS are imported where they are used.
"""

from ddpm_jax.data.arrays import ArraySource
from ddpm_jax.data.base import DataInfo, Source, evenly_spaced
from ddpm_jax.data.captioned_folder import captioned_folder
from ddpm_jax.data.captions import captions_of, encode_texts
from ddpm_jax.data.datasets import DATASETS, Dataset, Expected, build_source, dataset, lookup
from ddpm_jax.data.digits import digits
from ddpm_jax.data.fingerprint import fingerprint
from ddpm_jax.data.folder import folder
from ddpm_jax.data.idx import idx
from ddpm_jax.data.images import BrokenImage
from ddpm_jax.data.pipeline import Batches, evaluation_batches
from ddpm_jax.data.shapes import shapes
from ddpm_jax.data.tfds import tfds_source

__all__ = [
    "DATASETS",
    "ArraySource",
    "Batches",
    "BrokenImage",
    "DataInfo",
    "Dataset",
    "Expected",
    "Source",
    "build_source",
    "captioned_folder",
    "captions_of",
    "dataset",
    "digits",
    "encode_texts",
    "evaluation_batches",
    "evenly_spaced",
    "fingerprint",
    "folder",
    "idx",
    "lookup",
    "shapes",
    "tfds_source",
]
