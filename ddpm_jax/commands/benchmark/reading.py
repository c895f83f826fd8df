"""The data pipeline alone: images a second, by the number of threads that read."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_jax import codecs
from ddpm_jax.data import Batches, Source, tfds_source
from ddpm_jax.data.folder import folder
from ddpm_jax.experiment import Experiment

THREADS = (0, 1, 2, 4)  # 0 reads in the caller
BATCH, SIZE = 32, 256
IMAGES = 512
# Rounds in which each number of threads has its turn, so that a drift of the machine's speed falls
# on all alike.
ROUNDS = 5
SECONDS = 2.0  # a turn, at least
QUALITY = 90  # of JPEG
NAME = "ddpm_jax_jpegs"  # TFDS's name of the builder's class


def reading_speed(experiment: Experiment) -> dict[str, Any]:
    """Images/s of an experiment's own data, of a folder of JPEGs, and of a prepared TFDS data set.

    The two others are the same IMAGES pictures of SIZE x SIZE pixels, made here: smooth shapes with
    a little noise, in JPEGs of the usual size. Each batch is decoded, stacked and scaled, and not
    put on a device.

    Returns:
      {"own_data", "jpeg_folder", "array_record"}: each {"images_per_second": {threads: ...}, ...}.
    """
    size = experiment.config.data.batch_size
    own = _speed(experiment.source("train"), size, experiment.batch_codec)
    codec = codecs.pixels((SIZE, SIZE, 3))
    with tempfile.TemporaryDirectory() as parent:
        jpegs, prepared = Path(parent) / "jpegs", Path(parent) / "prepared"
        kilobytes = write_jpegs(jpegs) / IMAGES / 1000
        files = {"images": IMAGES, "pixels": SIZE, "kilobytes_per_image": kilobytes}
        of_folder = folder(jpegs, "train", (SIZE, SIZE), 3, holdout=0.0)
        prepare(jpegs, prepared)
        of_records = tfds_source(NAME, "train", prepared, (SIZE, SIZE), 3)
        return {
            "own_data": {"batch": experiment.config.data.batch_size, **own},
            "jpeg_folder": {"batch": BATCH, **files, **_speed(of_folder, BATCH, codec)},
            "array_record": {"batch": BATCH, **files, **_speed(of_records, BATCH, codec)},
        }


def _speed(source: Source, size: int, codec: codecs.Codec) -> dict[str, Any]:
    """{"images_per_second": {threads: the median over ROUNDS}} of a source's training batches."""
    batches = Batches(source, size, seed=0, encode=codec.encode_batch)
    streams = {threads: batches.iterate(num_threads=threads) for threads in THREADS}
    taken: dict[int, list[float]] = {threads: [] for threads in THREADS}
    for stream in streams.values():
        next(stream)
    for _ in range(ROUNDS):
        for threads, stream in streams.items():
            # What its threads had read ahead while the others had their turn.
            for _ in range(5):
                next(stream)
            taken[threads].append(_turn(stream, size))
    return {"images_per_second": {n: statistics.median(rates) for n, rates in taken.items()}}


def _turn(stream: Iterator[Any], size: int) -> float:
    began, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < SECONDS:
        next(stream)
        count += size
    return count / seconds


def write_jpegs(path: Path, num: int = IMAGES, size: int = SIZE) -> int:
    """Write so many pictures; returns their bytes."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(num):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 16, size // 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path / f"{k:04d}.jpg", quality=QUALITY)
    return sum(file.stat().st_size for file in path.iterdir())


def prepare(jpegs: Path, data_dir: Path) -> None:
    """The same files as array_record, by a TFDS builder of our own; no TensorFlow, no network."""
    import tensorflow_datasets as tfds

    class DdpmJaxJpegs(tfds.core.GeneratorBasedBuilder):
        """The pictures of a folder."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            images = {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")}
            features = tfds.features.FeaturesDict(images)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for file in sorted(jpegs.iterdir()):
                yield file.stem, {"image": str(file)}

    builder = DdpmJaxJpegs(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
