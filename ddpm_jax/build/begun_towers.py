"""Towers that a run begins with: of another run, or of a CLIP that another library wrote.

Weights alone do not say which function they are of: its activation, its heads, what is taken out of
pixels, which words the numbers stand for. All of that is compared here, by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.build import tower_options
from ddpm_jax.build.kinds import KINDS
from ddpm_jax.build.tower_options import IMAGES, TEXTS, Options
from ddpm_jax.config import config_files
from ddpm_jax.config.own_code import NONE
from ddpm_jax.data import tokenizers
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.data.tokenizers.stored import FILE
from ddpm_jax.errors import UserError
from ddpm_jax.interop import clip as clips
from ddpm_jax.interop import open_clip
from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.models.encoder import QUICK
from ddpm_jax.runtime import leaves


class Library(NamedTuple):
    """A CLIP that another library wrote.

    Attributes:
      towers: the options of each, by name.
      tensors: its parameters, by the names that a run's have.
    """

    towers: dict[str, Options]
    tensors: dict[str, np.ndarray]


def of_run(workdir: Path) -> dict[str, Options]:
    """The towers of the run that lies in a workdir, by name; {} for none.

    Raises:
      UserError: for a config that describes nothing that can be built.
    """
    config = config_files.read(workdir)
    if config is None or config_files.own_names(config):
        return {}
    kind = KINDS[config.kind]
    return kind.towers(config, kind.network(config, NONE))


def of_library(source: Path, ours: Mapping[str, Options]) -> Library | None:
    """What transformers or open_clip wrote there; None for anything else.

    Args:
      source: a folder of save_pretrained, of a CLIP or its text encoder; open_clip's folder, or its
        safetensors file.
      ours: this run's towers, without which nothing is taken for a CLIP; where nothing beside
        open_clip's file says which activation it was trained with, this run's is taken.

    Raises:
      ValueError, OSError: as `interop.clip`.
    """
    if not ours or not source.exists():
        return None
    if source.is_dir():
        if (source / open_clip.WEIGHTS).is_file():
            source = source / open_clip.WEIGHTS
        else:
            return _of_transformers(source)
    if not open_clip.wrote(source):
        return None
    quick = ours.get(TEXTS, {}).get("activation") == QUICK
    return _library(*clips.clip_from_open_clip(source, quick_gelu=quick))


def check_tokenizer(ours: Mapping[str, Options], source: str, tokenizer: Tokenizer | None) -> None:
    """A run that begins with another run's tower of texts reads by that run's tokenizer.

    Args:
      ours: the towers of the run that begins.
      source: config.train.init_from.
      tokenizer: of the run that begins.

    Raises:
      UserError: for another one.
    """
    workdir = Path(source)
    if not source or tokenizer is None or TEXTS not in ours or not _is_run(workdir):
        return
    if TEXTS not in of_run(workdir):
        return
    theirs = tokenizers.load(workdir / FILE)
    if theirs.digest != tokenizer.digest:
        raise UserError(
            f"config.train.init_from={source}: its tower of texts knows words by another tokenizer "
            f"(sha256 {theirs.digest[:16]}) than this run's ({tokenizer.digest[:16]}); set "
            f"config.data.tokenizer={workdir / FILE}"
        )


def _is_run(workdir: Path) -> bool:
    return (workdir / "checkpoints").is_dir()


def _of_transformers(directory: Path) -> Library | None:
    config = directory / CONFIG
    if _is_run(directory) or not config.is_file():
        return None
    model_type = read_json(config).get("model_type")
    if model_type == "clip_text_model":
        text, params = clips.text_encoder_from_transformers(directory)
        return Library({TEXTS: tower_options.described(text)}, _named({TEXTS: params}))
    if model_type is None:
        return None
    return _library(*clips.clip_from_transformers(directory))


def _library(clip: Any, params: Mapping[str, Any]) -> Library:
    towers = {IMAGES: clip.image, TEXTS: clip.text}
    return Library(
        {name: tower_options.described(one) for name, one in towers.items()}, _named(params)
    )


def _named(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in leaves.named(dict(params)).items()}
