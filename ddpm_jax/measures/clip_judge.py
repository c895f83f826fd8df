"""The CLIP that judges samples: a run of this package, or a folder of transformers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from ddpm_jax.build.clips import by_batches
from ddpm_jax.data.tokenizers import clip_tokenizer
from ddpm_jax.errors import UserError
from ddpm_jax.interop import clip_preprocessor
from ddpm_jax.interop.clip import clip_from_transformers
from ddpm_jax.interop.clip_preprocessor import Preprocessor
from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.runtime import compiling, digests
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.places import check_place

FLAG = "clip_judge"  # that names it, and its entry in a result's protocol
BATCH = 64  # images that are prepared at once


@dataclasses.dataclass(frozen=True, eq=False)
class ClipJudge:
    """What embeds images and texts, and what tells it from others, as a trained model does.

    Attributes:
      embed_images: uint8 [N, H, W, 3] of any size -> float32 [N, D], of unit length.
      embed_texts: texts -> float32 [N, D], of unit length.
      checkpoint: the digest of its parameters.
      config_sha256: of all else that its embeddings depend on.
      parameters, reconstruction: as of `Loaded`; of a folder "clip" and {}.
    """

    embed_images: Callable[[np.ndarray], np.ndarray]
    embed_texts: Callable[[Sequence[str]], np.ndarray]
    checkpoint: str
    config_sha256: str
    parameters: str = "clip"
    reconstruction: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(path: str, load: Callable[[str], Loaded]) -> ClipJudge:
    """The CLIP of a path.

    Args:
      path: the workdir of a run of CLIP, or a folder that transformers' `CLIPModel` was saved in,
        with its tokenizer.
      load: from a workdir to a trained model.

    Raises:
      UserError: for what is neither.
    """
    try:
        fields = read_json(Path(path) / CONFIG) if Path(path).is_dir() else {}
        return of_folder(path) if "model_type" in fields else of_run(load(path), path)
    except (OSError, ValueError) as error:
        raise UserError(f"--{FLAG}={path}: {error}") from error


def of_run(loaded: Loaded, path: str) -> ClipJudge:
    """A trained CLIP. Raises UserError for a run of another kind, or one that reads no text."""
    experiment = loaded.experiment
    check_place("clip", experiment, f"--{FLAG}={path}")
    if experiment.tokenizer is None:
        raise UserError(f"--{FLAG}={path}: that run reads no text; name a CLIP of images and texts")
    clip: Any = loaded
    height, width, channels = experiment.image_shape
    if channels != 3:
        raise UserError(f"--{FLAG}={path}: it sees grey images; name a CLIP of colour images")

    def embed_images(images: np.ndarray) -> np.ndarray:
        return clip.embed_images(_by_parts(images, lambda part: _resized(part, (height, width))))

    return ClipJudge(
        embed_images,
        clip.embed_texts,
        loaded.checkpoint,
        loaded.config_sha256,
        loaded.parameters,
        loaded.reconstruction,
    )


def of_folder(path: str) -> ClipJudge:
    """A CLIP of transformers. Raises ValueError or UserError for a folder that is none."""
    clip, params = clip_from_transformers(path)
    network: Any = clip
    tokenizer, context = clip_tokenizer(path), network.text.context_length
    if tokenizer.size > network.text.vocab_size:
        raise ValueError(
            f"its tokenizer has {tokenizer.size:,} tokens, and its network reads "
            f"{network.text.vocab_size:,}: they are of different models"
        )
    size = network.image.image_size
    size = (size, size) if isinstance(size, int) else tuple(size)
    prepares = clip_preprocessor.read(path, size)

    def embed(method: str) -> Callable[..., jax.Array]:
        return compiling.jit(
            lambda params, rows: network.apply({"params": params}, rows, method=method)
        )

    of_images, of_texts = embed("embed_images"), embed("embed_texts")

    def embed_images(images: np.ndarray) -> np.ndarray:
        return _by_parts(
            images,
            lambda part: by_batches(of_images, params, prepared(part, prepares)),
        )

    return ClipJudge(
        embed_images,
        lambda texts: by_batches(of_texts, params, tokenizer(texts, context)),
        digests.digest(params),
        digests.combined(
            {"network": repr(network), "tokenizer": tokenizer.digest, "images": repr(prepares)}
        ),
    )


def prepared(images: np.ndarray, prepares: Preprocessor) -> np.ndarray:
    """Images as transformers' CLIPImageProcessor hands them to a CLIP, float32 [N, *crop, 3]."""
    height, width = images.shape[1:3]
    short, edge = min(height, width), prepares.shortest_edge
    # The longer one is cut to whole pixels.
    whole = _resized(images, (int(edge * height / short), int(edge * width / short)))
    top, left = ((a - b) // 2 for a, b in zip(whole.shape[1:3], prepares.crop, strict=True))
    middle = whole[:, top : top + prepares.crop[0], left : left + prepares.crop[1]]
    mean, std = (np.array(one, np.float32) for one in (prepares.mean, prepares.std))
    return (middle.astype(np.float32) / 255 - mean.reshape(1, 1, 1, 3)) / std.reshape(1, 1, 1, 3)


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 images of another size, bicubic: Pillow's own, which rounds after either axis."""
    if images.shape[1:3] == size:
        return images
    made = [Image.fromarray(one).resize(size[::-1], Image.Resampling.BICUBIC) for one in images]
    return np.stack([np.asarray(one) for one in made])


def _by_parts(images: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What `make` makes of images, few of them at a time."""
    parts = range(0, len(images), BATCH)
    return np.concatenate([make(np.asarray(images[k : k + BATCH])) for k in parts])
