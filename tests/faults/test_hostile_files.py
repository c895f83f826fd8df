"""Configs, weights and labels made to harm: each is read right, or refused in one line."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import tiny_runs

from ddpm_jax import config_words, experiment
from ddpm_jax.config import config_files
from ddpm_jax.data import folder
from ddpm_jax.errors import UserError
from ddpm_jax.interop import safetensor_files
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime import files

GOOD = json.dumps(tiny_runs.tiny_config().to_dict())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a":' * 400 + "1" + "}" * 400, "."),
        ('{"seed": NaN}', "NaN is no JSON"),
        ('{"seed": -Infinity}', "-Infinity is no JSON"),
        ('{"seed": 1e999}', "number 1e999 is too large"),
        ('{"seed": %s}' % ("9" * 10_000), "digits"),
        ('{"seed": 1, "seed": 2}', "'seed' occurs twice"),
        (GOOD[:-1] + ', "data": {}}', "'data' occurs twice"),
        ('{"__class__": 1}', "cannot be overridden"),
        ('{"data": {"a.b": 1}}', "dots"),
        ("{}" + " " * files.JSON_BYTES, "limit of 1,048,576 bytes"),
        ('{"a": 1} import os', "Extra data"),
        ("\ufeff{}", "BOM"),
        ("\x80\x04K\x01.", "."),
    ],
)
def test_a_hostile_config_is_refused_in_one_line(tmp_path, content, reason):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"config\.json .*{reason}") as caught:
        experiment.load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


def test_a_config_of_gigabytes_a_pipe_or_a_folder_is_refused_at_once(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as hole:
        hole.truncate(2**40)
    tracemalloc.start()
    with pytest.raises(UserError, match="limit of 1,048,576 bytes"):
        config_files.read(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    for make in (os.mkfifo, os.mkdir):
        path.unlink()
        make(path)
        with pytest.raises(UserError, match=r"no regular file|directory"):
            config_files.read(tmp_path)
        if make is os.mkdir:
            path.rmdir()


@pytest.mark.parametrize(
    "changes",
    [
        {"data": 5},
        {"mesh": None},
        {"model": {}},
        {"model": {"channels": "many"}},
        {"model": {"channel_multipliers": 3}},
        {"model": {"num_blocks": [1, 2]}},
        {"data": {"batch_size": 0}},
        {"data": {"batch_size": 1.5}},
        {"data": {"image_size": {"to_dict": 1}}},
        {"diffusion": {"num_steps": "\ud800"}},
        {"to_dict": 1, "items": 2, "keys": 3},
        {"sample": {"sampler": {"ddim": 1}}},
    ],
)
@pytest.mark.wide(4)
def test_a_config_of_wrong_types_is_refused_in_one_line(tmp_path, changes):
    content = json.loads(GOOD)
    for group, fields in changes.items():
        if isinstance(fields, dict) and fields and group in content:
            content[group] |= fields
        else:
            content[group] = fields
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        experiment.load(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_number_that_json_has_not_is_refused_before_a_run_keeps_it():
    config = config_files.override(
        tiny_runs.tiny_config(), {"optim": {"learning_rate": float("inf")}}
    )
    with pytest.raises(UserError, match=r"config\.optim\.learning_rate=inf: need a finite"):
        config_files.resolve(config)


def test_hostile_lines_of_metrics_are_dropped(tmp_path):
    good = [b'{"step": 1, "loss": 0.5}\n', b'{"step": 2}\n']
    bad = [b"[" * 100_000, b"\xff\xfe", b"3", b'{"step": "x"}', b'{"step": {}}', b"\x80\x04K\x01."]
    (tmp_path / "metrics.jsonl").write_bytes(good[0] + b"\n".join(bad) + b"\n" + good[1])
    MetricWriter(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(good)


# --- labels


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a.png,1\0\nb.png,0\n", "NUL"),
        (b"a.png," + b"x" * 200_000 + b"\n", "field larger than field limit"),
        (b'a.png,"' + b"x\n" * 200_000, "field larger than field limit"),
        ("a.png,ä\n".encode("latin-1"), "utf-8"),
        ("a.png,1\n".encode("utf-16"), "utf-8"),
        (b"\x80\x04K\x01.", "utf-8"),
        (b"a.png,0\nb.png,-9999999999\n", "label -9999999999: integer labels start at 0"),
        (b"a.png,0\n/etc/passwd,1\n", "no such image"),
        (b"a.png,0\n../../b.png,1\n", "no such image"),
        (b"a.png,0\n" + b"x" * 100_000 + b".png,1\n", "no such image"),
        (b"a.png,0\n" + b"x," * 50_000, "write relative/path,label"),
    ],
)
def test_hostile_labels_are_refused_in_one_line(tmp_path, content, reason):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"labels\.csv.*{reason}") as caught:
        folder(tmp_path, "train", (4, 4), 1)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_labels_of_gigabytes_or_from_a_pipe_are_refused_at_once(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with open(tmp_path / "labels.csv", "wb") as hole:
        hole.truncate(2**40)
    with pytest.raises(UserError, match="limit of"):
        folder(tmp_path, "train", (4, 4), 1)
    (tmp_path / "labels.csv").unlink()
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(UserError, match="no regular file"):
        folder(tmp_path, "train", (4, 4), 1)


# --- safetensors


def framed(header, data=b"", size=None):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if size is None else size) + content + data


def tensor(shape, *offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


FLOAT = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HOSTILE = {
    "a header of exabytes": framed({}, size=2**63),
    "a header beyond the file": framed({}, size=99_000_000),
    "a header of nothing": framed(b""),
    "no header": b"\x01",
    "a list": framed(b"[]"),
    "a deep nest": framed(b"[" * 100_000),
    "a key twice": framed(b'{"a":' + FLOAT + b',"a":' + FLOAT + b"}", bytes(4)),
    "overlapping": framed({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, bytes(4)),
    "beyond the data": framed({"a": tensor([2], 0, 8)}, bytes(4)),
    "backwards": framed({"a": tensor([1], 4, 0)}, bytes(4)),
    "negative": framed({"a": tensor([-1], 0, 4)}, bytes(4)),
    "another size": framed({"a": tensor([3], 0, 4)}, bytes(4)),
    "bytes left over": framed({"a": tensor([1], 0, 4)}, bytes(40)),
    "an overflowing shape": framed({"a": tensor([2**62, 4], 0, 4)}, bytes(4)),
    "an endless side": framed({"a": tensor([0, 2**63], 0, 0)}),
    "endless sides": framed({"a": tensor([0, 2**40, 2**40], 0, 0)}),
    "a hundred dimensions": framed({"a": tensor([1] * 100, 0, 4)}, bytes(4)),
    "an unknown type": framed({"a": tensor([1], 0, 4, dtype="F99")}, bytes(4)),
    "a type that weights are not": framed({"a": tensor([1], 0, 8, dtype="I64")}, bytes(8)),
}


def read_tensors(tmp_path, content):
    (tmp_path / safetensor_files.WEIGHTS).write_bytes(content)
    return safetensor_files.read(tmp_path)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_refused_in_one_line(tmp_path, kind):
    with pytest.raises(ValueError, match=safetensor_files.WEIGHTS) as caught:
        read_tensors(tmp_path, HOSTILE[kind])
    assert len(str(caught.value).splitlines()) == 1


def test_names_of_tensors_are_no_paths(tmp_path):
    content = framed({"../../etc/a\0b": tensor([1], 0, 4)}, bytes(4))
    before = tiny_runs.snapshot(tmp_path)
    assert list(read_tensors(tmp_path, content)) == ["../../etc/a\0b"]
    assert set(tiny_runs.snapshot(tmp_path)) == {*before, safetensor_files.WEIGHTS}


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/etc/a.safetensors", "..", "a/b.safetensors", "a\0.safetensors"]
)
def test_shards_lie_in_their_directory(tmp_path, name):
    (tmp_path / safetensor_files.INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match=r"outside the directory|is a pickle|has no"):
        safetensor_files.read(tmp_path)


def test_a_damaged_file_is_refused_or_of_the_same_names_and_shapes(tmp_path):
    """300 flips and cuts: a flip in the values alone cannot be seen, and gives other values."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=5).astype(np.float32)}
    whole = safetensors.numpy.save(weights)
    data = len(whole) - (48 + 20)
    outcomes = set()
    for case in range(300):
        damaged = bytearray(whole)
        at = int(rng.integers(len(whole)))
        if case % 3:
            damaged[at] ^= 1 << int(rng.integers(8))
        else:
            del damaged[at:]
        tracemalloc.start()
        try:
            read = read_tensors(tmp_path, bytes(damaged))
        except ValueError as error:
            outcomes.add(len(str(error).splitlines()))
        else:
            outcomes.add("read")
            # What is read is what the file says: the library's own reading of it.
            theirs = safetensors.numpy.load(bytes(damaged))
            assert read.keys() == theirs.keys()
            assert all(np.asarray(read[k]).tobytes() == theirs[k].tobytes() for k in read)
            assert case % 3, "a file that was cut is never whole"
            if at >= data:
                assert {k: v.shape for k, v in read.items()} == {"a": (3, 2), "b": (5,)}
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
    assert outcomes == {"read", 1}


# --- configs that are code


@pytest.mark.parametrize("kind", ["folder", "zip", "json", "bytecode", "pickle"])
def test_only_a_python_file_is_a_config_file(tmp_path, monkeypatch, kind):
    import py_compile
    import zipfile

    code = f"open({str(tmp_path / 'marker')!r}, 'w'); get_config = dict"
    source = tmp_path / "run" / "__main__.py"
    source.parent.mkdir()
    source.write_text(code)
    given = tmp_path / f"a.{kind}"
    if kind == "folder":
        given = source.parent
    elif kind == "zip":
        with zipfile.ZipFile(given, "w") as archive:
            archive.write(source, "__main__.py")
    elif kind == "bytecode":
        given = given.with_suffix(".pyc")
        py_compile.compile(str(source), str(given))
    else:
        given.write_text(code)
    with pytest.raises(UserError, match=r"--config=.*: is no Python file"):
        config_words.load_config_file(str(given))
    assert not (tmp_path / "marker").exists()
    config_words.load_config_file(str(source))  # and the trap would have shut
    assert (tmp_path / "marker").exists()
