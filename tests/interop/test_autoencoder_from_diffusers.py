"""Parity with diffusers' AutoencoderKL and VQModel: perturbed random weights, both directions."""

# Over 300 lines: one process imports diffusers for the networks and for the runs that are written.

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import safetensors.numpy  # noqa: E402
import tiny_runs  # noqa: E402

from ddpm_jax import experiment  # noqa: E402
from ddpm_jax.commands.train import train  # noqa: E402
from ddpm_jax.config import config_files, defaults  # noqa: E402
from ddpm_jax.interop import autoencoder  # noqa: E402
from ddpm_jax.models.autoencoder import PLAIN, Autoencoder  # noqa: E402

SMALL = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
TWO = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
KL = {
    "plain": ({**SMALL, **TWO}, (32, 32)),
    "odd_sizes": ({**SMALL, **TWO}, (30, 46)),
    "without_projections": (
        {**SMALL, **TWO, "use_quant_conv": False, "use_post_quant_conv": False},
        (16, 16),
    ),
    "sixteen_channels": ({**SMALL, **TWO, "latent_channels": 16, "shift_factor": 0.1}, (16, 24)),
    "two_blocks_three_levels": (
        {
            "block_out_channels": (16, 16, 32),
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
        },
        (20, 28),
    ),
    "no_attention": ({**SMALL, **TWO, "mid_block_add_attention": False}, (16, 16)),
    "attention_below": (
        {
            **SMALL,
            "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        },
        (16, 12),
    ),
    "gray_one_level": (
        {
            "block_out_channels": (16,),
            "norm_num_groups": 8,
            "in_channels": 1,
            "out_channels": 1,
            "scaling_factor": 0.5,
        },
        (7, 9),
    ),
}
VQ = {
    "plain": ({**SMALL, **TWO, "num_vq_embeddings": 64, "vq_embed_dim": 3}, (32, 32)),
    "odd_sizes": ({**SMALL, **TWO, "num_vq_embeddings": 32}, (22, 38)),
    "other_code_channels": (
        {**SMALL, **TWO, "num_vq_embeddings": 20, "vq_embed_dim": 5, "latent_channels": 4},
        (16, 16),
    ),
    "attention_below": (
        {
            **SMALL,
            "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            "num_vq_embeddings": 16,
        },
        (16, 16),
    ),
}


def perturbed(network, seed=0):
    """Sharp attention and moved norms: wrong epsilons, heads and halves then show."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                parameter *= 3
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            if name == "quantize.embedding.weight":
                parameter.copy_(torch.randn_like(parameter))
    return network.eval()


def theirs_kl(name, **changes):
    torch.manual_seed(1)
    return perturbed(diffusers.AutoencoderKL(**{**KL[name][0], **changes}))


def theirs_vq(name, **changes):
    torch.manual_seed(1)
    return perturbed(diffusers.VQModel(**{**VQ[name][0], **changes}))


def images(name, cases):
    fields, size = cases[name]
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (2, *size, fields.get("in_channels", 3))).astype(np.float32)


def torch_images(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


def channels_last(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def assert_close(ours, theirs, tolerance=5e-5):
    theirs = channels_last(theirs)
    assert np.asarray(ours).shape == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max() < tolerance * theirs.std()


def apply(loaded, *args, **options):
    def run(params, *arrays):
        return loaded.autoencoder.apply({"params": params}, *arrays, **options)

    return jax.jit(run)(loaded.params, *args)


@pytest.mark.parametrize("name", KL)
def test_the_law_of_latents_and_the_images_are_autoencoder_kls(name, tmp_path):
    theirs = theirs_kl(name)
    theirs.save_pretrained(tmp_path)
    loaded = autoencoder.autoencoder_from_diffusers(tmp_path)
    x = images(name, KL)
    with torch.no_grad():
        law = theirs.encode(torch_images(x)).latent_dist
        decoded = theirs.decode(law.mean).sample
    encoded = apply(loaded, x, method="encode")
    assert_close(encoded.posterior.mean, law.mean)
    assert_close(encoded.posterior.log_variance, law.logvar)
    latents = channels_last(law.mean)
    assert_close(apply(loaded, latents, method="decode").mean, decoded)
    assert loaded.scaling_factor == theirs.config.scaling_factor
    assert loaded.shift_factor == (theirs.config.shift_factor or 0)


@pytest.mark.parametrize("name", VQ)
def test_vectors_codes_and_images_are_vq_models(name, tmp_path):
    theirs = theirs_vq(name)
    theirs.save_pretrained(tmp_path)
    loaded = autoencoder.autoencoder_from_diffusers(tmp_path)
    x = images(name, VQ)
    with torch.no_grad():
        vectors = theirs.encode(torch_images(x)).latents
        codes, _, (_, _, indices) = theirs.quantize(vectors)
        decoded = theirs.decode(vectors).sample
    assert_close(apply(loaded, x, method="encode").latents, vectors)
    found = apply(loaded, channels_last(vectors), method="quantise")
    np.testing.assert_array_equal(np.ravel(found.indices), indices)
    assert_close(found.vectors, codes)
    assert_close(apply(loaded, channels_last(codes), method="decode").mean, decoded)


@pytest.mark.parametrize("name", ["odd_sizes", "without_projections", "attention_below"])
def test_diffusers_reads_back_what_it_wrote_and_computes_the_same(name, tmp_path):
    theirs = theirs_kl(name)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = autoencoder.autoencoder_from_diffusers(tmp_path / "theirs")
    out = tmp_path / "ours"
    autoencoder.autoencoder_to_diffusers(loaded.autoencoder, loaded.params, out, 0.7)
    again = diffusers.AutoencoderKL.from_pretrained(out)
    assert again.config.scaling_factor == 0.7
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    x = torch_images(images(name, KL))
    with torch.no_grad():
        torch.testing.assert_close(again(x).sample, theirs(x).sample, rtol=0, atol=0)


def test_codes_go_back_to_diffusers_too(tmp_path):
    theirs = theirs_vq("other_code_channels")
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = autoencoder.autoencoder_from_diffusers(tmp_path / "theirs")
    out = tmp_path / "ours"
    autoencoder.autoencoder_to_diffusers(loaded.autoencoder, loaded.params, out)
    again = diffusers.VQModel.from_pretrained(out)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_names_of_diffusers_first_releases_are_read(tmp_path):
    """Attention was query, key, value and proj_attn, of 1x1 convolutions in some files."""
    theirs = theirs_kl("plain")
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = safetensors.numpy.load_file(path)
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        if ".attentions." in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    want = autoencoder.autoencoder_from_diffusers(tmp_path).params
    safetensors.numpy.save_file(renamed, path)
    found = autoencoder.autoencoder_from_diffusers(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (Autoencoder(), 83_653_863),
        (Autoencoder(latent_channels=16, projected=False), 83_819_683),
        (
            Autoencoder(
                bottleneck="quantised",
                block_channels=(128, 256, 512),
                latent_channels=3,
                num_codes=8192,
            ),
            55_322_782,
        ),
    ],
    ids=["stable_diffusion", "stable_diffusion_3", "vq_f4"],
)
def test_published_networks_have_their_counts(network, count):
    variables = jax.eval_shape(
        lambda: network.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_class_name", "AutoencoderTiny"),
        ("act_fn", "gelu"),
        ("down_block_types", ["DownEncoderBlock2D", "CrossAttnDownBlock2D"]),
        ("up_block_types", ["UpDecoderBlock2D"]),
        ("up_block_types", ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]),
        ("norm_num_groups", 5),
        ("norm_num_groups", True),
        ("out_channels", 4),
        ("use_post_quant_conv", False),
        ("latents_mean", [0.0]),
        ("latent_channels", 0),
        ("scaling_factor", 0.0),  # a diffusion of latents could not come back from it
        ("scaling_factor", -1.0),
        ("temporal_compression", 4),
    ],
)
def test_fields_that_are_not_supported_are_named(field, value, tmp_path):
    theirs_kl("plain").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=f"config.json: {field} is ") as caught:
        autoencoder.autoencoder_from_diffusers(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_are_counted_and_five_are_named(tmp_path):
    theirs_kl("plain").save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    gone = [name for name in tensors if name.startswith("decoder.up_blocks.0")]
    kept = {name: one for name, one in tensors.items() if name not in gone}
    kept["encoder.conv_in.weight"] = kept["encoder.conv_in.weight"][:, :1].copy()
    kept["more"] = np.zeros(2, np.float32)
    safetensors.numpy.save_file(kept, path)
    with pytest.raises(ValueError, match=f"{len(gone)} missing") as caught:
        autoencoder.autoencoder_from_diffusers(tmp_path)
    said = str(caught.value)
    assert sum(name in said for name in gone) == 5
    assert "1 of another shape (encoder.conv_in.weight (16, 1, 3, 3) for (16, 3, 3, 3))" in said
    assert "1 left over (more (2,))" in said


TRAIN = {"num_steps": 2, "sample_every": 0, "validate_every": 0, "min_free_gb": 0.0}
SHARED = {
    "data": {"name": "digits", "image_size": (8, 8), "channels": 1, "batch_size": 8},
    "optim": {"learning_rate": 0.01, "warmup_steps": 0},
    "ema": {"decay": 0.5},
    "train": TRAIN,
    "mesh": {"data": 1},
}
TINY = {"channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "num_groups": 4}


def trained(kind, workdir, **groups):
    config = config_files.override(defaults.get_config(kind), SHARED)
    assert train.train(config_files.override(config, groups), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """A run of an autoencoder that a discriminator judges."""
    judged = {"adversary_weight": 0.5, "adversary_channels": 4, "adversary_layers": 1}
    return trained(
        "autoencoder",
        tmp_path_factory.mktemp("codec") / "run",
        model={**TINY, "latent_channels": 2},
        objective=judged,
    )


@pytest.fixture(scope="module")
def latent(codec, tmp_path_factory):
    """A run of its latents, told the class."""
    return trained(
        "denoiser",
        tmp_path_factory.mktemp("latent") / "run",
        data={"codec": str(codec), "latent_shape": (4, 4, 2)},
        model={**TINY, "attention_resolutions": (2,), "num_classes": 10},
        diffusion={"num_steps": 10, "label_dropout": 0.1},
        sample={"clip_x0": False, "num_steps": 2},
    )


def exported(workdir, out, *flags):
    words = [f"--workdir={workdir}", f"--out={out}", "--format=diffusers", *flags]
    done = tiny_runs.in_process("checkpoint", "export", *words)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("flags", [[], ["--raw_params"]], ids=["average", "raw"])
def test_a_runs_autoencoder_is_written_for_diffusers(flags, codec, tmp_path):
    theirs = diffusers.AutoencoderKL.from_pretrained(exported(codec, tmp_path / "vae", *flags))
    loaded = experiment.load(codec, raw_params=bool(flags))
    assert "discriminator" in loaded.params
    x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    params = {n: one for n, one in loaded.params.items() if n != "discriminator"}
    encoded = loaded.model.apply({"params": params}, x, method="encode")
    decoded = loaded.model.apply({"params": params}, encoded.latents, method="decode").mean
    with torch.no_grad():
        law = theirs.encode(torch_images(x)).latent_dist
        assert_close(encoded.posterior.mean, law.mean)
        assert_close(encoded.posterior.log_variance, law.logvar)
        assert_close(decoded, theirs.decode(law.mean).sample)
        # Latents of the training images, drawn and scaled, have unit variance.
        source = loaded.experiment.source("train")
        images = np.stack([source[k]["image"] for k in range(len(source))]) / 8 - 1
        law = theirs.encode(torch_images(images.astype(np.float32))).latent_dist
        scaled = law.sample(torch.Generator().manual_seed(0)) * theirs.config.scaling_factor
    assert float(scaled.std()) == pytest.approx(1, abs=0.02)


def test_a_run_of_latents_is_a_unet_and_its_vae(latent, tmp_path):
    out = exported(latent, tmp_path / "pipeline")
    assert {path.name for path in out.iterdir()} == {"unet", "vae"}
    vae = diffusers.AutoencoderKL.from_pretrained(out / "vae")
    unet = diffusers.UNet2DModel.from_pretrained(out / "unet")
    loaded = experiment.load(latent)
    own = loaded.experiment.latents
    assert vae.config.scaling_factor == pytest.approx(float(own.tree["scaling"]["scale"]))
    x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    with torch.no_grad():
        theirs = vae.encode(torch_images(x)).latent_dist.mean * vae.config.scaling_factor
    assert_close(own.encode(x), theirs)
    xt = np.random.default_rng(1).standard_normal((3, 4, 4, 2)).astype(np.float32)
    labels, time = np.array([3, 9, -1]), np.array([0, 4, 9], np.float32)
    found = loaded.model.apply({"params": loaded.params}, xt, time, labels)
    with torch.no_grad():  # no class is their last one
        want = unet(torch_images(xt), torch.tensor(time), torch.tensor([3, 9, 10])).sample
    assert_close(found, want)
    again = trained(
        "denoiser",
        tmp_path / "again",
        data={"codec": str(out / "vae"), "latent_shape": (4, 4, 2)},
        model={**TINY, "attention_resolutions": (2,)},
        sample={"clip_x0": False, "num_steps": 2},
        diffusion={"num_steps": 10},
    )
    there = experiment.load(again).experiment.latents
    np.testing.assert_allclose(there.encode(x), own.encode(x), atol=1e-5)


def test_what_diffusers_does_not_have_is_one_line_and_nothing_is_written(codec, latent, tmp_path):
    words = ["checkpoint", "export", f"--workdir={codec}", "--format=diffusers"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    gan = trained("gan", tmp_path / "gan", model={"channels": 8}, optim={"options": {}})
    for more, said in [
        ([f"--out={tmp_path / 'w.safetensors'}"], "writes a folder; name one"),
        ([f"--out={tmp_path / 'mine'}"], "config.json"),
        ([f"--workdir={gan}", f"--out={tmp_path / 'gan_out'}"], "a GAN with the network Gan is"),
        (["--format=pickle", f"--out={tmp_path / 'x'}"], "pickle"),
    ]:
        done = tiny_runs.in_process(*words, *more)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr
    assert not (tmp_path / "gan_out").exists()
    assert (tmp_path / "mine" / "config.json").read_text() == "{}"
    done = tiny_runs.in_process("checkpoint", "list", f"--workdir={codec}", "--format=diffusers")
    assert "--format applies only to export" in done.stderr


@pytest.mark.parametrize(
    "network",
    [
        Autoencoder(bottleneck=PLAIN, block_channels=(16,), num_groups=8),
        Autoencoder(block_channels=(16,), num_groups=8, scale="each"),
        Autoencoder(block_channels=(16,), num_groups=8, num_classes=3),
        Autoencoder(block_channels=(16,), num_groups=8, num_heads=2),
        Autoencoder(block_channels=(16,), num_groups=8, norm_epsilon=1e-5),
    ],
)
def test_what_diffusers_cannot_express_is_refused_and_nothing_is_written(network, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="diffusers has no autoencoder with this"):
        autoencoder.autoencoder_to_diffusers(network, {}, out)
    assert not out.exists()
