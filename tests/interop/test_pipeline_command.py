"""scripts/sample.py --pipeline: files of images, what is refused, going on where it stopped."""

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import tiny_pipelines  # noqa: E402

from ddpm_jax.commands.sample import by_pipeline  # noqa: E402
from ddpm_jax.errors import UserError  # noqa: E402
from ddpm_jax.interop import stable_diffusion  # noqa: E402

FIELDS = {"num_steps": 2, "size": "32x48", "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "sd1"
    tiny_pipelines.make("sd1", path)
    return str(path)


def test_prompts_become_files_and_the_images_are_the_pipelines_own(folder, tmp_path, capsys):
    out = tmp_path / "drawn.npz"
    by_pipeline.to_files(
        folder, str(out), prompts=["a cat", "red"], num_samples=3, batch_size=2, **FIELDS
    )
    with np.load(out) as held:
        images, prompts = held["samples"], held["prompts"]
    assert images.shape == (3, 32, 48, 3)
    assert prompts.tolist() == ["a cat", "red", "a cat"]
    assert out.with_suffix(".png").is_file()
    assert "3 samples in" in capsys.readouterr().out
    pipeline = stable_diffusion.load(folder)
    # The last call is filled up, and image 2 is of (seed, 2).
    own = pipeline.sample(
        ["a cat", "a cat"], first=2, num_steps=2, size=(32, 48), guidance_scale=3.0
    )
    assert np.abs(own[0].astype(int) - images[2]).max() <= 1


def test_one_image_is_one_that_the_next_command_begins_with(folder, tmp_path, capsys):
    first, asked = tmp_path / "one.png", {"prompts": ["a cat"], **FIELDS}
    by_pipeline.to_files(folder, str(first), **asked)
    assert f"1 sample in {first}\n" in capsys.readouterr().out
    image = np.asarray(Image.open(first))
    own = stable_diffusion.load(folder).sample(
        ["a cat"], num_steps=2, size=(32, 48), guidance_scale=3.0
    )
    assert np.abs(own[0].astype(int) - image).max() <= 1
    again = {**asked, "size": None, "init_image": [str(first)], "sampler": "ddim"}
    by_pipeline.to_files(folder, str(tmp_path / "two.png"), **again)
    assert Image.open(tmp_path / "two.png").size == (48, 32)


def test_a_pipeline_that_reads_an_image_asks_for_it(tmp_path):
    for name, flag in (("inpaint", "--inpaint"), ("controlnet", "--control_image")):
        tiny_pipelines.make(name, tmp_path / name)
        with pytest.raises(UserError, match=f"{flag} is missing: this pipeline"):
            by_pipeline.to_files(
                str(tmp_path / name), str(tmp_path / "out" / "drawn.npz"), prompts=["a cat"]
            )
    assert not (tmp_path / "out").exists()


def test_what_was_drawn_before_it_stopped_is_not_drawn_again(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(by_pipeline.sample_files, "PART_IMAGES", 1)
    sample = by_pipeline.pipelines.Pipeline.sample
    drawn = []

    def counted(self, prompts, *args, **options):
        drawn.append(options["first"])
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return sample(self, prompts, *args, **options)

    monkeypatch.setattr(by_pipeline.pipelines.Pipeline, "sample", counted)
    out = tmp_path / "drawn.npz"
    asked = {"prompts": ["a cat"], "num_samples": 2, "batch_size": 1, **FIELDS}
    with pytest.raises(KeyboardInterrupt):
        by_pipeline.to_files(folder, str(out), **asked)
    assert not out.exists()
    by_pipeline.to_files(folder, str(out), **asked)
    assert drawn == [0, 1, 1]
    assert "1 of 2 samples are drawn" in capsys.readouterr().err
    with np.load(out) as held:
        assert len(held["samples"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "--prompt is missing"),
        ({"size": "33x48"}, "size=33x48: need multiples of 8, such as 32x48"),
        ({"size": "wide"}, "--size=wide: need HEIGHTxWIDTH"),
        ({"size": "0x48"}, "--size=0x48: need HEIGHTxWIDTH"),
        ({"batch_size": -1}, "--batch_size=-1: need at least 1"),
        ({"not_its": ["eta", "workdir"]}, "--workdir and --pipeline=.*: give one of the two"),
        ({"not_its": ["labels"]}, "--labels: applies only to a run"),
        ({"options": ["eta=1"]}, "--options=eta=1: of a pipeline, need guidance_rescale"),
        ({"options": ["guess_mode=1"]}, "guess_mode: this pipeline has no ControlNet"),
        ({"options": ["clip_skip=9"]}, "need 0 <= clip_skip <= 2, got clip_skip=9"),
        ({"sampler": "lms"}, "lms"),
        ({"lora": ["nowhere.safetensors:0.5"]}, "--lora=nowhere.safetensors:0.5: "),
        ({"controlnet": "nowhere"}, "--pipeline=.*: controlnet=nowhere: "),
        ({"num_samples": 0}, "--num_samples=0: need at least 1"),
        ({"init_image": ["a.png", "b.png"]}, "--init_image: a pipeline begins with one image"),
        ({"inpaint": ["a.png"]}, "--inpaint=a.png: need an image and a mask"),
    ],
)
def test_what_does_not_fit_ends_in_one_line_and_nothing_is_written(
    folder, tmp_path, options, message
):
    out = tmp_path / "drawn.npz"
    with pytest.raises(UserError, match=message) as error:
        by_pipeline.to_files(folder, str(out), **{"prompts": ["a cat"], **FIELDS, **options})
    assert "\n" not in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_a_mask_of_another_size_is_refused(folder, tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "image.png")
    Image.new("L", (8, 8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask: need \[32, 48, 1\]"):
        by_pipeline.to_files(
            folder,
            str(tmp_path / "out" / "drawn.npz"),
            prompts=["a cat"],
            inpaint=[str(tmp_path / "image.png"), str(tmp_path / "mask.png")],
            num_steps=2,
        )
