"""A run of model.name=stable_diffusion as the pipeline that it has become."""

import json
from typing import Any

import jax.numpy as jnp

from ddpm_jax.build import latents, pipelines
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.data.tokenizers.stored import of_content
from ddpm_jax.interop import autoencoder_config, scheduler
from ddpm_jax.interop.autoencoder import ImportedAutoencoder
from ddpm_jax.interop.pipeline import Pipeline, TextTower
from ddpm_jax.interop.pipeline_config import CLASSES, VAE
from ddpm_jax.interop.pipeline_tokenizers import PipelineTokenizer
from ddpm_jax.models import StableDiffusion
from ddpm_jax.models.stable_diffusion import TEXTS, UNET


def pipeline_of(experiment: Experiment, network: StableDiffusion, params: Any) -> Pipeline:
    """The pipeline that a run has become, to sample or to save.

    Args:
      experiment: the run's, with its tokenizer and its autoencoder.
      network: without adapters.
      params: of the network.

    Raises:
      ValueError: for an autoencoder that pipelines do not have.
    """
    c, codec, tokenizer = experiment.config, experiment.latents, experiment.tokenizer
    assert codec is not None  # of every loaded run of this network
    assert tokenizer is not None
    described = c.model.pipeline
    stated = json.loads(json.dumps(described[pipelines.SCHEDULER].to_dict()))  # tuples as lists
    scaling = {name: float(value) for name, value in codec.tree[latents.SCALING].items()}
    kind = autoencoder_config.of_network(codec.network, scaling["scale"])["_class_name"]
    if kind not in CLASSES[VAE]:
        raise ValueError(
            f"config.data.codec={c.data.codec} is a {kind}, and a pipeline decodes by "
            f"{' or '.join(CLASSES[VAE])}"
        )
    paddings = (network.words.pad, network.words.pad_2)
    towers = [
        TextTower(
            name,
            PipelineTokenizer(_padded(tokenizer, padding), c.data.context),
            getattr(network, part),
            params[part],
        )
        for name, part, padding in zip(described[pipelines.TEXTS], TEXTS, paddings, strict=False)
    ]
    pools = network.text_2 is not None
    return Pipeline(
        name=described.name,
        towers=tuple(towers),
        unet=network.unet.clone(dtype=jnp.float32, remat="none"),
        unet_params=params[UNET],
        autoencoder=ImportedAutoencoder(
            codec.network, codec.tree[latents.PARAMS], scaling["scale"], scaling["shift"]
        ),
        scheduler=scheduler.of_fields(stated.pop("class_name"), stated),
        pools=pools,
        empty_is_zero=network.empty_is_zero,
        size=experiment.image_shape[:2],
    )


def _padded(tokenizer: Tokenizer, padding: int) -> Tokenizer:
    """The tokenizer with another padding."""
    if padding == tokenizer.pad:
        return tokenizer
    content = dict(tokenizer.content)
    return of_content({**content, "pad": content["vocabulary"][padding]})
