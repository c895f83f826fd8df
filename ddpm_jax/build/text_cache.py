"""config.data.cache_text: the states of a frozen tower's texts, made once and not in each step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build import clips
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data import Source
from ddpm_jax.data.text_states import TextStates, cached, rows_of
from ddpm_jax.errors import UserError
from ddpm_jax.models.adapters import LORA
from ddpm_jax.models.text import captions
from ddpm_jax.runtime import compiling, digests, leaves, processes, user_cache

MOST_EXAMPLES = 2**24  # whose captions are listed
FIELD = "config.data.cache_text=True"


def asked(c: ConfigDict) -> bool:
    """Whether a run caches what a frozen tower makes of its captions."""
    return bool(c.data.get("cache_text", False))


def check(experiment: Experiment) -> None:
    """Raises UserError for a run whose text is read by no tower that stays as it is."""
    c = experiment.config
    if not asked(c):
        return
    if not experiment.reads_text:
        raise UserError(f"{FIELD}: this run reads no text; set False")
    reader = captions.reader_of(experiment.model)
    if reader is None:
        name = c.model.get("text_tower", "")  # which a network of one's own has not
        able = [tower for tower, row in captions.TOWERS.items() if row.module is not None]
        raise UserError(
            f"{FIELD}: config.model.text_tower={name!r} is no network by itself; set "
            f"{' or '.join(able)}, which begins with a CLIP's weights (train.init_from), or False"
        )
    params = jax.eval_shape(experiment.init_params, jax.random.key(0))
    frozen = leaves.matching(c.optim.frozen, params)
    if not all(jax.tree.leaves([frozen[part] for part in reader.parts])):
        names = tuple(f"{part}/*" for part in reader.parts)
        raise UserError(
            f"{FIELD}: the tower of texts is trained, so that what it makes of a caption changes "
            f"with every step; freeze it, config.optim.frozen={names}, or set False"
        )
    if any(part in params.get(LORA, {}) for part in reader.parts):
        raise UserError(
            f"{FIELD}: config.model.lora_targets={tuple(c.model.lora_targets)} fit layers of the "
            "tower of texts, which then changes with every step; name others, or set False"
        )


def check_alone(experiment: Experiment, what: str) -> None:
    """Raises UserError for a run whose steps are made again where nothing is cached."""
    if asked(experiment.config):
        raise UserError(
            f"{what}: this run's steps read what was cached of its captions ({FIELD}), and steps "
            "that are made again run the tower, whose last digits may differ"
        )


def check_sources(experiment: Experiment, sources: Sequence[Source | None]) -> None:
    """Raises UserError for data with more captions than can be listed."""
    for source in sources if asked(experiment.config) else ():
        if source is not None and len(source) > MOST_EXAMPLES:
            raise UserError(
                f"{FIELD}: {experiment.config.data.name} has {len(source):,} examples, and the "
                f"captions of at most {MOST_EXAMPLES:,} are listed; set False"
            )


def with_states(
    experiment: Experiment, params: Any, sources: Sequence[Source | None]
) -> Experiment:
    """The experiment whose batches hold what the tower makes of their captions, where asked.

    The states lie in the user's cache under a digest of the tower's parameters, of the tokenizer
    and of the captions' rows. Every process calls this.

    Args:
      experiment: with its tokenizer.
      params: of the network; the tower's own are read.
      sources: whose captions are read: of training, and held-out ones.

    Raises:
      UserError: where a file of the cache cannot be written.
    """
    if not asked(experiment.config):
        return experiment
    encode, tokenizer = experiment.encode_texts, experiment.tokenizer
    assert encode is not None  # `check` sees to it
    assert tokenizer is not None
    reader = captions.reader_of(experiment.model)
    assert reader is not None
    own = jax.tree.map(processes.whole, {part: params[part] for part in reader.parts})
    sums = {name: digests.sum_of(np.asarray(leaf)) for name, leaf in leaves.named(own).items()}
    described = {
        "tower": digests.combined(sums),
        "network": repr(reader.network),
        "tokenizer": tokenizer.digest,
        "jax": jax.__version__,
        "code": digests.of_code("models"),
    }
    texts = [text for one in sources if one is not None for text in data.captions_of(one)]
    apply = compiling.jit(lambda own, rows: reader.states(own, rows).astype(jnp.float32))

    def make(rows: np.ndarray) -> np.ndarray:
        return clips.by_batches(apply, own, rows)

    states: TextStates = cached(
        rows_of(texts, encode), make, described, user_cache.cache_dir() / "texts"
    )
    return dataclasses.replace(experiment, text_states=states)
