"""Prepared TFDS data sets (array_record), read without TensorFlow and without network."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ddpm_jax.data.base import DataInfo, Example, Tolerant, check_size, nearest
from ddpm_jax.data.images import BrokenImage, pixels, read_image
from ddpm_jax.errors import UserError

_FEATURES = "tensorflow_datasets.core.features."
_FINDING = threading.Lock()


def tfds_source(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    image_size: tuple[int, int],
    channels: int,
    *,
    on_error: str = "stop",
    otherwise: str = "",
) -> Tolerant:
    """A prepared TFDS data set with an `image` feature, and a `label` where it has classes.

    Images are decoded by `images.read_image`, not by TFDS, whose decoder (OpenCV or PIL) and with
    it the pixels depend on what else is installed.

    Args:
      name: `NAME`, `NAME/CONFIG` or `NAME:VERSION`.
      split: a TFDS split: `train`, `test`, `train[:95%]`, `train+test`.
      data_dir: where data sets are prepared; None: TFDS_DATA_DIR, or else TFDS's default.
      image_size: (H, W); see `images.fit`.
      channels: 1 (grey) or 3 (RGB).
      on_error: "stop" or "skip" at a broken image.
      otherwise: what a "not prepared" message adds after the name.

    Returns:
      A source of {"image": uint8 [H, W, C], "label": int32, -1 where there is none}.

    Raises:
      UserError: not prepared, prepared in another format, no such split, no image feature.
    """
    shape = check_size(image_size, channels)
    directory = data_directory(data_dir)
    builder = find_prepared(name, directory)
    command = f"python -m ddpm_jax prepare_data --dataset={name} --data_dir="
    if builder is None:
        hint = nearest(name, known_names()) if base_name(name) not in known_names() else ""
        raise UserError(
            f"no data set {name!r} is prepared in {directory}{otherwise}{hint}; "
            f"prepare it with: {command}{directory}"
        )
    if not is_array_record(builder):
        raise UserError(
            f"{builder.data_path} holds {name} as {stored_format(builder)}, which needs TensorFlow "
            f"to read: move it away and prepare it with: {command}{directory}"
        )
    return Tolerant(_PreparedReader(builder, name, split, shape), on_error)


class _PreparedReader:
    def __init__(self, builder: Any, name: str, split: str, shape: tuple[int, int, int]):
        import tensorflow_datasets as tfds

        self._name, self._split = name, split
        features = _image_features(builder, name)
        self._features = features
        self._is_encoded = isinstance(features["image"], tfds.features.Image)
        self._decoders = {"image": tfds.decode.SkipDecoding()} if self._is_encoded else None
        class_names = tuple(features["label"].names) if "label" in features else ()
        self.info = DataInfo(shape, len(class_names), 256, class_names)
        try:
            count = builder.info.splits[split].num_examples
        except (KeyError, ValueError, AssertionError) as error:
            raise UserError(
                f"{name} has no split {split!r}: choose from "
                f"{', '.join(sorted(builder.info.splits))}"
            ) from error
        if count == 0:
            raise UserError(f"the split {split!r} of {name} is empty: choose a larger one")
        self._path = builder.data_path
        self._records = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        self._shards = builder.info.splits[split].file_instructions
        for shard in self._shards:
            if not os.path.exists(shard.filename):  # now, and not after an hour of training
                raise self._damaged(FileNotFoundError(f"{shard.filename} is missing"))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        height, width, channels = self.info.image_shape
        try:
            record = self._records[index]
        except (RuntimeError, ValueError) as error:  # what array_record raises on damaged files
            raise self._damaged(error) from error
        try:
            example = self._features.deserialize_example_np(record, decoders=self._decoders)
        except Exception as error:  # a record is arbitrary bytes, and TFDS has no error for them
            raise self._damaged(error) from error
        try:
            if self._is_encoded:
                image = read_image(bytes(example["image"]), (height, width), channels)
            else:
                image = _from_array(example["image"], (height, width), channels)
        except BrokenImage as error:
            place = f"example {index} of {self._name}, split {self._split}"
            raise BrokenImage(f"broken image in {place}: {error}") from error
        label = example["label"] if self.info.num_classes else -1
        return {"image": image, "label": np.int32(label)}

    def listing(self) -> Iterator[str]:
        """Size, name and the part that is read of each file."""
        for shard in self._shards:
            path = str(shard.filename)
            part = f"{shard.skip}+{shard.take}"
            yield f"{os.path.getsize(path)} {os.path.basename(path)} {part}"

    def _damaged(self, error: Exception) -> UserError:
        return _unreadable(self._name, error, self._path)


def _unreadable(name: str, error: Exception, path: Any) -> UserError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(f"cannot read {name}: {reason}: delete {path} and prepare it again")


def _image_features(builder: Any, name: str) -> Any:
    """Returns a FeaturesDict of the image and, where there are classes, the label.

    The other features of the data set are never decoded.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    parts = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image = parts.get("image")
    encoded = isinstance(image, tfds.features.Image) and image.np_dtype in (np.uint8, np.uint16)
    array = (
        isinstance(image, tfds.features.Tensor)
        and not isinstance(image, tfds.features.Image)
        and image.np_dtype == np.uint8
        and len(image.shape) == 3
        and image.shape[-1] in (1, 3, 4)
    )
    if not encoded and not array:
        raise UserError(
            f"{name} has no 8-bit image in the feature 'image' (features: {', '.join(parts)}): "
            "choose an image data set"
        )
    label = parts.get("label")
    is_class = isinstance(label, tfds.features.ClassLabel) and bool(label.num_classes)
    wanted = {"image": image, "label": label} if is_class else {"image": image}
    return tfds.features.FeaturesDict(wanted)


def _from_array(array: np.ndarray, image_size: tuple[int, int], channels: int) -> np.ndarray:
    array = np.asarray(array)
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    return pixels(image, image_size, channels)


def data_directory(data_dir: str | os.PathLike[str] | None) -> str:
    """Returns `data_dir`, or TFDS_DATA_DIR, or TFDS's default directory."""
    import tensorflow_datasets as tfds

    directory = data_dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    return os.path.expanduser(os.fspath(directory))


def base_name(name: str) -> str:
    """Returns the data set's own name: `NAME` of `NAME/CONFIG:VERSION`."""
    return name.partition("/")[0].partition(":")[0]


def known_names() -> list[str]:
    """Returns the names that this installation of TFDS can prepare; asks no network."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def find_prepared(name: str, directory: str) -> Any | None:
    """Returns the read-only builder of a prepared data set, or None; looks at the disk only."""
    # Not tfds.builder: with the code of a data set at hand it does not look at what is on disk.
    from tensorflow_datasets.core import read_only_builder, registered

    try:
        with _own_features(name):
            return read_only_builder.builder_from_files(name, data_dir=directory)
    except UserError:
        raise
    except (registered.DatasetNotFoundError, ValueError):
        return None
    except Exception as error:  # what its JSON files hold fails wherever TFDS first uses it
        raise _unreadable(name, error, os.path.join(directory, base_name(name))) from error


@contextlib.contextmanager
def _own_features(name: str) -> Iterator[None]:
    """Lets TFDS import no module but its own, whatever a prepared data set's files name.

    A data set's features.json names a class for each feature, and TFDS imports its module to find
    it: that of any package that is installed. A class that was imported before is still found.
    """
    from tensorflow_datasets.core.features import feature

    connector: Any = feature.FeatureConnector
    own, find = vars(connector)["cls_from_name"], connector.cls_from_name

    def find_known(class_name: str) -> Any:
        registered = connector._registered_features  # subclasses register themselves by their names
        if class_name not in registered and not class_name.startswith(_FEATURES):
            raise UserError(
                f"features.json of {name} has a feature of {class_name}, which is not of TFDS: "
                "data import no code; import its module first where you trust it"
            )
        return find(class_name)

    with _FINDING:
        connector.cls_from_name = staticmethod(find_known)
        try:
            yield
        finally:
            connector.cls_from_name = own


def stored_format(builder: Any) -> str:
    """Returns the name of the file format in which the data set was prepared."""
    return getattr(builder.info.file_format, "value", str(builder.info.file_format))


def is_array_record(builder: Any) -> bool:
    """Tells whether a prepared data set can be read without TensorFlow."""
    return "array_record" in {format.value for format in builder.info.available_file_formats()}
