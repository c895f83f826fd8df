"""The conditions that held-out images show, for what is drawn while a run trains."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build import conditioning, image_embeddings, upsampling
from ddpm_jax.build.conditioning import ConditionValue
from ddpm_jax.codecs import Codec
from ddpm_jax.data.captions import TEXT, EncodeTexts
from ddpm_jax.models.image_embedding import EMBEDDING


def shown(
    c: ConfigDict,
    held_out: data.Source,
    num: int,
    codec: Codec,
    encode_texts: EncodeTexts | None = None,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, ConditionValue]]:
    """Labels int [num] and conditions, as of `arrays`, that evenly spaced images show.

    `embed` gives the embeddings of x_0, for a model that is told them.
    """
    names = conditioning.of_data(c)
    batches = data.evaluation_batches(
        held_out,
        num,
        num,
        encode=codec.encode_batch,
        conditions=names,
        encode_texts=encode_texts,
        num_threads=0,
    )
    batch = next(batches)
    told = (*names, TEXT) if conditioning.reads_text(c) else names
    conditions: dict[str, ConditionValue] = {name: batch[name] for name in told}
    if upsampling.NAME in conditioning.condition_names(c):
        conditions[upsampling.NAME] = upsampling.shrunk(c, batch["x0"])
    if embed is not None and image_embeddings.told(c):
        conditions[EMBEDDING] = embed(batch["x0"])
    return batch["label"], conditions
