"""evaluate.py --pipeline: figures beside transformers' and scipy's, and what is refused."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import scipy.linalg
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

import tiny_pipelines  # noqa: E402
import tiny_runs  # noqa: E402

from ddpm_jax.commands.evaluate import compare, evaluate  # noqa: E402
from ddpm_jax.commands.evaluate.of_samples import SpaceFlags  # noqa: E402
from ddpm_jax.commands.evaluate.subjects import PipelineFlags  # noqa: E402
from ddpm_jax.data import captioned_folder  # noqa: E402
from ddpm_jax.errors import UserError  # noqa: E402
from ddpm_jax.interop import stable_diffusion  # noqa: E402
from ddpm_jax.interop.pipeline import Pipeline  # noqa: E402
from ddpm_jax.measures import clip_judge  # noqa: E402
from ddpm_jax.runtime.shards import Shards  # noqa: E402

NUM, SIZE = 20, (16, 24)
HOLDOUT = 0.5
OF_MODEL = {"num_samples": None, "sampling": {}, "guidance_scales": []}  # nothing is drawn
EXTRACTOR = """
def means(images):
    height, width = images.shape[1] // 2, images.shape[2] // 2
    return images.reshape(len(images), 2, height, 2, width, 3).mean(axis=(2, 4)).reshape(-1, 12)


def brightness(samples, real):
    return samples.mean() / real.mean()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("measured") / "sd1"
    tiny_pipelines.make("sd1", path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty images of the pipeline's size, each with its caption."""
    path = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for k in range(40):
        image = random.integers(0, 256, (2, 3, 3)).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(image.astype(np.uint8)).save(path / f"{k:02}.png")
        (path / f"{k:02}.txt").write_text(f"a {'red ' * (k % 3)}cat on {k}")
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A CLIP as transformers saves it, with its tokenizer and its preparation of images."""
    path = tmp_path_factory.mktemp("judge") / "clip"
    words = tiny_pipelines.tokenizer(path.with_name("words"))
    torch.manual_seed(0)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    text = {"vocab_size": len(words), "eos_token_id": len(words) - 1, "bos_token_id": 0}
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**tower, **text, "max_position_embeddings": 77},
            vision_config={**tower, "image_size": 20, "patch_size": 5},
            projection_dim=16,
        )
    )
    with torch.no_grad():
        clip.text_projection.weight *= -1  # as it is drawn, hardly a cosine is above 0
    tiny_pipelines.perturbed(clip).save_pretrained(path)
    words.save_pretrained(path)
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}
    )
    images.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def own(tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("own")
    (path / "quadrants.py").write_text(EXTRACTOR)
    monkeypatch.syspath_prepend(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))


def measure(folder, photos, workdir, *, options=(), flags=None, **changes):
    """The result of the tiny pipeline, and whatever is changed."""
    own = {"pipeline": str(folder), "size": "16x24", "dataset": "captions", "data_dir": str(photos)}
    own |= {"data_options": [f"holdout={HOLDOUT}"], **(flags or {})}
    fields = {
        "num_samples": NUM,
        "sampling": {"num_steps": 2, "batch_size": 2},
        "guidance_scales": ["3"],
        "pipeline": PipelineFlags(**own),
        "options": options,
    }
    return evaluate.evaluate(str(workdir) if workdir else None, **fields | changes)


def held_out(photos):
    """The captions that samples are drawn by: evenly spaced, and again from the beginning."""
    source = captioned_folder(str(photos), "validation", SIZE, 3, holdout=HOLDOUT)
    captions = [source[k]["caption"] for k in range(len(source))]
    rows = [k * len(captions) // NUM for k in range(NUM)] if len(captions) > NUM else None
    return captions, [captions[k] for k in rows or [k % len(captions) for k in range(NUM)]]


def their_scores(judge, images, captions):
    """100 max(cosine, 0) by transformers."""
    clip = transformers.CLIPModel.from_pretrained(judge).eval()
    words = transformers.CLIPTokenizer.from_pretrained(judge)
    prepares = transformers.CLIPImageProcessor.from_pretrained(judge)
    with torch.no_grad():
        outputs = clip(
            pixel_values=prepares([*images], return_tensors="pt").pixel_values,
            input_ids=words(
                captions, padding="max_length", max_length=77, return_tensors="pt"
            ).input_ids,
        )
        cosines = outputs.logits_per_image / clip.logit_scale.exp()
    return 100 * np.maximum(cosines.numpy(), 0)


def frechet(a, b):
    """The Fréchet distance of Gaussians of two sets of features, by scipy's square root."""
    covariances = [np.cov(one, rowvar=False) for one in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    between = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return between + np.trace(covariances[0] + covariances[1] - 2 * root)


def test_the_figures_are_those_of_transformers_and_scipy(
    folder, photos, judge, tmp_path, monkeypatch
):
    metrics = ["clip_score", "fid", "kid", "prdc", "quadrants:brightness"]
    seen = {}
    images = Shards.together

    def kept(self, make):
        made = images(self, make)
        if "images" in made:
            seen[self.folder] = np.array(made["images"])
        return made

    monkeypatch.setattr(Shards, "together", kept)
    space = SpaceFlags(extractor="quadrants:means")
    asked = {"metrics": metrics, "space": space, "clip_judge": str(judge)}
    report = measure(folder, photos, tmp_path / "out", **asked)
    assert json.loads((tmp_path / "out" / "eval" / "samples.json").read_text())["samples"]
    (drawn,) = seen.values()  # all metrics are of one set of samples
    assert drawn.shape == (NUM, *SIZE, 3)

    # Image k is of the pipeline, of (seed, k) and of its caption.
    captions, prompts = held_out(photos)
    pipeline = stable_diffusion.load(folder)
    again = pipeline.sample(prompts[8:10], first=8, num_steps=2, guidance_scale=3.0, size=SIZE)
    assert np.abs(again.astype(int) - drawn[8:10]).max() <= 1

    figures = report["samples"][0]["metrics"]
    scores = their_scores(judge, drawn, prompts)
    assert figures["clip_score"]["value"] == pytest.approx(np.diag(scores).mean(), abs=1e-3)
    shuffled = np.mean([scores[k, (k + 1) % NUM] for k in range(NUM)])
    assert figures["clip_score_shuffled"]["value"] == pytest.approx(shuffled, abs=1e-3)
    assert np.diag(scores).mean() > 5 * abs(np.diag(scores).mean() - shuffled) > 0.01
    error = np.diag(scores).std(ddof=1) / NUM**0.5
    low = np.diag(scores).mean() - 1.96 * error
    assert figures["clip_score"]["low"] == pytest.approx(low, abs=1e-3)
    real = captioned_folder(str(photos), "validation", SIZE, 3, holdout=HOLDOUT)
    own = their_scores(judge, [real[k % len(real)]["image"] for k in range(NUM)], prompts)
    if len(captions) <= NUM:
        held = report["held_out_data"]["metrics"]["clip_score"]["value"]
        assert held == pytest.approx(np.diag(own).mean(), abs=1e-3)

    def features(rows):
        return np.asarray(rows, np.float64).reshape(-1, 2, 8, 2, 12, 3).mean((2, 4)).reshape(-1, 12)

    train = captioned_folder(str(photos), "train", SIZE, 3, holdout=HOLDOUT)
    wanted = frechet(features(drawn), features([train[k]["image"] for k in range(len(train))]))
    assert figures["fid"]["value"] == pytest.approx(wanted, rel=1e-4)
    assert {"kid", "precision", "recall", "density", "coverage"} <= {*figures}
    brightness = drawn.mean() / np.mean([train[k]["image"] for k in range(len(train))])
    assert figures["quadrants:brightness"]["value"] == pytest.approx(brightness, rel=1e-6)
    assert report["samples"][0]["nfe"] == 3  # PNDM takes the first step twice
    assert "checkpoint_step" not in report["run"]
    sampling = report["protocol"]["sampling"]
    assert sampling.pop("scheduler")["timestep_spacing"] == "leading"
    assert sampling.pop("captions") == report["protocol"]["real"]["validation"]["fingerprint"]
    assert sampling == {"num_steps": 2, "size": SIZE}
    assert "| clip_score |" in evaluate.table(report)

    # What was drawn is not drawn again, and the result is the same.
    monkeypatch.setattr(Pipeline, "sample", None)
    again = measure(folder, photos, tmp_path / "out", **asked, name="again")
    assert again["samples"] == report["samples"]


def test_results_are_compared_that_were_measured_alike(folder, photos, judge, tmp_path):
    other = tmp_path / "other"
    pipeline = stable_diffusion.load(folder)
    unet = copy.deepcopy(pipeline.unet_params)
    unet["conv_out"]["kernel"] = unet["conv_out"]["kernel"] * 1.1
    stable_diffusion.save(dataclasses.replace(pipeline, unet_params=unet), other)
    asked = {"num_samples": 2, "clip_judge": str(judge)}
    # By default what the flags of judges name, in the pipeline's own folder.
    one = measure(folder, photos, None, **asked)
    assert [*one["samples"][0]["metrics"]] == ["clip_score", "clip_score_shuffled"]
    two = measure(other, photos, None, **asked)
    assert one["run"]["checkpoint"] != two["run"]["checkpoint"]
    a, b = (path / "eval" / "samples.json" for path in (folder, other))
    assert "| clip_score |" in compare.compare(a, b)
    changed = {"name": "other", "flags": {"negative_prompt": ["red"]}}
    measure(folder, photos, None, **asked | changed)
    with pytest.raises(UserError, match=r"alike: sampling\.negative_prompt: nothing"):
        compare.compare(a, folder / "eval" / "other.json")


def test_images_are_prepared_as_transformers_prepares_them(judge):
    random = np.random.default_rng(1)
    prepares = transformers.CLIPImageProcessor.from_pretrained(judge)
    read = clip_judge.clip_preprocessor.read(judge, (20, 20))
    for height, width in ((31, 47), (47, 31), (20, 20), (9, 13)):
        images = random.integers(0, 256, (2, height, width, 3), np.uint8)
        wanted = prepares([*images], return_tensors="np").pixel_values.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(clip_judge.prepared(images, read), wanted, atol=2e-5)


def test_a_run_of_clip_judges_too(folder, photos, clip_run, tmp_path):
    report = measure(folder, photos, tmp_path / "out", clip_judge=str(clip_run.workdir))
    record = report["protocol"]["clip_judge"]
    assert record["checkpoint"] == tiny_runs.final(clip_run.workdir)["state_sha256"]
    assert -1 < report["samples"][0]["metrics"]["clip_score"]["value"] < 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flags": {"dataset": None}}, "--dataset is missing: .*captions"),
        ({"flags": {"dataset": "digits"}}, "--dataset=digits: it has no captions"),
        ({"flags": {"data_dir": "nowhere"}}, "nowhere"),
        ({"flags": {"data_dir": None}}, "--dataset=captions needs --data_dir"),
        ({"flags": {"data_options": ["holdout"]}}, "--data_options=holdout: need name=value"),
        ({"flags": {"data_options": ["styles=x"]}}, "--data_options=styles='x'"),
        (
            {"flags": {"data_options": ["holdout=0"]}},
            "--dataset=captions: .*--data_options=holdout=0.1 holds some out",
        ),
        ({"flags": {"pipeline": "nowhere"}}, "--pipeline=nowhere"),
        ({"flags": {"size": "15x24"}}, "size=15x24: need multiples of 8"),
        ({"flags": {"negative_prompt": ["a", "b"]}}, "--negative_prompt: one for all"),
        ({"flags": {"lora": ["none.safetensors"]}}, "--lora=none.safetensors"),
        (
            {"metrics": ["bpd"], **OF_MODEL},
            "--metrics=bpd: this run is a pipeline of Stable Diffusion",
        ),
        ({"metrics": ["memorisation"]}, "--metrics=memorisation: nothing says that a pipeline"),
        ({"metrics": ["label_accuracy"]}, "--metrics=label_accuracy"),
        ({"metrics": ["caption_agreement"]}, "nothing says whether a caption of captions is true"),
        ({"metrics": None}, "--metrics is missing: name some of fid"),
        ({"metrics": ["clip_score"]}, "--metrics=clip_score: name the CLIP"),
        ({"clip_judge": "nowhere", "metrics": ["clip_score"]}, "nowhere"),
        ({"clip_judge": "x", "metrics": ["kid"]}, "--clip_judge=x applies only to --metrics=clip"),
        ({"options": ["eta=0.5"]}, "--options=eta=0.5: of a pipeline, need guidance_rescale"),
        ({"options": ["clip_skip=9"]}, "need 0 <= clip_skip <= 2"),
        ({"sampling": {"sampler": "lms"}}, "sampler=lms: need one of"),
        ({"sampling": {"num_steps": 0}}, "need 1 <= num_steps"),
        ({"sampling": {"batch_size": 0}}, "--batch_size=0: need at least 1"),
        ({"guidance_scales": ["two"]}, "--guidance_scale=two: need numbers"),
    ],
)
def test_what_does_not_fit_ends_in_one_line_and_nothing_is_written(
    folder, photos, tmp_path, changes, message
):
    defaults = {"metrics": ["fid"], "space": SpaceFlags(extractor="quadrants:means")}
    if changes.get("metrics", 1) != ["kid"] and "metrics" in changes:
        defaults.pop("space")
    with pytest.raises(UserError, match=message) as error:
        measure(folder, photos, tmp_path / "out", **defaults | changes)
    assert "\n" not in str(error.value)
    assert not [*tmp_path.iterdir()]


OF_FEATURES = "fid, kid, sfid, is, prdc"
READ_BACK = "caption_agreement, unseen_templates, held_out_captions, captioned"


@pytest.mark.parametrize(
    ("metrics", "flags", "listed"),
    [
        (None, {}, f"{OF_FEATURES}, clip_score, class_histogram"),
        (["help"], {}, f"{OF_FEATURES}, clip_score, class_histogram"),
        (
            ["help"],
            {"dataset": "shapes", "data_dir": None, "data_options": []},
            f"{OF_FEATURES}, {READ_BACK}, clip_score, class_histogram",
        ),
    ],
)
def test_metrics_are_listed_that_can_be_asked_for(folder, photos, metrics, flags, listed):
    with pytest.raises(UserError) as error:
        measure(folder, photos, None, metrics=metrics, flags=flags)
    choices = str(error.value).partition("some of ")[2].partition(", or your own")[0]
    assert choices == listed


def test_pipelines_of_other_inputs_are_refused(photos, tmp_path):
    for name, message in (("inpaint", "completes images"), ("controlnet", "has a ControlNet")):
        tiny_pipelines.make(name, tmp_path / name)
        with pytest.raises(UserError, match=message):
            measure(tmp_path / name, photos, tmp_path / "out", metrics=["kid"])
    assert not (tmp_path / "out").exists()


def test_the_script_measures_and_refuses_what_is_of_runs(folder, photos, judge, tmp_path):
    own = [f"--pipeline={folder}", "--dataset=captions", f"--data_dir={photos}", "--size=16x24"]
    few = ["--num_samples=3", "--num_steps=1", "--guidance_scale=1", "--data_options=holdout=0.5"]
    done = tiny_runs.script(
        "evaluate", *own, *few, f"--clip_judge={judge}", f"--workdir={tmp_path}", "--name=few"
    )
    assert done.returncode == 0, done.stderr
    assert "| clip_score |" in done.stdout
    report = json.loads((tmp_path / "eval" / "few.json").read_text())
    assert report["protocol"]["num_samples"] == 3
    for words, message in (
        ([*own, "--step=3"], "--step applies only to a run (--workdir), not to --pipeline"),
        ([*own, "--eta=1"], "--eta applies only to a run"),
        ([f"--workdir={tmp_path}", "--size=16x24"], "--size applies only to --pipeline"),
    ):
        done = tiny_runs.script("evaluate", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr.splitlines()[-1]
