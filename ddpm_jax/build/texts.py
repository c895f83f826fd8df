"""config.data.tokenizer: what makes tokens of a run's captions, made once and kept in its workdir.

A kind of run says by its record whether its batches have "text" (`Kind.reads_text`).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build.datasets import dataset
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.kinds import Kind
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.data import tokenizers
from ddpm_jax.data.base import nearest
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.data.tokenizers.stored import FILE
from ddpm_jax.errors import UserError

# Those that are learned from the captions of the training split; any other name is a path.
LEARNED: dict[str, Callable[..., Tokenizer]] = {
    "bytes": tokenizers.train_byte_pair,
    "words": tokenizers.train_word_level,
}
LEARNED_FROM = 20_000  # captions at most, evenly spaced; drawn shapes have no end


def check(c: ConfigDict, kind: Kind, own: Own = NONE) -> None:
    """config.data's fields of text fit the kind of run and the data, which are not read.

    Raises:
      UserError: for a tokenizer where no text is read, or none where it is; data without captions;
        images that are mirrored beside captions that stay.
    """
    name = c.data.get("tokenizer", "")
    if not kind.reads_text(c):
        if name:
            raise UserError(f"config.data.tokenizer={name}: this {kind.noun} reads no text; set ''")
        return
    if kind.has_clip(c):
        if name:
            raise UserError(
                f"config.data.tokenizer={name}: texts are made tokens by the tokenizer of "
                "config.data.clip; set ''"
            )
    elif not name:
        raise UserError(
            f"config.data.tokenizer='': this {kind.noun} reads captions; set "
            f"{', '.join(LEARNED)}, or the path of CLIP's own files"
        )
    if not dataset(c, own).captions:
        captioned = [other for other, row in data.DATASETS.items() if row.captions]
        raise UserError(
            f"config.data.name={c.data.name}: these data have no captions, which this {kind.noun} "
            f"reads; choose {', '.join(captioned)}, or data of your own with captions=True"
        )
    mirrored = "a mirrored image keeps its caption, which may tell left from right; leave it out"
    if c.data.flip:
        raise UserError(f"config.data.flip=True: {mirrored}")
    if "flip" in c.data.get("augment", ()):
        raise UserError(f"config.data.augment={tuple(c.data.augment)}: {mirrored}")


def from_file(c: ConfigDict) -> Tokenizer | None:
    """The tokenizer of the files that config.data.tokenizer names; None for one that is learned.

    Raises:
      UserError: for no such file, or a vocabulary of another size than config.data.vocabulary.
    """
    name = c.data.tokenizer
    if name in LEARNED:
        return None
    if not Path(name).expanduser().exists():
        raise UserError(
            f"config.data.tokenizer={name}: no such file; name {', '.join(LEARNED)}, a run's "
            f"{FILE}, or CLIP's "
            "tokenizer.json, vocab.json with merges.txt beside it, or "
            f"bpe_simple_vocab_16e6.txt.gz{nearest(Path(name).name, LEARNED)}"
        )
    if stored := _of_run(Path(name).expanduser()):
        if stored.size > c.data.vocabulary:
            raise UserError(
                f"config.data.vocabulary={c.data.vocabulary}: the tokenizer of {name} has "
                f"{stored.size:,} tokens; set it to that run's"
            )
        return stored
    made = tokenizers.clip_tokenizer(name)
    if made.size != c.data.vocabulary:
        raise UserError(
            f"config.data.vocabulary={c.data.vocabulary}: the tokenizer of {name} has "
            f"{made.size:,} tokens; set it to {made.size}"
        )
    return made


def _of_run(path: Path) -> Tokenizer | None:
    """The tokenizer of a run, where a path is that of its file; None for any other file."""
    if path.suffix != Path(FILE).suffix or not path.is_file():
        return None
    try:
        return tokenizers.load(path)
    except UserError:  # of another program, as transformers writes it
        return None


def made(experiment: Experiment, train: data.Source) -> Tokenizer | None:
    """The tokenizer of a run that begins: a function of its config and its training captions.

    Args:
      experiment: whose config says which.
      train: its training split; of a source that tells captions alone, no image is read.

    Returns:
      None for a run that reads no text.

    Raises:
      UserError: as `from_file`; for captions that a tokenizer of that size cannot be learned from.
    """
    if not experiment.reads_text:
        return None
    c = experiment.config
    if fixed := from_file(c):
        return fixed
    try:
        return LEARNED[c.data.tokenizer](
            data.captions_of(train, min(len(train), LEARNED_FROM)), c.data.vocabulary
        )
    except UserError as error:
        raise UserError(
            f"config.data.tokenizer={c.data.tokenizer}, config.data.vocabulary="
            f"{c.data.vocabulary}: {error}"
        ) from error


def kept(experiment: Experiment, workdir: str | Path) -> Tokenizer | None:
    """The tokenizer that a run has in its workdir; None for a run that reads no text.

    Raises:
      UserError: where it is gone or damaged: another one would give the tokens another meaning.
    """
    if not experiment.reads_text:
        return None
    stored = tokenizers.load(Path(workdir) / FILE)
    if stored.size > experiment.config.data.vocabulary:
        raise UserError(
            f"{workdir}/{FILE} has {stored.size:,} tokens, and the run's config.data.vocabulary "
            f"is {experiment.config.data.vocabulary:,}: it is another run's"
        )
    return stored


def keep(experiment: Experiment, workdir: str | Path) -> None:
    """Write the experiment's tokenizer into a workdir, where it is not there already.

    Raises:
      UserError: where it cannot be written.
    """
    if experiment.tokenizer is None:
        return
    path = Path(workdir) / FILE
    try:
        if tokenizers.load(path).digest == experiment.tokenizer.digest:
            return
    except UserError:
        pass
    tokenizers.save(path, experiment.tokenizer)


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with the tokenizer of its workdir. Raises UserError as `kept`."""
    return _with(experiment, kept(experiment, workdir))


def with_made(experiment: Experiment, train: data.Source) -> Experiment:
    """The experiment with a new tokenizer. Raises UserError as `made`."""
    return _with(experiment, made(experiment, train))


def described(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What the manifest says of a run's tokenizer."""
    return {} if tokenizer is None else {"tokenizer": tokenizer.digest}


def _with(experiment: Experiment, tokenizer: Tokenizer | None) -> Experiment:
    return dataclasses.replace(experiment, tokenizer=tokenizer)
