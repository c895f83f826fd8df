"""A folder of images: labels, hold-out, broken files, and every mistake in it."""

import os
import threading

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import codecs
from ddpm_jax.data import Batches, build_source, folder
from ddpm_jax.errors import UserError

FORMATS = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF"}
OPTIONS = {"WEBP": {"lossless": True}}


def write(root, names, size=(6, 8)):
    """Writes images whose grey value is their place in `names`."""
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        format = FORMATS.get(path.suffix.lower(), "JPEG")
        Image.new("L", size, value).save(path, format, **OPTIONS.get(format, {}))
    return root


def everything(root, **options):
    """{grey value: label} of both splits together."""
    options = {"image_size": (8, 6), "channels": 1, "holdout": 0.3, **options}
    sources = [folder(root, split, **options) for split in ("train", "validation")]
    examples = [source[i] for source in sources for i in range(len(source))]
    return {int(e["image"][0, 0, 0]): int(e["label"]) for e in examples}, sources[0].info


def contents(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_subfolders_are_classes_in_sorted_order(tmp_path):
    write(tmp_path, ["cat/0.png", "dog/deep/1.PNG", "ant/2.jpg", "cat/3.JPEG", "cat/.hidden.png"])
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    labels, info = everything(tmp_path)
    assert labels == {0: 1, 1: 2, 2: 0, 3: 1}
    assert (info.class_names, info.num_classes) == (("ant", "cat", "dog"), 3)
    assert (info.image_shape, info.levels) == ((8, 6, 1), 256)


NUMBERS = ["1", "2", "10", "007", "9" * 5000]


@pytest.mark.parametrize("by", ["folders", "labels.csv"])
def test_whole_numbers_are_in_their_own_order_by_one_rule(tmp_path, by):
    names = NUMBERS[:4] if by == "folders" else NUMBERS
    files = [f"{name if by == 'folders' else 'all'}/{k}.png" for k, name in enumerate(names)]
    write(tmp_path, files)
    if by == "labels.csv":
        rows = [f"{file},{name}\n" for file, name in zip(files, names, strict=True)]
        (tmp_path / "labels.csv").write_text("".join(rows))
    labels, info = everything(tmp_path)
    order = sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
    assert info.class_names[:4] == tuple(order)[:4] == ("1", "2", "007", "10")
    assert labels == {k: order.index(name) for k, name in enumerate(names)}
    assert info.num_classes == len(names)


def test_one_name_that_is_no_number_sorts_all_as_text(tmp_path):
    write(tmp_path, ["1/0.png", "2/1.png", "10/2.png", "other/3.png"])
    assert everything(tmp_path)[1].class_names == ("1", "10", "2", "other")


def test_images_that_are_not_read_are_counted_in_one_line(tmp_path, caplog):
    names = ["a/0.png", "a/1.jfif", "a/2.JPG", "b/3.webp", "b/4.bmp", "b/5.BMP", "a/6.gif"]
    write(tmp_path, names)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    labels, info = everything(tmp_path)
    assert labels == {0: 0, 1: 0, 2: 0, 3: 1}
    assert info.class_names == ("a", "b")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{tmp_path}: 2 .bmp and 1 .gif files are not read; save them as PNG")


def test_a_class_that_would_vanish_is_an_error(tmp_path):
    write(tmp_path, ["a/0.png", "b/1.bmp", "b/2.bmp", "b/3.tif", "c/4.png", "d/5.gif"])
    message = r"the class .*/b has no image that is read, only 2 \.bmp and 1 \.tif files \(1 more"
    with pytest.raises(UserError, match=message):
        everything(tmp_path)
    (tmp_path / "labels.csv").write_text("a/0.png,x\nc/4.png,y\n")
    assert everything(tmp_path)[0] == {0: 0, 4: 1}
    (tmp_path / "labels.csv").write_text("b/1.bmp,x\na/0.png,x\nc/4.png,y\n")
    with pytest.raises(UserError, match=r"line 1: no such image: 'b/1\.bmp'"):
        everything(tmp_path)


def test_a_folder_of_other_formats_alone_says_so(tmp_path):
    write(tmp_path, ["0.bmp", "1.bmp", "2.gif"])
    with pytest.raises(UserError, match=r"no PNG.*\(2 \.bmp and 1 \.gif files are not read: save"):
        everything(tmp_path)


def test_without_subfolders_there_are_no_labels(tmp_path):
    write(tmp_path, [f"{i}.png" for i in range(5)])
    labels, info = everything(tmp_path)
    assert labels == dict.fromkeys(range(5), -1)
    assert (info.num_classes, info.class_names) == (0, ())


@pytest.mark.parametrize(
    ("rows", "expected", "names"),
    [
        ("a.png,2\nsub/b.png,0\nc.jpg,1\n", {0: 2, 1: 0, 2: 1}, ("0", "1", "2")),
        ("a.png,10\nsub/b.png,1\nc.jpg,2\n", {0: 2, 1: 0, 2: 1}, ("1", "2", "10")),
        ("a.png,10\nsub/b.png,1\nc.jpg,x\n", {0: 1, 1: 0, 2: 2}, ("1", "10", "x")),
        ("file,label\n./a.png, b\r\nsub/b.png,a\n\nc.jpg,b", {0: 1, 1: 0, 2: 1}, ("a", "b")),
        ('\ufeff"a.png","x, y"\nsub/b.png,1\nc.jpg,1\n', {0: 1, 1: 0, 2: 0}, ("1", "x, y")),
    ],
)  # fmt: skip
def test_labels_file(tmp_path, rows, expected, names):
    write(tmp_path, ["a.png", "sub/b.png", "c.jpg"])
    (tmp_path / "labels.csv").write_text(rows, encoding="utf-8")
    labels, info = everything(tmp_path)
    assert (labels, info.class_names) == (expected, names)
    (tmp_path / "labels.csv").rename(tmp_path / "other.txt")
    assert everything(tmp_path, labels_file="other.txt")[0] == expected
    assert everything(tmp_path, labels_file=str(tmp_path / "other.txt"))[0] == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png,1\nb.png,1\nabsent.png,0\n", "line 3: no such image: 'absent.png'"),
        ("a.png,1\n", r"no row for 'b.png' \(1 such"),
        ("a.png,1\nb.png\n", "line 2: write relative/path,label; got 'b.png'"),
        ("a.png,1\nb.png,\n", "line 2"),
        ("a.png,1\nb.png,-1\n", "label -1: integer labels start at 0"),
        ("a.png,1\nb.png,0\na.png,0\n", "line 3: 'a.png' has two labels"),
        ("../a.png,1\nb.png,0\n", "line 1: no such image: '../a.png'"),
    ],
)
def test_a_bad_labels_file_is_one_line(tmp_path, rows, message):
    write(tmp_path, ["a.png", "b.png"])
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(UserError, match=message) as caught:
        everything(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_empty_or_mixed_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no such folder: .*absent"):
        everything(tmp_path / "absent")
    with pytest.raises(UserError, match="no PNG, JPEG or WebP images under"):
        everything(tmp_path)
    write(tmp_path, ["cat/0.png", "loose.png"])
    with pytest.raises(UserError, match=r"loose.png lies in no subfolder"):
        everything(tmp_path)
    with pytest.raises(UserError, match=r"no such labels file: .*mine.csv"):
        everything(tmp_path, labels_file="mine.csv")
    with pytest.raises(UserError, match=r"data.options.holdout=1.5"):
        everything(tmp_path / "cat", holdout=1.5)
    with pytest.raises(UserError, match=r"data.options.on_error='ignore'"):
        everything(tmp_path / "cat", holdout=0, on_error="ignore")


def test_adding_files_moves_no_other_between_the_splits(tmp_path):
    write(tmp_path, [f"{i}.png" for i in range(200)])
    options = {"image_size": (8, 6), "channels": 1, "holdout": 0.2}
    before = {
        split: set(contents(folder(tmp_path, split, **options)))
        for split in ("train", "validation")
    }
    assert before["train"] | before["validation"] == set(range(200))
    assert not before["train"] & before["validation"]
    assert 20 <= len(before["validation"]) <= 60  # binomial, mean 40, 3.5 sigma
    for i in range(100):
        (tmp_path / f"new{i}.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "0.png").unlink()
    after = {
        split: set(contents(folder(tmp_path, split, **options)))
        for split in ("train", "validation")
    }
    for split in ("train", "validation"):
        assert after[split] - {0} == before[split] - {0}


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("holdout", [1e-6, 0.05, 0.999])
def test_both_splits_have_an_image(tmp_path, count, holdout):
    write(tmp_path, [f"{i}.png" for i in range(count)])
    sizes = [
        len(folder(tmp_path, split, (8, 6), 1, holdout=holdout))
        for split in ("train", "validation")
    ]
    assert min(sizes) >= 1
    assert sum(sizes) == count


def test_one_image_or_no_holdout_trains_on_everything(tmp_path):
    write(tmp_path, ["0.png"])
    assert len(folder(tmp_path, "train", (8, 6), 1, holdout=0.99)) == 1
    with pytest.raises(UserError, match="leaves none for the validation split"):
        folder(tmp_path, "validation", (8, 6), 1)
    write(tmp_path, ["0.png", "1.png"])
    assert len(folder(tmp_path, "train", (8, 6), 1, holdout=0)) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_non_square_images_of_many_sizes(tmp_path, channels):
    for size in [(10, 30), (31, 11), (12, 5), (12, 4)]:
        write(tmp_path, [f"{size[0]}x{size[1]}.png"], size)
    source = build_source(
        "folder", "train", data_dir=tmp_path, image_size=(5, 12), channels=channels, holdout=0
    )
    assert source.info.image_shape == (5, 12, channels)
    assert {source[i]["image"].shape for i in range(len(source))} == {(5, 12, channels)}
    encode = codecs.pixels((5, 12, channels)).encode_batch
    batch = Batches(source, 4, seed=0, encode=encode, flip=True).batch_at(0)
    assert batch["x0"].shape == (4, 5, 12, channels)


def broken_folder(root):
    """Ten images; 3 is truncated, 4 empty, and 9, the last, no image at all."""
    write(root, [f"{i}.png" for i in range(10)])
    (root / "3.png").write_bytes((root / "3.png").read_bytes()[:-25])
    (root / "4.png").write_bytes(b"")
    (root / "9.png").write_text("hello")
    return root


@pytest.mark.parametrize(("index", "name"), [(3, "3.png"), (4, "4.png"), (9, "9.png")])
def test_a_broken_file_stops_and_names_itself_and_both_remedies(tmp_path, index, name):
    source = folder(broken_folder(tmp_path), "train", (8, 6), 1, holdout=0)
    with pytest.raises(UserError) as caught:
        source[index]
    message = str(caught.value)
    assert str(tmp_path / name) in message
    assert "remove it, or set data.options.on_error=skip" in message
    assert "\n" not in message
    assert source[2]["image"][0, 0, 0] == 2


def test_a_broken_file_is_replaced_by_the_next_and_counted_once(tmp_path, caplog):
    source = folder(broken_folder(tmp_path), "train", (8, 6), 1, holdout=0, on_error="skip")
    expected = [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]
    assert source.skipped == 0
    threads = [threading.Thread(target=contents, args=(source,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(source) == expected
    assert source.skipped == 3
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3
    assert sum(str(tmp_path / "4.png") in line for line in warnings) == 1
    # Whatever was read before: content is a function of the index.
    again = folder(tmp_path, "train", (8, 6), 1, holdout=0, on_error="skip")
    assert [int(again[i]["image"][0, 0, 0]) for i in reversed(range(10))] == expected[::-1]


def test_only_broken_files_end_in_one_line(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"\x89PNG")
    source = folder(tmp_path, "train", (8, 6), 1, holdout=0, on_error="skip")
    with pytest.raises(UserError, match="none of the 2 images can be read"):
        source[0]


def test_a_broken_file_stops_the_batches_through_the_threads(tmp_path):
    source = folder(broken_folder(tmp_path), "train", (8, 6), 1, holdout=0)
    batches = Batches(source, 10, seed=0, encode=codecs.pixels((8, 6, 1)).encode_batch)
    with pytest.raises(UserError, match=r"remove it, or set data\.options\.on_error=skip"):
        next(batches.iterate(num_threads=2))


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere", ["0.png", "1.png"])
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "real" / "loop").symlink_to(root)
    write(root / "real", ["2.png"])
    assert len(folder(root, "train", (8, 6), 1, holdout=0)) == 3


def test_an_index_out_of_range_ends_iteration(tmp_path):
    write(tmp_path, ["0.png", "1.png", "2.png"])
    source = folder(tmp_path, "train", (8, 6), 1, holdout=0, on_error="skip")
    assert len(list(source)) == 3
    np.testing.assert_array_equal(source[-1]["image"], source[2]["image"])
