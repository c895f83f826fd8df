"""What do a VAE, a GAN, diffusion and latent diffusion make of digits with equal parameters?

The lecture notes' eight statements of generative models, with figures: each kind has the parameters
of configs/digits.py's U-Net within 5%, is told the class, and is trained with three seeds. Latent
diffusion is counted with its autoencoder, which is a cell of its own.
Hardware: 2 CPU cores; not run to its end yet. Expected: docs/comparison.md.
Command: python scripts/sweep.py run --sweep=configs/sweeps/generative_models.py \
  --workdir=sweeps/generative_models
Then: python scripts/sweep.py report --sweep=configs/sweeps/generative_models.py \
  --workdir=sweeps/generative_models
"""

from ml_collections import ConfigDict

from configs import digits, digits_autoencoder, digits_gan, digits_latent, digits_vae
from ddpm_jax.sweeps import grid, seeds, workdir_of


def vae() -> ConfigDict:
    config = digits_vae.get_config()
    config.model.num_classes = 10
    config.sample.batch_size = 100
    return config


def gan() -> ConfigDict:
    config = digits_gan.get_config()
    config.model.channels = 112
    # A step of it is three of the diffusion's: so it takes about as long as that.
    config.data.batch_size = 32
    config.train.num_steps = 1500
    return config


CONFIGS = {
    "vae": vae,
    "gan": gan,
    "diffusion": digits.get_config,
    "codec": digits_autoencoder.get_config,
    "latent": digits_latent.get_config,
}


def get_config(name: str = "diffusion") -> ConfigDict:
    config = CONFIGS[name]()
    config.train.sample_every = 0
    config.sample.guidance_scale = 1.0  # nothing guides a VAE or a GAN
    return config


def sweep() -> list[dict]:
    alone = [{"config": name} for name in ("vae", "gan", "diffusion", "codec")]
    latent = {"config": "latent", "data.codec": workdir_of({"config": "codec"})}
    return grid([*alone, latent], seeds(3))


DRAWN = ("fid", "prdc", "label_accuracy", "class_histogram", "cost", "model_size")


def measured(*more: str, **flags: int) -> dict:
    return {"metrics": (*DRAWN, *more), "num_samples": 1000, **flags}


evaluate = {
    "vae": measured("elbo", "reconstructed", "latent_use"),
    "gan": measured(),
    "diffusion": measured("bpd", num_terms=50),
    "latent": measured(),
    "codec": {"metrics": ("reconstructed", "latent_use")},
}
baseline = {"config": "diffusion"}
statements = {
    "The objective is a bound of the likelihood": ("elbo_per_dim", "bpd_discrete_vlb"),
    "An encoder is learned": "reconstructed_psnr",
    "The latent is as large as the data": "model_size_noise",
    "An adversary is trained beside it": "model_size_parameters",
    "Samples look right": ("fid", "precision", "label_accuracy"),
    "A sample takes many passes": ("cost_passes", "cost_milliseconds"),
    "Samples are diverse": ("recall", "coverage", "classes_lost"),
    "Noise of a normal law becomes data": "latent_use_kl_per_dimension",
}
