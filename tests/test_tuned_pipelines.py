"""Pipelines of Stable Diffusion that go on training: diffusers' loss, resumed, exported again."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from PIL import Image

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import tiny_pipelines  # noqa: E402
from tiny_pipelines import noise, to_numpy, to_torch  # noqa: E402

from configs import stable_diffusion_finetune  # noqa: E402
from ddpm_jax import experiment  # noqa: E402
from ddpm_jax.commands.train import train  # noqa: E402
from ddpm_jax.config import config_files  # noqa: E402
from ddpm_jax.errors import UserError  # noqa: E402
from ddpm_jax.interop import pipeline_lora, stable_diffusion  # noqa: E402
from ddpm_jax.runtime import leaves  # noqa: E402

CAPTIONS = ("a red cat!", "blue", "on in", "a cat")
# One level of a U-Net, and an autoencoder of two, whose images are twice the size of latents.
ONE_LEVEL = tiny_pipelines.BRIEF
FIELDS = {
    "sd1": ONE_LEVEL,
    "inpaint": ONE_LEVEL,
    "controlnet": ONE_LEVEL,
    "sd2": ONE_LEVEL | {"attention_head_dim": (2,)},
    "sdxl": ONE_LEVEL | {"attention_head_dim": (2,), "transformer_layers_per_block": (1,)},
    "refiner": ONE_LEVEL | {"attention_head_dim": (2,), "transformer_layers_per_block": (1,)},
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A tiny pipeline by name -> (diffusers', its folder)."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("pipelines") / name
            vae = tiny_pipelines.autoencoder((8, 8))
            made[name] = tiny_pipelines.make(name, folder, vae, **FIELDS.get(name, {})), folder
        return made[name]

    return of


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of captioned images."""
    folder, rng = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for k in range(16):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{k}.png")
        lines.append(f"{k}.png,{CAPTIONS[k % 4]} {k // 4}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


def config_of(folder, data_dir="", **changes):
    groups = {
        "data": {
            "data_dir": str(data_dir),
            "image_size": (16, 16),
            "batch_size": 4,
            "cache_latents": False,
            "cache_text": False,
        },
        "model": {"dtype": "float32", "remat": "none"},
        "optim": {"learning_rate": 1e-3, "warmup_steps": 0},
        "ema": {"decay": 0.5},
        "train": {
            "init_from": str(folder),
            "num_steps": 4,
            "checkpoint_every": 2,
            "log_every": 1,
            "sample_every": 0,
            "validate_every": 0,
            "min_free_gb": 0.0,
        },
        "sample": {"sampler": "ddim", "num_steps": 3, "batch_size": 2},
        "mesh": {"data": 1},
    }
    groups = {name: groups.get(name, {}) | changes.get(name, {}) for name in {**groups, **changes}}
    return config_files.override(stable_diffusion_finetune.get_config(), groups)


def _their_texts(theirs, texts, dropped):
    """What diffusers' scripts of training tell the U-Net: (states, the rest)."""
    told = ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]
    if not hasattr(theirs, "tokenizer_2"):
        return theirs.encode_prompt(told, "cpu", 1, False)[0], {}
    states, _, pooled, _ = theirs.encode_prompt(
        told, device="cpu", do_classifier_free_guidance=False
    )
    hidden = torch.tensor([bool(drop) for drop in dropped])
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * len(texts))
    # As its pipeline has it of no text, force_zeros_for_empty_prompt.
    states = states.masked_fill(hidden[:, None, None], 0)
    added = {"text_embeds": pooled.masked_fill(hidden[:, None], 0), "time_ids": sizes}
    return states, {"added_cond_kwargs": added}


@pytest.mark.wide(3)
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_loss_and_gradient_are_those_of_diffusers_scripts(pipeline, name):
    theirs, folder = pipeline(name)
    run = experiment.build(
        config_of(folder, diffusion={"condition_dropout": (0.5,)}, data={"batch_size": 4})
    )
    params = run.starting_weights().params
    words = stable_diffusion.load(folder).towers[0].tokenizer
    batch = {
        "x0": jnp.asarray(noise(4, 8, 8)),
        "text": jnp.asarray(words(CAPTIONS)),
    }
    key = jax.random.key(1)

    def mean_loss(params):
        return run.objective(params, batch, key, True, {}).loss.mean()

    drawn = run.objective.draws(params, batch, key, True, {})
    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(params)
    dropped = np.asarray(drawn["drop"]["text"])
    assert 0 < dropped.sum() < 4

    scheduler = diffusers.DDPMScheduler.from_config(theirs.scheduler.config)
    x0, eps = to_torch(np.asarray(batch["x0"])), to_torch(np.asarray(drawn["eps"]))
    steps = torch.from_numpy(np.round(np.asarray(drawn["t"]) * 1000).astype(np.int64) - 1)
    noised = scheduler.add_noise(x0, eps, steps)
    states, rest = _their_texts(theirs, CAPTIONS, dropped)
    target = eps
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(x0, eps, steps)
    output = theirs.unet(noised, steps, states.detach(), **rest).sample
    wanted = torch.nn.functional.mse_loss(output, target)
    wanted.backward()
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-5)
    block = theirs.unet.down_blocks[0].attentions[0].transformer_blocks[0]
    ours = gradient["unet"]["down_0_transformer_0"]["block_0"]
    for found, layer in (
        (ours["attention_1"]["key"], block.attn2.to_k),
        (ours["mlp_0"], block.ff.net[0].proj),
    ):
        grad = layer.weight.grad.numpy().T
        assert np.abs(found["kernel"] - grad).max() < 1e-4 * np.abs(grad).max()
    # The texts' encoders stay as they are.
    frozen = [leaf for part in run.model.towers for leaf in jax.tree.leaves(gradient[part])]
    assert not any(map(np.any, frozen))


def _export(workdir, out, form):
    done = tiny_runs.in_process(
        "checkpoint", "export", f"--workdir={workdir}", f"--out={out}", f"--format={form}"
    )
    assert done.returncode == 0, done.stderr


def _their_output(theirs, xt, texts):
    """The U-Net's output at step 500."""
    with torch.no_grad():
        states, rest = _their_texts(theirs, texts, [False] * len(texts))
        return to_numpy(theirs.unet(to_torch(xt), 500, states, **rest).sample)


def _whole(pipeline, images, tmp_path):
    """Stopped, it ends without its pipeline to the same bits, and is exported as one."""
    theirs, folder = pipeline("sd1")
    shutil.copytree(folder, tmp_path / "pipeline")
    config = config_of(tmp_path / "pipeline", images, optim={"name": "sgd", "weight_decay": 0.0})
    assert train.train(config, tmp_path / "straight") == 0
    whole = tmp_path / "stopped"
    assert train.train(config, whole, until=2) == 75
    shutil.rmtree(tmp_path / "pipeline")
    assert train.train(config, whole) == 0
    assert tiny_runs.final(whole) == tiny_runs.final(tmp_path / "straight")
    _export(whole, tmp_path / "tuned", "diffusers")
    tuned = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "tuned", safety_checker=None)
    run = experiment.load(whole)
    before = leaves.named(stable_diffusion.load(folder).unet_params)
    after = leaves.named(run.params["unet"])
    assert all(np.any(before[name] != after[name]) for name in after)
    # The same function as the run's average, and the pipeline's other parts.
    xt, texts = noise(2, 8, 8), ["a red cat!", "on"]
    rows = run.experiment.tokenizer(texts, 77)
    found = jax.jit(run.model.apply)({"params": run.params}, xt, 500.0, {"text": rows})
    wanted = _their_output(tuned, xt, texts)
    assert np.abs(found - wanted).max() < 2e-5 * wanted.std()
    for part in ("text_encoder", "vae"):
        mine, other = getattr(tuned, part).state_dict(), getattr(theirs, part).state_dict()
        assert all(torch.equal(mine[name], other[name]) for name in other)
    stated, original = (
        json.loads((one / "scheduler/scheduler_config.json").read_text())
        for one in (tmp_path / "tuned", folder)
    )
    assert {name for name in original if name[0] != "_"} <= set(stated)
    assert all(stated[name] == original[name] for name in original if name[0] != "_")
    assert type(tuned.scheduler) is type(theirs.scheduler)
    assert tuned.tokenizer(texts, padding="max_length").input_ids == rows.tolist()
    drawn = run.sample(2, prompts=texts, seed=3)
    assert drawn.shape == (2, 16, 16, 3)


def _adapted(pipeline, images, tmp_path):
    """Adapters of XL alone move, from caches, and are exported as a file and merged."""
    theirs, folder = pipeline("sdxl")
    adapted = tmp_path / "run"
    config = config_of(
        folder,
        images,
        model={"lora_rank": 2, "lora_alpha": 3.0},
        data={"cache_latents": True, "cache_text": True},
        optim={"learning_rate": 0.02},
        train={"num_steps": 3},
    )
    assert train.train(config, adapted) == 0
    _export(adapted, tmp_path / "tuned", "diffusers")
    _export(adapted, tmp_path / "tuned.safetensors", "lora")
    original = stable_diffusion.load(folder)
    with_file = pipeline_lora.with_lora(original, tmp_path / "tuned.safetensors")
    merged = stable_diffusion.load(tmp_path / "tuned")
    moved = 0
    for name, leaf in leaves.named(merged.unet_params).items():
        other = leaves.named(with_file.unet_params)[name]
        np.testing.assert_allclose(leaf, other, rtol=1e-6, atol=1e-7, err_msg=name)
        moved += np.any(leaf != leaves.named(original.unet_params)[name])
    assert moved == 4 * 2 * 4  # of four transformers both attentions, of each all layers
    for mine, other in zip(merged.towers, original.towers, strict=True):
        assert mine.tokenizer.tokenizer.digest == other.tokenizer.tokenizer.digest
        jax.tree.map(np.testing.assert_array_equal, mine.params, other.params)

    # Merging is applying them, as the run does and as diffusers does.
    xt, texts = noise(2, 8, 8), ["a red cat!", "on"]
    run = experiment.load(adapted)
    apply = jax.jit(run.model.apply)
    variables, rows = {"params": run.params}, run.experiment.tokenizer(texts, 77)
    found = apply(variables, xt, 500.0, {"text": rows})
    tuned = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "tuned", add_watermarker=False)
    wanted = _their_output(tuned, xt, texts)
    assert np.abs(found - wanted).max() < 2e-5 * wanted.std()
    theirs.load_lora_weights(tmp_path / "tuned.safetensors")
    beside = _their_output(theirs, xt, texts)
    theirs.unload_lora_weights()
    assert np.abs(beside - wanted).max() < 2e-5 * wanted.std()
    assert np.abs(wanted - _their_output(theirs, xt, texts)).max() > 1e-2 * wanted.std()

    # What is cached of texts stands for them, and no text for zeros.
    rows = np.concatenate([rows[:1], np.full_like(rows[:1], -1)])
    states = run.model.reader.states({k: run.params[k] for k in run.model.reader.parts}, rows)
    cached = {"text": rows, "text_states": states.at[1].set(0)}
    np.testing.assert_allclose(
        apply(variables, xt, 500.0, cached), apply(variables, xt, 500.0, {"text": rows}), atol=1e-6
    )


def _of_caches(pipeline, images, tmp_path):
    """XL whose latents and texts are made once: stopped, it ends with the same bits."""
    config = config_of(
        pipeline("sdxl")[1],
        images,
        data={"cache_latents": True, "cache_text": True},
        diffusion={"condition_dropout": (0.5,)},
        train={"num_steps": 3, "checkpoint_every": 1},
    )
    assert train.train(config, tmp_path / "straight") == 0
    assert train.train(config, tmp_path / "stopped", until=2) == 75
    shutil.rmtree(tmp_path / "cache")  # what was made before is made again, and is the same
    assert train.train(config, tmp_path / "stopped") == 0
    assert tiny_runs.final(tmp_path / "stopped") == tiny_runs.final(tmp_path / "straight")


@pytest.mark.wide(3)
@pytest.mark.parametrize("tuned", [_whole, _adapted, _of_caches])
def test_a_tuned_pipeline_is(tuned, pipeline, images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tuned(pipeline, images, tmp_path)


def _broken(folder, path, **changes):
    """A copy of a pipeline's folder with fields of a JSON file changed."""
    shutil.copytree(folder, path)
    for file, fields in changes.items():
        at = path / file
        at.write_text(json.dumps(json.loads(at.read_text()) | fields))
    return path


def test_what_cannot_be_trained_is_refused_in_one_line_before_anything_is_written(
    pipeline, images, tmp_path
):
    folder, work = pipeline("sd1")[1], tmp_path / "run"
    pickled = _broken(folder, tmp_path / "pickled")
    weights = pickled / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    other = _broken(folder, tmp_path / "other", **{"unet/config.json": {"cross_attention_dim": 48}})
    cases = [
        (config_of("", images), "name its folder, config.train.init_from=DIR"),
        (config_of(images, images), "is no pipeline: it has .* and no model_index.json"),
        (config_of(tmp_path / "none", images), "no directory"),
        (config_of(weights.with_suffix(".bin"), images), "a file does not say"),
        (config_of(pipeline("inpaint")[1], images), "reads 9 channels, of which 4 are latents"),
        (config_of(pipeline("controlnet")[1], images), "has a ControlNet, which is not trained"),
        (config_of(pipeline("refiner")[1], images), "one of XL's two text encoders"),
        (config_of(pickled, images), r"diffusion_pytorch_model\.bin"),
        (config_of(other, images), "reads 48 channels of a text, and its text encoders give 32"),
        (config_of(folder, images, data={"image_size": (16, 15)}), "take multiples of 2"),
        (config_of(folder, images, data={"name": "digits"}), "these data have no captions"),
        (config_of(folder, images, data={"channels": 1}), "has images of 3"),
        (
            config_of(folder, images, diffusion={"prediction": "v"}),
            "config.diffusion.prediction='v': .* decides it, 'eps'; set ''",
        ),
        (
            config_of(folder, images, model={"channels": 64}),
            "config.model.channels=64: the pipeline",
        ),
        (config_of(folder, images, model={"num_classes": 2}), "reads a text alone"),
    ]
    for config, message in cases:
        with pytest.raises(UserError, match=message) as error:
            train.train(config, work)
        assert "\n" not in str(error.value)
        assert not work.exists()
