"""Preparing data: what is missing is said at once and in one line."""

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ddpm_jax.data import prepare as prepare_module
from ddpm_jax.data import tfds_source
from ddpm_jax.data.prepare import prepare
from ddpm_jax.errors import UserError

ROOT = Path(__file__).parents[2]


class DdpmPrepared(tfds.core.GeneratorBasedBuilder):
    """Three grey images that need no TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(4, 4, 1))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            yield i, {"image": Image.new("L", (4, 4), i)}


class DdpmNeedsTensorflow(DdpmPrepared):
    """Yields arrays as images, which TFDS encodes through TensorFlow."""

    def _generate_examples(self):
        yield 0, {"image": np.zeros((4, 4, 1), np.uint8)}


class DdpmFails(DdpmPrepared):
    """Wants a download that was made by hand."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the\nfile there."

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(dl_manager.manual_dir)}


def without_tensorflow(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else real(name)
    )


def one_line(dataset, directory):
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        prepare(dataset, directory)
    assert time.monotonic() - start < 8
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_prepares_once_and_then_says_so(tmp_path):
    assert prepare("ddpm_prepared", tmp_path).startswith("ddpm_prepared is prepared in")
    assert len(tfds_source("ddpm_prepared", "train", tmp_path, (4, 4), 1)) == 3
    assert "already prepared in" in prepare("ddpm_prepared", tmp_path)


def test_an_incomplete_directory_is_not_taken_for_prepared(tmp_path):
    prepare("ddpm_prepared", tmp_path)
    (tmp_path / "ddpm_prepared" / "1.0.0" / "features.json").unlink()
    with pytest.raises(UserError, match="no data set 'ddpm_prepared' is prepared in"):
        tfds_source("ddpm_prepared", "train", tmp_path, (4, 4), 1)
    assert "1.0.0 is incomplete: delete it and run this again" in one_line(
        "ddpm_prepared", tmp_path
    )


def test_built_in_data_needs_no_preparation(tmp_path):
    assert "built in" in prepare("digits", tmp_path)


@pytest.mark.parametrize("dataset", [None, ""])
def test_a_missing_name(tmp_path, dataset):
    assert "--dataset is missing" in one_line(dataset, tmp_path)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    message = one_line("cifar11", tmp_path)
    assert "--dataset=cifar11 is no TFDS data set; did you mean" in message
    assert "'cifar10'" in message


def test_an_unknown_config(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "--dataset=celeb_a_hq/257" in one_line("celeb_a_hq/257", tmp_path)


def test_missing_tensorflow_is_found_before_anything_else(tmp_path, monkeypatch):
    without_tensorflow(monkeypatch)
    assert one_line("mnist", tmp_path).endswith("pip install 'ddpm_jax[tf]'")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is here")
def test_missing_tensorflow_in_a_builder_of_the_users_own(tmp_path):
    assert one_line("ddpm_needs_tensorflow", tmp_path).endswith("pip install 'ddpm_jax[tf]'")


def test_no_network_is_found_by_one_short_attempt(tmp_path, monkeypatch):
    attempts = []

    def refuse(address, timeout):
        attempts.append(address)
        raise OSError("unreachable")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    assert "no connection to storage.googleapis.com" in one_line("mnist", tmp_path)
    assert attempts == [("storage.googleapis.com", 443)]
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert "no connection to proxy.example" in one_line("mnist", tmp_path)
    assert attempts[1:] == [("proxy.example", 3128)]


def test_a_name_server_that_hangs_does_not_hang_us(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "TIMEOUT", 0.2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    release = threading.Event()

    def hang(address, timeout):
        release.wait(30)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", hang)
    assert "no connection" in one_line("mnist", tmp_path)
    release.set()


def test_a_manual_download_is_explained_in_one_line(tmp_path):
    assert "Put the file there." in one_line("ddpm_fails", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "--dataset is missing"), (["--dataset=cifar11"], "cifar10")]
)
def test_the_script_ends_in_one_line_and_exit_code_2(tmp_path, arguments, message):
    pytest.importorskip("ddpm_jax.cli")
    script = [sys.executable, "scripts/prepare_data.py", f"--data_dir={tmp_path}", *arguments]
    result = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_the_script_says_where_the_data_is_on_stdout(tmp_path):
    pytest.importorskip("ddpm_jax.cli")
    prepare("ddpm_prepared", tmp_path)
    script = [sys.executable, "scripts/prepare_data.py", f"--data_dir={tmp_path}"]
    result = subprocess.run(
        [*script, "--dataset=ddpm_prepared"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "already prepared in" in result.stdout


def test_styles_are_of_emoji_alone():
    with pytest.raises(UserError, match="--styles applies only to --dataset=emoji, not digits"):
        prepare("digits", styles=["noto"])
