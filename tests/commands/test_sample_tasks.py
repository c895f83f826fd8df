"""sample.py's flags for images to keep, to begin with or to complete, and the way as a film."""

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from ddpm_jax import command_words
from ddpm_jax.commands.sample import sample
from ddpm_jax.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture
def images(tmp_path):
    """A folder of images that fit 8x8 grey ones, and of some that do not."""
    folder = tmp_path / "images"
    folder.mkdir()
    grey = RNG.integers(0, 256, (8, 8), np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 3:] = 255
    drawn = {
        "grey": Image.fromarray(grey),
        "other": Image.fromarray(grey[::-1]),
        "mask": Image.fromarray(mask),
        "bits": Image.fromarray(mask).convert("1"),
        "small": Image.fromarray(grey[::2, ::2]),
        "rgb": Image.fromarray(grey).convert("RGB"),
        "alpha": Image.fromarray(grey).convert("LA"),
        "palette": Image.fromarray(grey).convert("P"),
        "narrow": Image.fromarray(grey[:, :7]),
    }
    for name, image in drawn.items():
        image.save(folder / f"{name}.png")
    (folder / "text.png").write_text("no image")
    return folder


def test_two_words_of_a_flag_are_one_value():
    pairs = ("inpaint",)
    words = ["s.py", "--inpaint", "a.png", "b.png", "--seed", "3"]
    assert command_words.joined(words, pairs) == ["s.py", "--inpaint=a.png,b.png", "--seed", "3"]
    words = ["s.py", "--inpaint=a.png,b.png", "--out", "c.png"]
    assert command_words.joined(words, pairs) == words
    # One word too few, or none, is for the flag to refuse.
    assert command_words.joined(["s.py", "--inpaint", "a.png", "--x"], pairs)[1:] == [
        "--inpaint=a.png",
        "--x",
    ]
    assert command_words.joined(["s.py", "--inpaint"], pairs)[1:] == ["--inpaint="]


def test_the_script_paints_where_the_mask_is_white(finished_run, images, tmp_path):
    out, film = tmp_path / "a.npz", tmp_path / "strip.png"
    done = tiny_runs.script(
        "sample", f"--workdir={finished_run.workdir}", "--num_samples=3", "--labels=3",
        "--inpaint", images / "grey.png", images / "mask.png", f"--out={out}",
        f"--trajectory={film}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"the way of 3 samples in {film}" in done.stdout
    with np.load(out) as held:
        drawn = held["samples"]
    known = np.asarray(Image.open(images / "grey.png"))
    for image in drawn:
        np.testing.assert_array_equal(image[:, :3, 0], known[:, :3])
    assert (drawn[0, :, 3:] != drawn[1, :, 3:]).any()
    # Five steps have six images, each of 32 pixels and 2 beside it.
    assert Image.open(film).size == (6 * 34 + 2, 3 * 34 + 2)


def test_a_moving_picture_ends_with_the_samples(finished_run, tmp_path):
    film = tmp_path / "new" / "way.gif"
    sample.to_files(
        str(finished_run.workdir), str(tmp_path / "a.png"), num_samples=4, trajectory=str(film)
    )
    with Image.open(film) as moving, Image.open(tmp_path / "a.png") as still:
        assert moving.n_frames == 6
        assert moving.info["loop"] == 0
        moving.seek(5)
        last = np.asarray(moving.convert("L")).astype(int)
        # A grid of its own: two columns, where the samples' has one a class.
        assert last.shape == (70, 70)
        assert np.abs(last[2:34, 2:34] - np.asarray(still)[2:34, 2:34]).max() <= 8


@pytest.mark.wide(3)
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"inpaint": ["grey"]}, "need an image and a mask"),
        ({"inpaint": ["rgb", "mask"]}, r"rgb\.png: cannot take.*its mode is RGB.*needs L or 1"),
        ({"inpaint": ["grey", "rgb"]}, r"rgb\.png.*mode is RGB"),
        ({"inpaint": ["narrow", "mask"]}, r"inpaint: need \(8, 8, 1\).*got \(8, 7, 1\)"),
        ({"inpaint": ["grey", "small"]}, r"mask: need \(8, 8, 1\).*got \(4, 4, 1\)"),
        ({"init_image": ["alpha"]}, "mode is LA"),
        ({"init_image": ["palette"]}, "mode is P"),
        ({"init_image": ["text"]}, "neither PNG nor JPEG"),
        ({"init_image": ["missing"]}, "No such file"),
        ({"init_image": ["small"]}, r"got \(4, 4, 1\)"),
        ({"colourise": "grey"}, "nothing to colour"),
        ({"upscale": "narrow"}, "upscale: need"),
        ({"between_labels": ["3"]}, "need two classes"),
        ({"between_labels": ["3", "x"]}, "between_labels=3,x: label x: need one of 0, 1, "),
        ({"compose": ["label=3"]}, "WEIGHT:name=value"),
        ({"compose": ["x:label=3"]}, "WEIGHT:name=value"),
        ({"compose": ["nan:label=3"]}, "WEIGHT:name=value"),
        ({"compose": ["2:label"]}, "WEIGHT:name=value"),
        ({"compose": ["2:label=twelve"]}, "label twelve"),
        ({"classifier_workdir": "nowhere"}, "no checkpoint in nowhere"),
        ({"weaker_step": 13}, "no checkpoint of step 13"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(finished_run, images, task, words):
    def path(name):
        return str(images / f"{name}.png")

    for flag, value in task.items():
        if flag in ("inpaint", "init_image"):
            task = {flag: [path(name) for name in value]}
        elif flag in ("colourise", "upscale"):
            task = {flag: path(value)}
    before = tiny_runs.snapshot(images)
    with pytest.raises(UserError, match=words):
        sample.to_files(
            str(finished_run.workdir), str(images / "out.png"), num_samples=2, task=task
        )
    assert tiny_runs.snapshot(images) == before


def test_a_film_is_a_png_or_a_gif(finished_run, tmp_path):
    with pytest.raises(UserError, match=r"--trajectory=a\.mp4: need a strip"):
        sample.to_files(
            str(finished_run.workdir), str(tmp_path / "a.png"), num_samples=2, trajectory="a.mp4"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.wide(3)
def test_black_and_white_masks_and_two_images_are_taken(finished_run, images, tmp_path):
    for task in (
        {"inpaint": [str(images / "grey.png"), str(images / "bits.png")]},
        {"init_image": [str(images / "grey.png"), str(images / "other.png")], "strength": 0.6},
        {"upscale": str(images / "small.png"), "observation_noise": 0.1},
        {"weaker_step": 700},
    ):
        out = tmp_path / f"{next(iter(task))}.png"
        sample.to_files(str(finished_run.workdir), str(out), num_samples=2, task=task)
        assert out.is_file()


@pytest.mark.wide(3)
def test_an_image_of_several_classes_has_none(finished_run, tmp_path):
    for name, task in {
        "between": {"between_labels": ["3", "8"]},
        "both": {"compose": ["1:label=3"]},
    }.items():
        folder = tmp_path / name
        sample.to_files(str(finished_run.workdir), str(folder), num_samples=2, task=task)
        assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "000001.png"]
