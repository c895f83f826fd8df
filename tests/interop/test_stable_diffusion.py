"""Whole pipelines beside diffusers' own, on tiny perturbed random weights and the same noise."""

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import tiny_pipelines  # noqa: E402
from tiny_pipelines import noise, to_numpy, to_torch  # noqa: E402

from ddpm_jax.interop import (  # noqa: E402
    lora,
    pipeline_devices,
    pipeline_lora,
    stable_diffusion,
    unet_condition,
)
from ddpm_jax.models import adapters  # noqa: E402

# Of the latents' standard deviation; the floor of float32 is 1e-5.
TOLERANCE = 1e-4
PROMPTS, NEGATIVE = ["a red cat!", "on in"], ["blue", "a cat"]
SIZE = (13, 9)  # of the latents: neither halves
PIXELS = (8 * SIZE[0], 8 * SIZE[1])


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """(theirs, ours, the folder) of a pipeline by name, made when it is asked for."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("pipelines") / name
            theirs = tiny_pipelines.make(name, folder)
            made[name] = theirs, stable_diffusion.load(folder), folder
        return made[name]

    return of


def _their_latents(pipeline, **options):
    height, width = PIXELS
    with torch.no_grad():
        images = pipeline(
            prompt=PROMPTS, height=height, width=width, output_type="latent", **options
        ).images
    return to_numpy(images)


def _assert_close(found, wanted):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < TOLERANCE * wanted.std()


@pytest.mark.wide(3)
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_texts_become_the_same_images(pipelines, name):
    theirs, ours, _ = pipelines(name)
    start = noise(2, *SIZE)
    options = {"negative_prompt": NEGATIVE, "latents": to_torch(start), "num_inference_steps": 10}
    found = ours.sample(
        PROMPTS,
        NEGATIVE,
        latents=start,
        num_steps=10,
        guidance_scale=7.5,
        size=PIXELS,
        decode=False,
    )
    _assert_close(found, _their_latents(theirs, guidance_scale=7.5, **options))
    height, width = PIXELS
    with torch.no_grad():
        images = theirs(
            prompt=PROMPTS,
            height=height,
            width=width,
            guidance_scale=7.5,
            output_type="np",
            **options,
        ).images
    drawn = ours.sample(
        PROMPTS, NEGATIVE, latents=start, num_steps=10, guidance_scale=7.5, size=PIXELS
    )
    assert np.abs(drawn.astype(int) - np.round(255 * images)).max() <= 1


def _image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*PIXELS, 3)).astype(np.uint8)


def _their_image(image):
    """[H, W, 3] in [0, 1], as their pipelines take it."""
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]


@contextlib.contextmanager
def _drawing(monkeypatch, module, array):
    """Their pipeline draws these latents, whatever its generator."""
    with monkeypatch.context() as patched:
        patched.setattr(module, "randn_tensor", lambda shape, **_: to_torch(array))
        yield


def _without_negative(theirs, start):
    return _their_latents(
        theirs, latents=to_torch(start), num_inference_steps=5, guidance_scale=7.5
    ), {"num_steps": 5, "guidance_scale": 7.5}


def _unguided(theirs, start):
    return _their_latents(
        theirs, latents=to_torch(start), num_inference_steps=5, guidance_scale=1.0
    ), {"num_steps": 5, "guidance_scale": 1.0}


def _rescaled(theirs, start):
    return _their_latents(
        theirs,
        latents=to_torch(start),
        num_inference_steps=5,
        guidance_scale=9.0,
        guidance_rescale=0.7,
    ), {"num_steps": 5, "guidance_scale": 9.0, "guidance_rescale": 0.7}


def _fifty(theirs, start):
    return _their_latents(theirs, latents=to_torch(start), num_inference_steps=50), {}


@pytest.mark.wide(6)
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("sd1", _without_negative),
        ("sd2", _unguided),
        ("sd2", _rescaled),
        ("sdxl", _without_negative),
        ("sdxl", _rescaled),
        ("sd1", _fifty),
        ("sdxl", _fifty),
    ],
)
def test_options_are_theirs(pipelines, name, way):
    theirs, ours, _ = pipelines(name)
    start = noise(2, *SIZE)
    wanted, options = way(theirs, start)
    found = ours.sample(PROMPTS, latents=start, size=PIXELS, decode=False, **options)
    _assert_close(found, wanted)


def test_the_negative_prompt_of_none_is_no_empty_text_where_zeros_are(pipelines):
    """A mistake that costs 0.4 of the latents' deviation."""
    start = noise(2, *SIZE)
    _, ours, _ = pipelines("sdxl")
    none, empty = (
        ours.sample(PROMPTS, given, latents=start, num_steps=5, size=PIXELS, decode=False)
        for given in (None, "")
    )
    assert np.abs(none - empty).max() > 1e-3 * none.std()
    _, ours, _ = pipelines("sd1")
    none, empty = (
        ours.sample(PROMPTS, given, latents=start, num_steps=5, size=PIXELS, decode=False)
        for given in (None, "")
    )
    np.testing.assert_array_equal(none, empty)


@pytest.mark.wide(6)
@pytest.mark.parametrize("name", ["sdxl", "sd1"])
@pytest.mark.parametrize("skip", [1])
def test_texts_are_read_some_blocks_earlier(pipelines, name, skip):
    theirs, ours, _ = pipelines(name)
    start = noise(2, *SIZE)
    options = {"num_inference_steps": 3, "latents": to_torch(start), "guidance_scale": 5.0}
    if name == "sdxl":
        # Two blocks have no state before the one that is read without skipping.
        wanted = _their_latents(theirs, clip_skip=skip, **options)
    else:
        # Their own code for this asks for an attribute that transformers 5 has not.
        text = theirs.text_encoder
        norm = (
            text.final_layer_norm
            if hasattr(text, "final_layer_norm")
            else (text.text_model.final_layer_norm)
        )
        ids = theirs.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True)
        with torch.no_grad():
            states = text(torch.tensor(ids["input_ids"]), output_hidden_states=True).hidden_states
            embeds = norm(states[-1 - skip])
        height, width = PIXELS
        with torch.no_grad():
            wanted = to_numpy(
                theirs(
                    prompt_embeds=embeds,
                    negative_prompt_embeds=theirs.encode_prompt([""] * 2, "cpu", 1, False)[0],
                    height=height,
                    width=width,
                    output_type="latent",
                    **options,
                ).images
            )
    found = ours.sample(
        PROMPTS,
        latents=start,
        num_steps=3,
        guidance_scale=5.0,
        clip_skip=skip,
        size=PIXELS,
        decode=False,
    )
    _assert_close(found, wanted)


@pytest.mark.wide(6)
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_an_image_is_begun_with(pipelines, monkeypatch, name, strength):
    theirs, ours, _ = pipelines(name)
    kind = (
        diffusers.StableDiffusionXLImg2ImgPipeline
        if name == "sdxl"
        else diffusers.StableDiffusionImg2ImgPipeline
    )
    parts = dict(theirs.components)
    pipeline = kind(**parts, **({"requires_safety_checker": False} if name != "sdxl" else {}))
    pipeline.set_progress_bar_config(disable=True)
    begun = noise(1, *SIZE, seed=1)
    start = noise(2, *SIZE)
    module = __import__(kind.__module__, fromlist=["randn_tensor"])
    with _drawing(monkeypatch, module, start), torch.no_grad():
        wanted = to_numpy(
            pipeline(
                prompt=PROMPTS,
                image=to_torch(np.repeat(begun, 2, axis=0)),
                strength=strength,
                num_inference_steps=10,
                guidance_scale=7.5,
                output_type="latent",
            ).images
        )
    found = ours.sample(
        PROMPTS,
        latents=start,
        init_image=begun[0],
        strength=strength,
        num_steps=10,
        guidance_scale=7.5,
        decode=False,
    )
    _assert_close(found, wanted)


def test_the_refiner_reads_how_well_an_image_is_to_look(pipelines, monkeypatch, tmp_path):
    theirs, ours, _ = pipelines("refiner")
    start, begun = noise(2, *SIZE), noise(1, *SIZE, seed=1)
    scores = {"aesthetic_score": 7.0, "negative_aesthetic_score": 1.5}
    module = __import__(type(theirs).__module__, fromlist=["randn_tensor"])
    options = {"strength": 0.5, "guidance_scale": 5.0}
    with _drawing(monkeypatch, module, start), torch.no_grad():
        wanted = theirs(
            prompt=PROMPTS,
            image=to_torch(np.repeat(begun, 2, axis=0)),
            num_inference_steps=6,
            output_type="latent",
            **options,
            **scores,
        ).images
    options |= {"init_image": begun[0], "latents": start, "num_steps": 6, "decode": False}
    _assert_close(ours.sample(PROMPTS, **options, **scores), to_numpy(wanted))
    # Its folder has one text encoder, and is read back.
    stable_diffusion.save(ours, tmp_path / "saved")
    again = stable_diffusion.load(tmp_path / "saved")
    found = dataclasses.replace(again, programs=ours.programs).sample(PROMPTS, **options, **scores)
    np.testing.assert_array_equal(found, ours.sample(PROMPTS, **options, **scores))
    assert type(theirs).from_pretrained(tmp_path / "saved").config.requires_aesthetics_score
    other = ours.sample(PROMPTS, **options, aesthetic_score=2.0)
    assert np.abs(other - found).max() > 1e-3
    with pytest.raises(ValueError, match="aesthetic_score=nan: need a finite number"):
        ours.sample(PROMPTS, **options, aesthetic_score=float("nan"))


def _mask():
    mask = np.zeros((*PIXELS, 1), bool)
    mask[16:80, 8:50] = True
    return mask


def _certain(pipeline):
    """Their autoencoder without chance, as ours is where the log variance is at its least."""
    vae = pipeline.vae
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30
    return vae


@pytest.mark.wide(6)
@pytest.mark.parametrize("name", ["inpaint", "sd1", "sdxl"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_an_image_is_completed(tmp_path, monkeypatch, name, strength):
    kind = (
        diffusers.StableDiffusionXLInpaintPipeline
        if name == "sdxl"
        else diffusers.StableDiffusionInpaintPipeline
    )
    theirs = tiny_pipelines.make(name, tmp_path / "made")
    _certain(theirs)
    options = {} if name == "sdxl" else {"requires_safety_checker": False}
    pipeline = kind(**dict(theirs.components), **options)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "saved")
    ours = stable_diffusion.load(tmp_path / "saved")
    image, mask, start = _image(), _mask(), noise(2, *SIZE)
    height, width = PIXELS
    module = __import__(kind.__module__, fromlist=["randn_tensor"])
    with _drawing(monkeypatch, module, start), torch.no_grad():
        wanted = to_numpy(
            pipeline(
                prompt=PROMPTS,
                image=_their_image(image).repeat(2, 1, 1, 1) * 2 - 1,
                mask_image=torch.from_numpy(mask.astype(np.float32)).permute(2, 0, 1)[None],
                strength=strength,
                height=height,
                width=width,
                num_inference_steps=6,
                guidance_scale=7.5,
                output_type="latent",
            ).images
        )
    found = ours.sample(
        PROMPTS,
        latents=start,
        init_image=image,
        mask=mask,
        strength=strength,
        num_steps=6,
        guidance_scale=7.5,
        decode=False,
    )
    _assert_close(found, wanted)


@pytest.mark.wide(6)
@pytest.mark.parametrize(
    ("scale", "guess_mode", "guidance_scale"),
    [(0.6, False, 7.5), (0.8, True, 3.0), (1.0, False, 7.5), (1.0, True, 1.0)],
)
def test_a_controlnet_adds_what_it_reads(pipelines, scale, guess_mode, guidance_scale):
    theirs, ours, _ = pipelines("controlnet")
    start, image = noise(2, *SIZE), _image(3)
    wanted = _their_latents(
        theirs,
        latents=to_torch(start),
        image=_their_image(image),
        num_inference_steps=5,
        guidance_scale=guidance_scale,
        controlnet_conditioning_scale=scale,
        guess_mode=guess_mode,
    )
    found = ours.sample(
        PROMPTS,
        latents=start,
        control=image,
        control_scale=scale,
        guess_mode=guess_mode,
        num_steps=5,
        guidance_scale=guidance_scale,
        decode=False,
    )
    _assert_close(found, wanted)


@pytest.mark.wide(6)
@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_another_scheduler_takes_the_place_of_its_own(pipelines, name, scheduler):
    _, ours, folder = pipelines(name)
    start = noise(2, *SIZE)
    kind = getattr(diffusers, scheduler)
    # As it is read from its file: what that does not state is the other class's own default.
    own = type(pipelines(name)[0].scheduler).from_pretrained(folder, subfolder="scheduler").config
    latent = {"clip_sample": False, "skip_prk_steps": True}
    changed = {name: value for name, value in latent.items() if name not in own}
    theirs = dict(pipelines(name)[0].components) | {"scheduler": kind.from_config(own, **changed)}
    pipeline = diffusers.StableDiffusionPipeline(**theirs, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    wanted = _their_latents(
        pipeline, latents=to_torch(start), num_inference_steps=10, guidance_scale=7.5
    )
    found = ours.sample(
        PROMPTS,
        latents=start,
        sampler=scheduler,
        num_steps=10,
        guidance_scale=7.5,
        size=PIXELS,
        decode=False,
    )
    _assert_close(found, wanted)


@pytest.mark.wide(6)
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_single_files_are_exchanged(pipelines, tmp_path, name):
    """Ours is theirs to the bit, and comes back."""
    theirs, ours, folder = pipelines(name)
    path = tmp_path / "single.safetensors"
    stable_diffusion.to_single_file(ours, path)
    kind = type(theirs)
    parts = {} if name == "sdxl" else {"safety_checker": None}
    read = kind.from_single_file(str(path), config=str(folder), local_files_only=True, **parts)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if not hasattr(theirs, part):
            continue
        wanted, found = getattr(theirs, part).state_dict(), getattr(read, part).state_dict()
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    again = stable_diffusion.load(path, config=folder)
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)


def test_images_are_the_same_on_one_device_and_on_eight(pipelines, monkeypatch):
    """Eleven prompts, which do not divide: each is of (seed, k), whichever device draws it."""
    _, ours, _ = pipelines("controlnet")
    prompts = ["a cat" + " red" * k for k in range(11)]
    options = {"num_steps": 2, "sampler": "euler_ancestral", "guidance_scale": 3.0, "seed": 4}
    options |= {"control": _image(3), "decode": False}
    made = []
    for devices in (8, 1):
        monkeypatch.setattr(pipeline_devices.jax, "device_count", lambda devices=devices: devices)
        pipeline = dataclasses.replace(ours, programs={})
        made.append(pipeline.sample(prompts, ["on", *["blue"] * 10], **options))
        (program,) = pipeline.programs.values()
        assert program.mesh.size == devices
    assert made[0].shape == (11, *SIZE, 4)
    np.testing.assert_allclose(*made, atol=1e-5 * made[1].std(), rtol=0)


def test_another_prompt_scale_seed_or_negative_compiles_nothing(pipelines):
    _, ours, _ = pipelines("sd1")
    options = {"num_steps": 2, "size": PIXELS}
    first = ours.sample(["a cat", "a red"], guidance_scale=3.0, **options)
    count = len(ours.programs)
    sizes = [*ours.programs.values()][-1].compiled._cache_size()
    other = ours.sample(["on", "in a cat on"], "red", guidance_scale=5.0, seed=7, **options)
    assert len(ours.programs) == count
    assert [*ours.programs.values()][-1].compiled._cache_size() == sizes
    assert (first != other).any()
    # Another network is another program, though it shares what was compiled.
    other = dataclasses.replace(ours, unet=ours.unet.clone(freq_shift=1.0))
    changed = other.sample(["a cat", "a red"], guidance_scale=3.0, **options)
    assert (changed != first).any()
    # Image k depends on (seed, k) and its own prompt.
    pair = ours.sample(["a red", "on"], guidance_scale=3.0, first=1, **options)
    assert np.abs(pair[0].astype(int) - first[1]).max() <= 1


UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in"]
TEXT_TARGETS = ["q_proj", "v_proj", "fc1"]


def _adapted(module, targets, seed):
    """Adapters of PEFT with weights that do something; alpha is not the rank."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets)
    peft.inject_adapter_in_model(config, module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return peft.get_peft_model_state_dict(module, adapter_name="default")


def _kohya(layers, alpha):
    """The same file as kohya's scripts name it."""
    tensors = {}
    for name, tensor in layers.items():
        layer, half, _ = name.rsplit(".", 2)
        flat = "lora_unet_" + layer.removeprefix("unet.").replace(".", "_")
        tensors[f"{flat}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = tensor
        tensors[f"{flat}.alpha"] = torch.tensor(float(alpha))
    return tensors


def test_adapters_of_a_file_are_added(pipelines, tmp_path):
    from safetensors.torch import save_file

    theirs, ours, folder = pipelines("sd1")
    theirs = type(theirs).from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    unet = _adapted(theirs.unet, UNET_TARGETS, 0)
    text = _adapted(theirs.text_encoder, TEXT_TARGETS, 1)
    tensors = {f"unet.{name}": one.contiguous() for name, one in unet.items()}
    both = tensors | {f"text_encoder.{name}": one.contiguous() for name, one in text.items()}
    # As diffusers writes it beside.
    alphas = {"unet.lora_alpha": 6, "text_encoder.lora_alpha": 6, "unet.r": 4, "text_encoder.r": 4}
    (tmp_path / "both").mkdir()
    path = tmp_path / "both" / "pytorch_lora_weights.safetensors"
    save_file(both, path, {"format": "pt", "lora_adapter_metadata": json.dumps(alphas)})
    start = noise(2, *SIZE)
    options = {"latents": to_torch(start), "num_inference_steps": 3, "guidance_scale": 5.0}
    wanted = _their_latents(theirs, **options)
    found = pipeline_lora.with_lora(ours, tmp_path / "both").sample(
        PROMPTS, latents=start, num_steps=3, guidance_scale=5.0, size=PIXELS, decode=False
    )
    _assert_close(found, wanted)
    plain = ours.sample(
        PROMPTS, latents=start, num_steps=3, guidance_scale=5.0, size=PIXELS, decode=False
    )
    assert np.abs(found - plain).max() > 0.01 * plain.std()

    # Names of other scripts, and half of the scale.
    save_file(_kohya(tensors, 6), tmp_path / "kohya.safetensors")
    save_file(tensors, tmp_path / "unet.safetensors")
    half = pipeline_lora.with_lora(ours, tmp_path / "kohya.safetensors", 0.5)
    # Without metadata alpha is the rank, 4 for 6.
    same = pipeline_lora.with_lora(ours, tmp_path / "unet.safetensors", 0.5 * 6 / 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), half.unet_params, same.unet_params
    )


def test_adapters_of_ours_are_read_by_peft(pipelines, tmp_path):
    from safetensors.torch import load_file

    peft = pytest.importorskip("peft")
    theirs, ours, folder = pipelines("sd1")
    targets = ("*/attention_1/query", "mid_block_0/conv_0", "*_transformer_*/proj_in")
    own = adapters.initial(jax.random.key(0), ours.unet_params, 4, targets)
    own = jax.tree.map(lambda leaf: leaf + 0.1, own)
    lora.write(own, unet_condition.rows(ours.unet), tmp_path, alpha=6)
    tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    tensors = {name.removeprefix("unet."): tensor for name, tensor in tensors.items()}
    unet = type(theirs.unet).from_pretrained(folder, subfolder="unet")
    layers = sorted({name.rsplit(".", 2)[0] for name in tensors})
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, lora_alpha=6, target_modules=layers), unet)
    missed = peft.set_peft_model_state_dict(unet, tensors)
    assert not missed.unexpected_keys
    xt, tokens = noise(2, *SIZE), np.random.default_rng(1).standard_normal((2, 5, 32))
    tokens = tokens.astype(np.float32)
    with torch.no_grad():
        wanted = to_numpy(unet(to_torch(xt), 500, torch.from_numpy(tokens)).sample)
    params = adapters.merged(ours.unet_params | {"lora": own}, 6 / 4)
    found = jax.jit(ours.unet.apply)({"params": params}, xt, 500.0, {"tokens": tokens})
    assert np.abs(found - wanted).max() < 2e-5 * wanted.std()


def test_adapters_of_another_model_are_refused(pipelines, tmp_path):
    from safetensors.torch import save_file

    _, ours, _ = pipelines("sd1")
    path = tmp_path / "other.safetensors"
    save_file(
        {
            "unet.down_blocks.7.attn.to_q.lora_A.weight": torch.ones(2, 3),
            "unet.down_blocks.7.attn.to_q.lora_B.weight": torch.ones(3, 2),
            "unet.conv_in.lora_A.weight": torch.ones(2, 5, 3, 3),
            "unet.conv_in.lora_B.weight": torch.ones(16, 2, 1, 1),
        },
        path,
    )
    with pytest.raises(ValueError, match=r"1 layers that it has not \(down_blocks.7.attn.to_q\)"):
        pipeline_lora.with_lora(ours, path)
    save_file(
        {"text_encoder_2.x.lora_A.weight": torch.ones(2, 2)}
        | {"text_encoder_2.x.lora_B.weight": torch.ones(2, 2)},
        path,
    )
    with pytest.raises(ValueError, match="has adapters of text_encoder_2, which a StableDiffusion"):
        pipeline_lora.with_lora(ours, path)
    save_file({"unet.conv_in.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="1 tensors are no adapters of low rank"):
        pipeline_lora.with_lora(ours, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (100, 72)}, "size=100x72: need multiples of 8, such as 96x72"),
        ({"strength": 0.5}, "strength=0.5: no image to begin with"),
        ({"strength": 0.0, "init_image": True}, "0 < strength <= 1"),
        ({"mask": True}, "mask: no image to complete"),
        ({"mask": np.zeros((8, 8, 1), bool), "init_image": True}, "mask: need \\[104, 72, 1\\]"),
        ({"guidance_rescale": 2.0}, "guidance_rescale=2.0: need 0 to 1"),
        ({"clip_skip": 5}, "need 0 <= clip_skip <= 2, got clip_skip=5"),
        ({"sampler": "LMSDiscreteScheduler"}, "LMSDiscreteScheduler"),
        ({"control": True}, "control: this pipeline has no ControlNet"),
        ({"control_scale": 0.5}, "control_scale: this pipeline has no ControlNet"),
        ({"init_image": np.zeros((20, 16, 3), np.uint8), "size": None}, "has the size 20x16: need"),
        ({"num_steps": 2000}, "num_steps"),
        ({"negative_prompts": ["a", "b", "c"]}, "negative_prompts: need one for all, or one"),
        ({"latents": np.zeros((1, 2, 2, 4))}, "latents: need \\[2, 13, 9, 4\\]"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"negative_prompts": "a", "guidance_scale": 1.0}, "negative_prompts: without guidance"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(pipelines, options, message):
    _, ours, _ = pipelines("sd1")
    given = {
        name: _image() if value is True and name != "mask" else _mask() if value is True else value
        for name, value in options.items()
    }
    with pytest.raises(ValueError, match=message):
        ours.sample(PROMPTS, **{"size": PIXELS, **given})


def test_a_controlnet_of_another_model_is_refused(pipelines):
    control = pipelines("controlnet")[2] / "controlnet"
    line = r"controlnet=.*of another model: its channels of a text are 32, .* 80"
    with pytest.raises(ValueError, match=line):
        stable_diffusion.load(pipelines("sdxl")[2], controlnet=control)


def test_a_folder_that_is_no_pipeline_is_refused_by_what_is_missing(pipelines, tmp_path):
    _, _, folder = pipelines("sd1")
    with pytest.raises(ValueError, match=r"no directory .*nowhere"):
        stable_diffusion.load(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"is no pipeline: it has config.json.* and no model_index"
    ):
        stable_diffusion.load(folder / "unet")
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "vae")
    with pytest.raises(ValueError, match=r"model_index.json names vae, and no such folder"):
        stable_diffusion.load(copied)
    shutil.copytree(folder / "vae", copied / "vae")
    shutil.rmtree(copied / "tokenizer")
    (copied / "tokenizer").mkdir()
    with pytest.raises(ValueError, match="no tokenizer in"):
        stable_diffusion.load(copied)
    index = json.loads((copied / "model_index.json").read_text())
    for field, value, message in (
        ("_class_name", "FluxPipeline", '_class_name is "FluxPipeline"; supported: StableDiff'),
        ("unet", ["diffusers", "UNet3DConditionModel"], "unet is .*; supported: .*UNet2DCond"),
        ("motion_adapter", ["diffusers", "MotionAdapter"], "motion_adapter is .* not this one"),
    ):
        (copied / "model_index.json").write_text(json.dumps(index | {field: value}))
        with pytest.raises(ValueError, match=message):
            stable_diffusion.load(copied)


def test_a_single_file_needs_a_configuration_and_a_pipelines_names(pipelines, tmp_path):
    from safetensors.torch import save_file

    _, ours, folder = pipelines("sd1")
    path = tmp_path / "one.safetensors"
    save_file({"conv.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="give config=DIR"):
        stable_diffusion.load(path)
    with pytest.raises(ValueError, match=r"none begins with model.diffusion_model."):
        stable_diffusion.load(path, config=folder)
    pickle = tmp_path / "one.ckpt"
    torch.save({"state_dict": {}}, pickle)
    with pytest.raises(ValueError, match="is a pickle, which can execute code"):
        stable_diffusion.load(pickle, config=folder)
    stable_diffusion.to_single_file(ours, path)
    import safetensors.torch

    tensors = safetensors.torch.load_file(path)
    del tensors["model.diffusion_model.out.2.bias"]
    tensors["model.diffusion_model.extra"] = torch.ones(1)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"1 missing \(conv_out.bias .*1 left over \(model.diff"):
        stable_diffusion.load(path, config=folder)


@pytest.mark.wide(6)
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "inpaint", "controlnet"])
def test_a_folder_of_ours_is_theirs(pipelines, tmp_path, name):
    """Every tensor to the bit, every field that says something, and the same tokens."""
    theirs, ours, _ = pipelines(name)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "0.png").touch()
    with pytest.raises(ValueError, match=r"photos holds other files \(0\.png\); give another"):
        stable_diffusion.save(ours, photos)
    assert [one.name for one in photos.iterdir()] == ["0.png"]
    (tmp_path / "ours" / "unet").mkdir(parents=True)  # a save that was stopped is no other file
    stable_diffusion.save(ours, tmp_path / "ours")
    read = type(theirs).from_pretrained(tmp_path / "ours")
    assert type(read.scheduler) is type(theirs.scheduler)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "controlnet"):
        if getattr(theirs, part, None) is None:
            continue
        wanted, found = getattr(theirs, part).state_dict(), getattr(read, part).state_dict()
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    texts = [*PROMPTS, "", "cat " * 100]
    rows = [
        one.tokenizer(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
        for one in (theirs, read)
    ]
    assert rows[0] == rows[1]
    again = stable_diffusion.load(tmp_path / "ours")
    assert again.scheduler.name == ours.scheduler.name
    assert again.scheduler.config == ours.scheduler.config
    assert (again.size, again.unet) == (ours.size, ours.unet)
