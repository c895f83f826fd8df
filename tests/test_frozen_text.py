"""Text to image by a CLIP's text tower: begun with its weights, which stay as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from random_networks import random_params
from test_text_to_image import PROMPTS, config_of_text

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.runtime import leaves


def test_a_run_keeps_the_tower_that_it_begins_with(tmp_path):
    tower = TextTransformer(
        vocab_size=600, context_length=20, width=8, depth=1, num_heads=2, embed_dim=4
    )
    params = random_params(tower, jnp.zeros((1, 20), int))
    named = {f"text/{name}": np.asarray(leaf) for name, leaf in leaves.named(params).items()}
    safetensors.numpy.save_file(named, tmp_path / "clip.safetensors")
    config = config_of_text(
        model={"text_tower": "clip"},
        train={
            "num_steps": 2,
            "sample_every": 0,
            "validate_every": 0,
            "init_from": str(tmp_path / "clip.safetensors"),
            "init_strict": False,
        },
        optim={"frozen": ("text/*",)},
    )
    assert train.train(config, tmp_path / "run") == 0
    loaded = experiment.load(tmp_path / "run", raw_params=True)
    del params["projection"]  # which nothing reads
    jax.tree.map(np.testing.assert_array_equal, loaded.params["text"], params)
    start = loaded.experiment.init_params(jax.random.key(0))["text_padding"]
    assert (loaded.params["text_padding"] != start).any()
    drawn = loaded.sample(2, prompts=PROMPTS)
    assert (drawn != loaded.sample(2)).any(axis=(1, 2, 3)).all()
