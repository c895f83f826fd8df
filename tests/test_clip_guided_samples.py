"""Samples that a CLIP guides: against guidance written out, and from the commands to the files."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_clips
from compiling import compilations
from random_networks import random_like
from tiny_runs import BRIEF, in_process, tiny_config

from ddpm_jax import experiment, samplers
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.data import tokenizers
from ddpm_jax.diffusion import prediction
from ddpm_jax.diffusion.prediction import Denoised
from ddpm_jax.errors import UserError
from ddpm_jax.trained.load import FACES
from ddpm_jax.trained.tasks import Task

WORDS = ["red", "blue", "green", "circle", "square", "cross", "a"]
PROMPTS = ["a red circle", "blue square"]
SHAPES = {"name": "shapes", "image_size": (16, 16), "channels": 3}
UNTOLD = {"num_classes": 0, "channels": 16}
TOLD = {
    "conditions": ("text",), "text_channels": 8, "text_blocks": 1, "text_heads": 2, **UNTOLD
}  # fmt: skip
OF_TEXT = {"tokenizer": "words", "vocabulary": 64, "context": 24}


def config_of(data=(), model=(), **diffusion):
    """A diffusion model of 16x16 shapes, on the path of `small_clips`."""
    return tiny_config(
        BRIEF,
        data=SHAPES | dict(data),
        model=UNTOLD | dict(model),
        diffusion={"label_dropout": 0.0, **diffusion},
        sample={"guidance_scale": 1.0},
    )


def loaded(config, words=WORDS):
    """A model whose parameters are drawn, not trained."""
    built = experiment.build(config)
    if built.reads_text:
        built = dataclasses.replace(built, tokenizer=tokenizers.word_level(words))
    params = random_like(jax.eval_shape(built.init_params, jax.random.key(0)))
    if "log_scale" in params:
        params["log_scale"] = np.float32(np.log(20))
    return FACES[built.kind.face](built, params, 0)


@pytest.fixture(scope="module")
def model():
    return loaded(config_of())


@pytest.fixture(scope="module")
def of_text():
    return loaded(config_of(OF_TEXT, TOLD, condition_dropout=(0.2,)))


@pytest.fixture(scope="module")
def clips():
    return {kind: loaded(small_clips.config(kind)) for kind in ("clip", "noised_clip")}


def levels(one, other):
    return np.abs(one.astype(int) - other.astype(int)).max()


def by_hand(model, clip, prompts, scale, seed, *, conditions=None, guidance=1.0, by_mean=False):
    """The samples of the formulas: eps - s sigma grad, or mean + s Sigma grad, of scale f . g."""
    built, schedule = model.experiment, model.experiment.schedule
    num = len(prompts)
    texts = clip.embed_texts(prompts)
    noised = clip.experiment.schedule is not None
    own_scale = clip.logit_scale

    def branch(told):
        return prediction.denoiser(
            built.model.apply, model.params, schedule,
            prediction=built.config.diffusion.prediction, conditions=told,
        )  # fmt: skip

    def plain(xt, t):
        if conditions is None:
            return branch(None)(xt, t)
        null = {"text": jnp.full_like(conditions["text"], -1)}
        towards, away = branch(conditions)(xt, t), branch(null)(xt, t)
        eps = (1 - guidance) * away.eps + guidance * towards.eps
        return with_eps(xt, t, eps)

    def with_eps(xt, t, eps):
        alpha, sigma = (f(t)[:, None, None, None] for f in (schedule.alpha, schedule.sigma))
        return Denoised((xt - sigma * eps) / alpha, eps)

    def judged(xt, t):
        seen, told = (xt, {"time": schedule.network_time(t)}) if noised else (plain(xt, t).x0, {})
        embeds = clip.model.apply({"params": clip.params}, seen, method="embed_images", **told)
        return own_scale * jnp.einsum("bd,bd->", embeds, texts)

    slope = jax.grad(judged)

    def bounded(xt, t):
        eps = plain(xt, t).eps
        alpha, sigma = (f(t)[:, None, None, None] for f in (schedule.alpha, schedule.sigma))
        if not by_mean:
            eps = eps - scale * sigma * slope(xt, t)
        x0 = jnp.clip((xt - sigma * eps) / alpha, -1, 1)
        return Denoised(x0, (xt - alpha * x0) / sigma)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(num))
    start, steps = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    times = samplers.grids.uniform(schedule, 5)
    x = samplers.initial_noise(start, schedule, times, (num, 16, 16, 3))
    sampler = samplers.ddim
    if by_mean:
        sampler = functools.partial(
            samplers.ancestral,
            variance=built.config.diffusion.variance,
            mean_gradient=lambda xt, t: scale * slope(xt, t),
        )
    x0 = jax.jit(lambda keys, x: sampler(bounded, schedule, times, keys, x))(steps, x)
    return built.codec.decode(np.asarray(x0))


@pytest.mark.wide(2)
@pytest.mark.parametrize("kind", ["clip", "noised_clip"])
@pytest.mark.parametrize("by_mean", [False, True])
def test_guidance_is_the_formula_each_image_towards_its_own_prompt(model, clips, kind, by_mean):
    clip, scale = clips[kind], 30.0
    options = {"sampler": "ancestral", "mean_gradient": True} if by_mean else {}
    drawn = model.sample(
        3, prompts=PROMPTS, task=Task(clip=clip), seed=4, clip_scale=scale, **options
    )
    expected = by_hand(model, clip, [*PROMPTS, PROMPTS[0]], scale, 4, by_mean=by_mean)
    assert levels(drawn, expected) <= 2
    plain = model.sample(3, seed=4, **{k: v for k, v in options.items() if k == "sampler"})
    assert levels(drawn, plain) > 10


@pytest.mark.wide(6)
@pytest.mark.parametrize("kind", ["clip", "noised_clip"])
def test_it_goes_with_the_models_own_guidance(of_text, clips, kind):
    """A prompt is told to both; guidance of the first is in what the second one bends."""
    rows = of_text.experiment.tokenizer(PROMPTS, 24)
    drawn = of_text.sample(
        2, prompts=PROMPTS, task=Task(clip=clips[kind]), seed=2, guidance_scale=2.5, clip_scale=20.0
    )
    told = {"text": jnp.asarray(rows)}
    expected = by_hand(of_text, clips[kind], PROMPTS, 20.0, 2, conditions=told, guidance=2.5)
    assert levels(drawn, expected) <= 2
    # Told apart: the model none, the CLIP its own.
    apart = of_text.sample(
        2, task=Task(clip=clips[kind], clip_prompts=PROMPTS), seed=2, guidance_scale=0.0
    )
    both = of_text.sample(
        2, prompts=PROMPTS, task=Task(clip=clips[kind]), seed=2, guidance_scale=0.0
    )
    np.testing.assert_array_equal(apart, both)


@pytest.mark.parametrize("kind", ["clip", "noised_clip"])
def test_an_empty_prompt_leaves_its_image_alone(model, clips, kind):
    task = Task(clip=clips[kind])
    drawn = model.sample(3, prompts=["a red circle", "", " "], task=task, clip_scale=40.0)
    plain = model.sample(3)
    assert levels(drawn[1:], plain[1:]) <= 1
    assert levels(drawn[:1], plain[:1]) > 10
    # Image k depends on its own text alone.
    other = model.sample(3, prompts=["a red circle", "a cross", ""], task=task, clip_scale=40.0)
    np.testing.assert_array_equal(other[0], drawn[0])
    none = model.sample(3, prompts=PROMPTS, task=task, clip_scale=0.0)
    np.testing.assert_array_equal(none, plain)
    conditions = {"text": ["a red circle", "", ""]}
    by_condition = model.sample(3, conditions=conditions, task=task, clip_scale=40.0)
    np.testing.assert_array_equal(by_condition, drawn)


def test_prompts_and_scales_are_given(model, clips):
    first = {"prompts": PROMPTS, "task": Task(clip=clips["noised_clip"]), "clip_scale": 9.0}
    images = model.sample(4, **first)
    with compilations() as seen:
        others = [
            model.sample(4, **(first | change))
            for change in ({"prompts": ["a cross", ""]}, {"clip_scale": 50.0}, {"seed": 1})
        ]
    assert not seen
    assert all((one != images).any() for one in others)


def test_what_of_a_prompt_does_not_fit_is_one_line(model, of_text, clips, caplog):
    task = Task(clip=clips["noised_clip"])
    for drawn in (model, of_text):  # told to one, and to both
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            drawn.drawing(2, prompts=["a red circle " * 9], task=task)
        (record,) = caplog.records
        assert "has 27 tokens, and 22 fit: cut off is" in record.getMessage()


def test_embeddings_of_clean_and_noised_images(clips):
    clip = clips["noised_clip"]
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    clean, x0 = clip.embed_images(images), clip.experiment.codec.encode(images)
    np.testing.assert_allclose(np.linalg.norm(clean, axis=1), 1, rtol=1e-5)
    by_network = clip.model.apply(
        {"params": clip.params}, x0, method="embed_images", time=jnp.zeros(3)
    )
    np.testing.assert_allclose(clean, by_network, atol=1e-5)
    noised = clip.embed_images(images, 0.6, seed=3)
    np.testing.assert_allclose(clip.embed_images(images[:1], 0.6, seed=3), noised[:1], atol=1e-5)
    assert np.abs(noised - clean).max() > 0.01
    cosines = clip.similarity(images, PROMPTS, 0.6, seed=3)
    np.testing.assert_allclose(cosines, noised @ clip.embed_texts(PROMPTS).T, atol=1e-5)
    assert clip.features(x0).shape == (3, 16)
    with pytest.raises(UserError, match=r"t=1.5: need 0 \(no noise\) to 1"):
        clip.embed_images(images, 1.5)


CLIP = small_clips.config
BAD = {
    "another schedule": (
        "noised_clip",
        {"diffusion": {"schedule": "linear"}},
        r"clip: it was trained on another schedule \(linear, 10 steps\).*\(cosine",
    ),
    "other steps": (
        "noised_clip", {"diffusion": {"num_steps": 20}}, r"another schedule \(cosine, 20 steps\)",
    ),
    "another size": (
        "noised_clip",
        {"data": {"image_size": (24, 24)}},
        r"clip: it sees images of \(24, 24, 3\), and this model \(16, 16, 3\)",
    ),
    "no texts": (
        "clip",
        {"objective": {"name": "rotation"}, "data": {"tokenizer": ""}},
        r"clip: that run compares images with no texts \(config.objective.name=rotation\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "line"), BAD.values(), ids=BAD)
def test_a_clip_of_something_else_is_refused(model, kind, changes, line):
    with pytest.raises(UserError, match=line):
        model.sample(2, prompts=PROMPTS, task=Task(clip=loaded(CLIP(kind, **changes))))


def test_a_clip_of_another_tokenizer_is_refused(of_text, model):
    other = loaded(CLIP("noised_clip"), words=WORDS[::-1])
    with pytest.raises(UserError, match="clip: it reads text by another tokenizer"):
        of_text.sample(2, prompts=PROMPTS, task=Task(clip=other))
    model.sample(2, prompts=PROMPTS, task=Task(clip=other))  # which reads none itself


def test_what_cannot_be_is_refused_by_name(model, of_text, clips):
    task = Task(clip=clips["noised_clip"])
    for options, line in (
        ({"task": task}, "clip: nothing to steer to"),
        ({"task": task, "prompts": ["", " "]}, "clip: nothing to steer to"),
        ({"clip_scale": 2.0}, r"sample.clip_scale=2.0: no CLIP to scale"),
        ({"task": Task(clip_prompts=["a"])}, "clip_prompts=a: no CLIP to tell them to"),
        ({"prompts": PROMPTS}, "prompts: this model reads no text"),
        (
            {"prompts": PROMPTS, "task": dataclasses.replace(task, clip_prompts=["a"])},
            "prompts: this model reads no text",
        ),
        ({"prompts": PROMPTS, "task": task, "clip_scale": -1.0}, "clip_scale=-1.0: need a finite"),
        (
            {"prompts": PROMPTS, "task": task, "mean_gradient": True},
            "mean_gradient=True: ddim has no mean to shift; set sampler=ancestral",
        ),
        ({"mean_gradient": True, "sampler": "ancestral"}, "no classifier or CLIP whose gradient"),
        (
            {"prompts": PROMPTS, "task": Task(clip=of_text)},
            "clip: that run is a diffusion model; name the run of a CLIP or noised CLIP",
        ),
        ({"task": Task(weaker=clips["clip"])}, "weaker: that run is a CLIP"),
    ):
        with pytest.raises(UserError, match=line):
            model.sample(2, **options)
    with pytest.raises(UserError, match="noised CLIP, which draws no images: draw from a diff"):
        clips["noised_clip"].sample(1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": {"image": "resnet"}}, "model.image=resnet: this tower is shown no time.*vit"),
        ({"objective": {"name": "triplet"}}, "objective.name='triplet': need one of clip"),
        ({"model": {"image_options": {"timed": False}}}, "image_options.timed=False: the tower"),
        ({"diffusion": {"schedule": "learned"}}, "a noised CLIP learns no schedule"),
        ({"diffusion": {"time_draw": "importance"}}, "a noised CLIP keeps no losses"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(changes, line):
    with pytest.raises(UserError, match=line):
        experiment.build(CLIP("noised_clip", **changes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of a diffusion model that is told captions, and of a CLIP of its noise."""
    root = tmp_path_factory.mktemp("runs")
    brief = {"num_steps": 2, "checkpoint_every": 2}
    configs = {
        "model": config_of(OF_TEXT, TOLD, condition_dropout=(0.2,)),
        "clip": CLIP("noised_clip", train={"validate_every": 0, **brief}),
    }
    for name, config in configs.items():
        config.train.update(brief)
        assert train.train(config, root / name) == 0
    return root


@pytest.mark.wide(3)
def test_the_commands_draw_what_the_library_draws(runs, tmp_path):
    out = tmp_path / "a.npz"
    words = [f"--workdir={runs / 'model'}", "--num_samples=4", "--seed=5", f"--out={out}"]
    words += [f"--clip_workdir={runs / 'clip'}", "--clip_scale=20", "--guidance_scale=0"]
    asked = [f"--prompt={text}" for text in PROMPTS]
    done = in_process("sample", *words, *asked)
    assert done.returncode == 0, done.stderr
    clip = experiment.load(runs / "clip")
    drawn = experiment.load(runs / "model").sample(
        4, prompts=PROMPTS, task=Task(clip=clip), seed=5, clip_scale=20.0, guidance_scale=0.0
    )
    with np.load(out) as held:
        assert held["prompts"].tolist() == PROMPTS * 2
        np.testing.assert_array_equal(held["samples"], drawn)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--prompt="], "clip: nothing to steer to"),
        (["--prompt=a", "--clip_prompt="], "clip: nothing to steer to"),
        (["--clip_workdir=nowhere", "--prompt=a"], "no checkpoint in nowhere"),
    ],
)
def test_what_the_command_refuses_is_one_line(runs, tmp_path, words, line):
    out = tmp_path / "out" / "a.npz"
    words = [f"--clip_workdir={runs / 'clip'}", "--num_samples=2", f"--out={out}", *words]
    done = in_process("sample", f"--workdir={runs / 'model'}", *words)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert line in said
    assert not out.parent.exists()


@pytest.mark.wide(2)
def test_samples_that_a_clip_guides_are_measured(runs):
    report = evaluate.evaluate(
        str(runs / "model"),
        metrics=["caption_agreement"],
        num_samples=4,
        guidance_scales=["0"],
        clip_scales=["3"],
        guides={"clip_workdir": str(runs / "clip")},
        sampling={"num_steps": 1},
        name="guided",
    )
    scales = [(row["guidance_scale"], row["clip_scale"]) for row in report["samples"]]
    assert scales == [(0, 3)]
    assert [*report["protocol"]["guides"]] == ["clip"]
    with pytest.raises(UserError, match="--clip_scale=2: no CLIP to scale; name its run with"):
        evaluate.evaluate(str(runs / "model"), metrics=["memorisation"], clip_scales=["2"])
    with pytest.raises(UserError, match="--metrics=memorisation draws without prompts"):
        evaluate.evaluate(
            str(runs / "model"),
            metrics=["memorisation"],
            guides={"clip_workdir": str(runs / "clip")},
        )


@pytest.mark.wide(6)
def test_a_noised_clip_is_measured_on_clean_images(runs):
    report = evaluate.evaluate(str(runs / "clip"), num_pairs=16, name="pairs")
    assert "retrieval_texts_at_1" in report["held_out_data"]["metrics"]
