"""What a run keeps beside its checkpoints: its tokenizer, and networks of others."""

from pathlib import Path

from ddpm_jax.build import clips, coding, latents, perceptual, texts
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

# The manifest of a run, and how large it may be: it has a line for each checkpoint.
MANIFEST, LIMIT = "manifest.json", 2**26

# Of the trees that a run has frozen, those that come from its config: the field that names them.
TREES = {
    clips.CLIP: "data.clip",
    clips.COMPONENTS: "data.clip",
    latents.TREE: "data.codec",
    perceptual.LOOKS: "objective.perceptual",
}


def keep(experiment: Experiment, workdir: str | Path) -> None:
    """Write what a run keeps, where it is not there already.

    Raises:
      UserError: where it cannot be written.
    """
    clips.keep(experiment, workdir)
    latents.keep(experiment, workdir)
    perceptual.keep(experiment, workdir)


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with what its run keeps.

    Raises:
      UserError: where any of it is gone or damaged.
    """
    experiment = perceptual.with_kept(clips.with_kept(experiment, workdir), workdir)
    if not coding.has_latents(experiment.config):
        return experiment
    return latents.with_kept(experiment, workdir)


def check(experiment: Experiment, workdir: str | Path) -> None:
    """What the run keeps is what its manifest says that it was trained with, where one says so.

    Args:
      experiment: with what the run keeps.
      workdir: of the run.

    Raises:
      UserError: for a file that another one has replaced.
    """
    try:
        last = files.read_json(Path(workdir) / MANIFEST, LIMIT)["attempts"][-1]
        known = {texts.FILE: last["data"].get("tokenizer")}
        trees = last.get("frozen", {})
        known |= {f"{name}.safetensors": trees.get(name) for name in (clips.CLIP, latents.TREE)}
    except config_files.BROKEN:  # no manifest, or a damaged one: nothing is known then
        return
    own = experiment.tokenizer, experiment.clip, experiment.latents
    for (file, digest), part in zip(known.items(), own, strict=True):
        if part is not None and digest not in (None, part.digest):
            raise UserError(
                f"{Path(workdir) / file} is not the one that the run was trained with (sha256 "
                f"{digest} by its manifest, {part.digest} here): put that file back"
            )
