"""Writes a TFDS data set as array_record, once, for training without TensorFlow and network."""

import importlib.util
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from ddpm_jax.data.base import nearest
from ddpm_jax.data.datasets import DATASETS
from ddpm_jax.data.tfds import (
    base_name,
    data_directory,
    find_prepared,
    is_array_record,
    known_names,
    stored_format,
)
from ddpm_jax.errors import UserError

TIMEOUT = 5.0  # seconds for the one connection attempt


def prepare(
    dataset: str | None,
    data_dir: str | os.PathLike[str] | None = None,
    styles: Sequence[str] = (),
) -> str:
    """Downloads a TFDS data set and writes it as array_record; does nothing if it is there.

    What would fail after minutes (no TensorFlow, no network) is found out first.

    Args:
      dataset: `NAME`, `NAME/CONFIG` or `NAME:VERSION`.
      data_dir: where to put it; None: TFDS_DATA_DIR, or else TFDS's default. Of a built-in data
        set, where its files lie.
      styles: of a built-in data set that has some; () for its own default.

    Returns:
      One line that says where the data set is.

    Raises:
      UserError: no name, an unknown one, another format in the way, no TensorFlow, no network,
        a failed or a manual download, an incomplete directory.
    """
    if not dataset:
        raise UserError("--dataset is missing: name a TFDS data set, for example --dataset=cifar10")
    if dataset in DATASETS and (make := DATASETS[dataset].prepare):
        default = DATASETS[dataset].options()["styles"].default
        return make(data_dir, [*dict.fromkeys((*default, *styles))])
    if styles:
        takers = ", ".join(name for name, one in DATASETS.items() if one.prepare)
        raise UserError(f"--styles applies only to --dataset={takers}, not {dataset}: leave it out")
    if dataset in DATASETS:
        return f"{dataset} is built in and needs no preparation"
    directory = data_directory(data_dir)
    prepared = find_prepared(dataset, directory)
    if prepared is not None and is_array_record(prepared):
        return f"{dataset} is already prepared in {prepared.data_path}"
    if prepared is not None:
        raise UserError(
            f"{prepared.data_path} holds {dataset} as {stored_format(prepared)}: move it away, or "
            "choose another --data_dir"
        )
    if base_name(dataset) not in known_names():
        raise UserError(
            f"--dataset={dataset} is no TFDS data set{nearest(base_name(dataset), known_names())}"
            " (the list: python -c 'import tensorflow_datasets as t; print(t.list_builders())')"
        )
    builder = _builder(dataset, directory)
    if builder.data_path.exists():  # TFDS would take it for finished
        raise UserError(f"{builder.data_path} is incomplete: delete it and run this again")
    _check_network(builder, dataset)
    _download_and_prepare(builder, dataset)
    return f"{dataset} is prepared in {builder.data_path}"


def _builder(dataset: str, directory: str) -> Any:
    import tensorflow_datasets as tfds

    # The data sets that come with TFDS write through TensorFlow; a user's own may do without.
    stock = tfds.builder_cls(base_name(dataset)).__module__.startswith("tensorflow_datasets.")
    if stock and importlib.util.find_spec("tensorflow") is None:
        raise UserError(_no_tensorflow(dataset))
    try:
        return tfds.builder(dataset, data_dir=directory, file_format="array_record")
    except (ValueError, RuntimeError, AssertionError, tfds.core.DatasetNotFoundError) as error:
        raise UserError(f"--dataset={dataset}: {_one_line(error)}") from error


def _check_network(builder: Any, dataset: str) -> None:
    urls = list(builder.url_infos or {})
    if not urls:  # nothing to download, or by hand: TFDS then says what it misses
        return
    # Behind a proxy, the proxy is what must answer.
    proxy = urllib.request.getproxies().get(urllib.parse.urlsplit(urls[0]).scheme)
    target = urllib.parse.urlsplit(proxy if proxy else urls[0])
    host = target.hostname or ""
    if not _answers(host, target.port or (80 if target.scheme == "http" else 443)):
        raise UserError(
            f"no connection to {host}, from where {dataset} is downloaded: run this on a machine "
            "with network, and copy --data_dir here"
        )


def _answers(host: str, port: int) -> bool:
    answered = threading.Event()

    def attempt() -> None:
        try:
            socket.create_connection((host, port), timeout=TIMEOUT).close()
        except OSError:
            return
        answered.set()

    # In a thread: the timeout of a socket does not bound the look-up of the name.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answered.is_set()


def _download_and_prepare(builder: Any, dataset: str) -> None:
    from tensorflow_datasets.core.download import download_manager, extractor, util

    failures = (
        OSError,
        AssertionError,  # a file that must be downloaded by hand is missing
        util.DownloadError,
        download_manager.NonMatchingChecksumError,
        extractor.ExtractError,
    )
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        if re.search(r"No module named 'tensorflow['.]", str(error)):  # not tensorflow_io
            raise UserError(_no_tensorflow(dataset)) from error
        raise UserError(f"preparing {dataset} needs another package: {_one_line(error)}") from error
    except failures as error:
        raise UserError(f"preparing {dataset} failed: {_one_line(error)}") from error


def _no_tensorflow(dataset: str) -> str:
    return f"preparing {dataset} needs TensorFlow, once: pip install 'ddpm_jax[tf]'"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
