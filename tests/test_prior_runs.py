"""Priors and decoders trained by the command's own way: resumed, on several devices; their use."""

import functools
import shutil

import jax
import numpy as np
import pytest
import small_clips
import small_priors
import tiny_runs
from PIL import Image

from ddpm_jax import experiment
from ddpm_jax.build import begun
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.diffusion import autoregressive
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import sharding

KINDS = {
    "diffusion": small_priors.prior,
    "autoregressive": functools.partial(small_priors.prior, model=small_priors.AUTOREGRESSIVE),
    "decoder": small_priors.decoder,
}


@pytest.fixture(scope="module")
def runs(clip_run, tmp_path_factory):
    """The workdir of a run of each kind that nothing stopped, made when it is first asked for."""

    @functools.cache
    def workdir(name):
        folder = tmp_path_factory.mktemp(name) / "run"
        assert train.train(KINDS[name](clip_run.workdir), folder) == 0
        return folder

    return workdir


@pytest.mark.wide(6)
@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_and_a_killed_one_end_with_the_same_bits(name, runs, clip_run, tmp_path):
    config = KINDS[name](clip_run.workdir)
    assert train.train(config, tmp_path / "run", until=3) == 75
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")  # as if killed after step 2 was saved
    assert train.train(config, tmp_path / "run") == 0
    assert tiny_runs.final(tmp_path / "run") == tiny_runs.final(runs(name))


@functools.cache
def first_step(clip, name, mesh, accumulate=1, strict=False):
    """Loss and parameters of one step from the same start, and what its examples draw."""
    changes = {"mesh": {"data": mesh, "strict": strict}, "train": {"accumulate": accumulate}}
    built = experiment.build(KINDS[name](clip, **changes))
    source = built.source("train")
    built = begun.with_made(built, source)
    batch = attempt.training_batches(built, source).batch_at(0)
    batch = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
    drawn = jax.jit(lambda batch: built.objective.draws((), batch, jax.random.key(0), True, {}))
    draws = jax.device_get(drawn(batch))
    state, metrics = built.train_step()(built.init_state(), batch)
    return jax.device_get((metrics["loss"], state.params)), draws


@pytest.mark.wide(4)
@pytest.mark.parametrize(
    ("name", "mesh", "accumulate"),
    [("diffusion", 8, 1), ("autoregressive", 8, 1), ("decoder", 8, 1), ("diffusion", 1, 4)],
)
def test_its_loss_is_one_devices_and_the_whole_batchs(name, mesh, accumulate, clip_run):
    (loss, _), draws = first_step(clip_run.workdir, name, 1)
    (other, _), its = first_step(clip_run.workdir, name, mesh, accumulate)
    assert abs(other - loss) < 1e-6 * loss
    jax.tree.map(np.testing.assert_array_equal, its, draws)


@pytest.mark.wide(4)
@pytest.mark.parametrize("name", ["diffusion", "decoder"])
def test_strict_steps_have_the_same_bits_on_one_device_and_eight(name, clip_run):
    one, _ = first_step(clip_run.workdir, name, 1, strict=True)
    eight, _ = first_step(clip_run.workdir, name, 8, strict=True)
    jax.tree.map(np.testing.assert_array_equal, one, eight)


@pytest.mark.wide(3)
def test_a_run_keeps_its_clip(runs, clip_run):
    loaded = experiment.load(runs("diffusion"))
    its = experiment.load(clip_run.workdir)
    texts = ["a small red circle", ""]
    np.testing.assert_allclose(loaded.clip.embed_texts(texts), its.embed_texts(texts), atol=1e-6)
    assert loaded.clip.digest == experiment.load(runs("decoder")).experiment.clip.digest
    manifest = (runs("diffusion") / "manifest.json").read_text()
    assert loaded.clip.digest in manifest


@pytest.mark.parametrize("name", ["diffusion", "autoregressive"])
def test_embeddings_are_drawn_each_by_its_own_seed_and_text(name, runs):
    loaded = experiment.load(runs(name))
    texts = ["a small red circle", "a large blue square", "a small red circle"]
    drawn = loaded.embed(texts, seed=1)
    assert drawn.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    np.testing.assert_allclose(loaded.embed(texts[:1], seed=1)[0], drawn[0], atol=1e-5)
    # Of more candidates, the same first ones among them, the best is no worse.
    own = loaded.clip.embed_texts(texts)
    better = [
        np.sum(own * loaded.embed(texts, seed=1, num_candidates=count), axis=1) for count in (1, 4)
    ]
    assert better[0].mean() < better[1].mean()
    assert np.abs(loaded.embed(texts, seed=1, guidance_scale=3.0) - drawn).max() > 1e-4
    with pytest.raises(UserError, match="texts: need a list"):
        loaded.embed("a circle")
    with pytest.raises(UserError, match="this run is a prior, which draws no images: draw from"):
        loaded.sample(1)


def test_the_autoregressive_priors_probabilities_add_up_to_one(runs):
    """Over all embeddings that two components can be: by the chain rule, in the model's own law."""
    loaded = experiment.load(runs("autoregressive"))
    told = {"text_embedding": np.ones((64, 8), np.float32)}
    pairs = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2)
    logits = loaded.model.apply({"params": loaded.params}, pairs, told)
    total = np.exp(np.asarray(autoregressive.log_prob(logits, pairs), np.float64)).sum()
    assert total == pytest.approx(1, rel=1e-5)
    source = loaded.experiment.source("validation")
    images = np.stack([source[k]["image"] for k in range(3)])
    scores = loaded.log_prob(images, [source[k]["caption"] for k in range(3)])
    # After six steps all 8 bins of 6 components are still about as likely.
    assert scores == pytest.approx(-6 * np.log(8), rel=0.2)
    with pytest.raises(UserError, match="has no likelihood of tokens"):
        experiment.load(runs("diffusion")).log_prob(images, ["a"] * 3)


def of_task(loaded, num, **fields):
    task = experiment.Task(image_embedding=experiment.EmbeddingOf(**fields))
    return loaded.sample(num, task=task)


@pytest.mark.wide(3)
def test_variations_ways_and_text_diffs_are_of_their_embeddings(runs):
    loaded = experiment.load(runs("decoder"))
    clip, source = loaded.experiment.clip, loaded.experiment.source("validation")
    one, other = (source[k]["image"] for k in range(2))
    embeds = clip.embed_encoded(loaded.experiment.codec.encode(np.stack([one, other])))
    by_hand = loaded.sample(3, conditions={"image_embedding": embeds[0]})
    np.testing.assert_array_equal(of_task(loaded, 3, images=[one]), by_hand)
    np.testing.assert_array_equal(
        loaded.sample(3, conditions={"image_embedding": 7 * embeds[:1].repeat(3, axis=0)}), by_hand
    )
    # Both ends of a way are the images' own, and its middle bisects their angle; of one noise.
    way = of_task(loaded, 3, images=[one, other])
    middle = (embeds[0] + embeds[1]) / np.linalg.norm(embeds[0] + embeds[1])
    for k, vector in enumerate((embeds[0], middle, embeds[1])):
        drawn = loaded.sample(1, conditions={"image_embedding": vector})
        assert np.abs(drawn[0].astype(int) - way[k].astype(int)).max() <= 1
    changed = of_task(loaded, 2, images=[one], text_diff=("a circle", "a red square"))
    assert np.abs(changed[0].astype(int) - way[0].astype(int)).max() <= 1
    before, after = clip.embed_texts(["a circle", "a red square"])
    towards = (after - before) / np.linalg.norm(after - before)
    halfway = embeds[0] + towards  # theta is a half by default
    drawn = loaded.sample(1, conditions={"image_embedding": halfway})
    assert np.abs(drawn[0].astype(int) - changed[1].astype(int)).max() <= 1


def test_prompts_are_drawn_by_the_priors_embeddings(runs):
    loaded, prior = experiment.load(runs("decoder")), experiment.load(runs("diffusion"))
    prompts = ["a small red circle", "a large blue square"]
    task = experiment.Task(image_embedding=experiment.EmbeddingOf(prior=prior))
    drawn = loaded.sample(4, prompts=prompts, task=task, seed=3)
    embeds = prior.embed(prompts * 2, seed=3)
    by_hand = loaded.sample(4, conditions={"image_embedding": embeds}, seed=3)
    np.testing.assert_array_equal(drawn, by_hand)


@pytest.fixture(scope="module")
def picture(runs, tmp_path_factory):
    source = experiment.load(runs("decoder")).experiment.source("validation")
    path = tmp_path_factory.mktemp("pictures") / "one.png"
    Image.fromarray(source[0]["image"]).save(path)
    return path


@pytest.mark.wide(3)
def test_one_command_from_text_to_picture(runs, picture, tmp_path):
    words = [f"--workdir={runs('decoder')}", "--num_samples=2", f"--out={tmp_path / 'out.npz'}"]
    asked = (
        [f"--prior_workdir={runs('autoregressive')}", "--prompt=a red circle"],
        [f"--vary={picture}"],
        ["--between_images", picture, picture],
        [f"--vary={picture}", "--text_diff", "a red circle", "a blue, large square", "--theta=0.3"],
    )
    for flags in asked:
        done = tiny_runs.in_process("sample", *words, *flags)
        assert done.returncode == 0, done.stderr
        drawn = np.load(tmp_path / "out.npz")
        assert drawn["samples"].shape == (2, 16, 16, 3)
        assert ("prompts" in drawn) == ("prompt" in str(flags))


@pytest.mark.wide(2)
def test_a_decoder_and_a_prior_are_measured(runs):
    result = evaluate.evaluate(
        str(runs("decoder")),
        metrics=["caption_agreement", "variation_agreement"],
        guides={"prior_workdir": str(runs("diffusion"))},
        num_samples=8,
    )
    figures = result["samples"][0]["metrics"]
    assert 0 <= figures["variation_agreement"]["value"] <= figures["variation_shape"]["value"]
    assert "caption_one_object" in figures
    own = result["held_out_data"]["metrics"]
    assert own["variation_agreement"]["value"] == own["caption_agreement"]["value"] == 1
    loaded = experiment.load(runs("diffusion"))
    result = evaluate.evaluate(str(runs("diffusion")), num_pairs=16)
    source = loaded.experiment.source("validation")
    rows = [k * len(source) // 16 for k in range(16)]
    images = np.stack([source[k]["image"] for k in rows])
    embeds = loaded.clip.embed_encoded(loaded.experiment.codec.encode(images))
    texts = loaded.clip.embed_texts([source[k]["caption"] for k in rows])
    figures = result["held_out_data"]["metrics"]
    assert figures["prior_cosine_text"]["value"] == pytest.approx((embeds * texts).sum() / 16)
    assert "the prior's embedding of its text" in evaluate.table(result)


@pytest.fixture(scope="module")
def other_prior(tmp_path_factory):
    """A prior on another CLIP."""
    folder = tmp_path_factory.mktemp("other")
    once = {"num_steps": 1, "validate_every": 0}
    assert train.train(small_clips.config(seed=1, train=once), folder / "clip") == 0
    config = small_priors.prior(folder / "clip", train=once)
    assert train.train(config, folder / "prior") == 0
    return folder / "prior"


@pytest.mark.wide(3)
def test_what_does_not_go_together_is_refused_in_one_line(
    runs, clip_run, other_prior, picture, tmp_path
):
    out = tmp_path / "out.npz"
    decoder, prior = runs("decoder"), runs("diffusion")
    prompt = "--prompt=a circle"
    cases = [
        (decoder, [f"--prior_workdir={other_prior}", prompt], "the embeddings of another CLIP"),
        (decoder, [f"--prior_workdir={clip_run.workdir}", prompt], "prior: that run is a CLIP"),
        (decoder, [f"--prior_workdir={prior}"], "it draws by prompts; give at least one text"),
        (decoder, [prompt], "or name a prior with --prior_workdir"),
        (decoder, ["--theta=0.5"], "--theta: need --vary=IMAGE"),
        (decoder, [f"--vary={picture}", "--theta=0.5"], "applies only to text_diff"),
        (decoder, [f"--vary={picture}", f"--prior_workdir={prior}"], "do not go together"),
        (decoder, [f"--between_images={picture}"], "need two images"),
        (decoder, [f"--vary={picture}", "--text_diff=one"], "need two texts, from and to"),
        (prior, [prompt], "which draws no images: draw from a model that is told"),
        (clip_run.workdir, [f"--prior_workdir={prior}", prompt], "this run is a CLIP"),
    ]
    for workdir, flags, line in cases:
        words = [f"--workdir={workdir}", "--num_samples=2", f"--out={out}"]
        done = tiny_runs.in_process("sample", *words, *flags)
        assert done.returncode == 2, (flags, done.stderr)
        assert line in done.stderr.splitlines()[-1], done.stderr
        assert not out.exists()


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("diffusion", {"data": {"clip": ""}}, "config.data.clip='': this prior has the embed"),
        ("diffusion", {"data": {"clip": "no/such"}}, "data.clip=.*no/such: no run lies there"),
        ("diffusion", {"model": {"embed_dim": 16}}, "model.embed_dim=16: .* has 8; set it"),
        ("diffusion", {"model": {"text_channels": 8}}, "model.text_channels=8: .* has 16"),
        ("diffusion", {"data": {"context": 32}}, "config.data.context=32: .* has 24"),
        ("diffusion", {"model": {"num_heads": 3}}, "num_heads=3: 16 channels do not divide"),
        ("diffusion", {"model": {"name": "gan"}}, "model.name='gan': need one of diffusion"),
        ("diffusion", {"diffusion": {"schedule": "learned"}}, "a prior learns no schedule"),
        ("diffusion", {"sample": {"sampler": "dim"}}, "sample.sampler='dim': .*ddim"),
        ("diffusion", {"sample": {"num_candidates": 0}}, "num_candidates=0: need at least 1"),
        ("diffusion", {"model": {"text_dropout": 2.0}}, "text_dropout=2.0: need 0 to 1"),
        ("autoregressive", {"model": {"num_components": 9}}, "num_components=9: embeddings of 8"),
        ("autoregressive", {"model": {"num_values": 65}}, "num_values=65: need at most"),
        ("decoder", {"data": {"clip": ""}}, "config.data.clip='': this diffusion model has"),
        ("decoder", {"data": {"augment": ("flip",)}}, "is moved has another embedding"),
        (
            "decoder",
            {"model": {"conditions": ()}, "diffusion": {"condition_dropout": ()}},
            "has no use for a CLIP",
        ),
        ("decoder", {"train": {"replicas": 2}}, "runs with a CLIP train one by one"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(name, changes, line, clip_run, tmp_path):
    merged = {**changes}
    if name == "autoregressive":
        merged["model"] = small_priors.AUTOREGRESSIVE | changes["model"]
    builder = small_priors.decoder if name == "decoder" else small_priors.prior
    with pytest.raises(UserError, match=line):
        train.train(builder(clip_run.workdir, **merged), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_whose_clip_was_lost_or_changed_is_refused(runs, tmp_path):
    shutil.copytree(runs("autoregressive"), tmp_path / "run")
    path = tmp_path / "run" / "components.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"components\.safetensors is not what the run kept"):
        experiment.load(tmp_path / "run")
    (tmp_path / "run" / "clip.safetensors").unlink()
    with pytest.raises(UserError, match="the CLIP that this run keeps cannot be read"):
        experiment.load(tmp_path / "run")
    with pytest.raises(UserError, match="name the workdir of a CLIP"):
        train.train(small_priors.prior(runs("decoder")), tmp_path / "new")


@pytest.mark.wide(6)
def test_a_decoder_may_read_the_text_too(clip_run, runs, tmp_path):
    text = {"data": {"vocabulary": 64, "context": 24}}
    text["model"] = {"conditions": ("image_embedding", "text"), "text_channels": 8}
    text["model"] |= {"text_blocks": 1, "text_heads": 2}
    text["diffusion"] = {"condition_dropout": (0.1, 0.5)}
    config = small_priors.decoder(clip_run.workdir, **text)
    assert train.train(config, tmp_path / "run") == 0
    loaded, prior = experiment.load(tmp_path / "run"), experiment.load(runs("diffusion"))
    task = experiment.Task(image_embedding=experiment.EmbeddingOf(prior=prior))
    drawn = loaded.sample(2, prompts=["a red circle"], task=task)
    embeds = prior.embed(["a red circle"] * 2)
    told = {"image_embedding": embeds}
    by_hand = loaded.sample(2, prompts=["a red circle"], conditions=told)
    np.testing.assert_array_equal(drawn, by_hand)
    assert (drawn != loaded.sample(2, conditions=told)).any()
