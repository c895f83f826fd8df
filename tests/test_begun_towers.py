"""Runs that begin with the towers of another CLIP: of a run, or of another library; or refused."""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import small_clips
import tiny_runs
from test_captioner_runs import captioner
from test_text_to_image import config_of_text

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.interop import clip as interop
from ddpm_jax.runtime import leaves

ONCE = {"num_steps": 1, "validate_every": 0, "checkpoint_every": 1}


def text_to_image(clip, **changes):
    """A run that begins with the tower of texts of a CLIP's run, and keeps it."""
    groups = {
        "data": {
            "name": "shapes",
            "image_size": (16, 16),
            "channels": 3,
            "options": {"captions": "varied"},
            "tokenizer": str(clip.workdir / "tokenizer.json"),
            "vocabulary": 64,
            "context": 24,
        },
        "model": {
            "num_classes": 0,
            "conditions": ("text",),
            "text_tower": "clip",
            "text_channels": 16,
            "text_blocks": 1,
            "text_heads": 2,
        },
        "train": ONCE | {"sample_every": 0, "init_from": str(clip.workdir), "init_strict": False},
        "optim": {"frozen": ("text/*",), "warmup_steps": 0},
    }
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return config_of_text(**groups)


@pytest.mark.wide(3)
def test_a_run_reads_by_the_tokenizer_of_the_tower_that_it_begins_with(clip_run, tmp_path):
    assert train.train(text_to_image(clip_run), tmp_path / "run") == 0
    ours, theirs = (experiment.load(path) for path in (tmp_path / "run", clip_run.workdir))
    assert ours.experiment.tokenizer.digest == theirs.experiment.tokenizer.digest
    kept = leaves.named(experiment.load(tmp_path / "run", raw_params=True).params["text"])
    for name, leaf in leaves.named(theirs.params["text"]).items():
        if name in kept:
            np.testing.assert_array_equal(kept[name], leaf)
    assert {*leaves.named(theirs.params["text"])} - {*kept} == {"projection/kernel"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": {"text_heads": 4}}, "tower of texts is another .*num_heads 2 there, 4 here"),
        ({"data": {"context": 20}}, "context_length 24 there, 20 here"),
        ({"data": {"vocabulary": 65}}, "vocab_size 64 there, 65 here"),
        ({"model": {"text_channels": 8}}, "width 16 there, 8 here"),
        (
            {"data": {"tokenizer": "words"}},
            "knows words by another tokenizer .*; set config.data.t",
        ),
    ],
)
def test_another_tower_of_texts_is_refused(clip_run, tmp_path, changes, line):
    with pytest.raises(UserError, match=line):
        train.train(text_to_image(clip_run, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"image_std": (0.25,)}, r"std \(0.5, 0.5, 0.5\) there, \(0.25, 0.25, 0.25\) here"),
        ({"image_options": {"activation": "gelu"}}, "activation 'quick_gelu' there, 'gelu' here"),
    ],
)
def test_another_tower_of_images_is_refused(clip_run, tmp_path, model, line):
    own = small_clips.FIELDS["model"]["image_options"] | model.get("image_options", {})
    begun = small_clips.FIELDS["train"] | {"init_from": str(clip_run.workdir), "init_strict": False}
    plain = captioner().model.to_dict()
    fields = {name: plain[name] for name in ("channels", "num_blocks", "num_heads")}
    c = captioner(model=fields | model | {"image_options": own}, train=begun)
    with pytest.raises(UserError, match=f"tower of images is another .*{line}"):
        train.train(c, tmp_path / "run")


@pytest.fixture(scope="module")
def written(tmp_path_factory, clip_run):
    """A CLIP with the towers of the tiny run, its parameters, and folders of both libraries."""
    root = tmp_path_factory.mktemp("clips")
    made = experiment.load(clip_run.workdir)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), made.params)
    interop.clip_to_transformers(made.model, params, root / "transformers")
    interop.clip_to_open_clip(made.model, params, root / "open_clip")
    return root, params


OPEN = "open_clip/open_clip_model.safetensors"


@pytest.mark.parametrize("name", ["transformers", "open_clip", OPEN])
def test_a_clip_begins_with_what_another_library_wrote(written, tmp_path, name):
    root, params = written
    c = small_clips.config(
        train=small_clips.FIELDS["train"] | ONCE | {"init_from": str(root / name)}
    )
    begun = experiment.build(c).starting_weights()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(begun.params), params)
    assert begun.record["unused"] == begun.record["as_initialised"] == []


@pytest.mark.wide(3)
def test_the_command_begins_with_it_and_records_its_digest(written, tmp_path):
    root, _ = written
    c = small_clips.config(
        train=small_clips.FIELDS["train"] | ONCE | {"init_from": str(root / "transformers")}
    )
    assert train.train(c, tmp_path / "run") == 0
    (entry,) = json.loads((tmp_path / "run" / "manifest.json").read_text())["attempts"]
    assert entry["init_from"]["source"] == str(root / "transformers")
    assert len(entry["init_from"]["sha256"]) == 64
    assert tiny_runs.metrics(tmp_path / "run")[0]["loss"] > 0


def changed(folder, part, **fields):
    """The config.json of a folder, changed in one part."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content[part] |= fields
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            functools.partial(changed, part="text_config", hidden_act="gelu"),
            "tower of texts is another .*activation 'gelu' there, 'quick_gelu' here",
        ),
        (
            functools.partial(changed, part="vision_config", num_attention_heads=4),
            "tower of images is another .*num_heads 4 there, 2 here",
        ),
        (
            functools.partial(changed, part="vision_config", patch_size=4),
            "shape",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    ],
)
def test_what_does_not_fit_is_named(written, tmp_path, change, line):
    clip = experiment.build(small_clips.config()).model
    interop.clip_to_transformers(clip, written[1], tmp_path / "theirs")
    change(tmp_path / "theirs")
    c = small_clips.config(
        train=small_clips.FIELDS["train"] | {"init_from": str(tmp_path / "theirs")}
    )
    with pytest.raises(UserError, match=f"^config.train.init_from=.*{line}"):
        train.train(c, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_of_other_names_is_read_as_before(written, tmp_path):
    _, params = written
    named = {name: np.asarray(leaf) for name, leaf in leaves.named(params).items()}
    safetensors.numpy.save_file(named, tmp_path / "F.safetensors")
    c = small_clips.config(
        train=small_clips.FIELDS["train"] | {"init_from": str(tmp_path / "F.safetensors")}
    )
    begun = experiment.build(c).starting_weights()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(begun.params), params)
