"""The kinds of runs: all that the rest of the package knows of one, in one record each.

`config.kind` names a row. Nothing else asks what kind a run is. The record holds data and functions
of this room and of those below it; what the rooms above do with a kind stands in their own literal
tables, by the names that it gives them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import (
    autoencoding,
    captioning,
    coding,
    conditioning,
    contrasting,
    gan,
    image_embeddings,
    language,
    networks,
    noised_contrasting,
    noised_inputs,
    objectives,
    prior,
    translating,
    upsampling,
)
from ddpm_jax.build.from_noise import FromNoise
from ddpm_jax.build.tower_options import Options
from ddpm_jax.codecs import Codec
from ddpm_jax.config import defaults
from ddpm_jax.config.own_code import Own
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.training import step
from ddpm_jax.training.objectives.base import Wrap
from ddpm_jax.training.players import Players


@dataclasses.dataclass(frozen=True)
class Kind:
    """What must be known of a kind of run.

    Attributes:
      noun: what a run of it is called: "diffusion model".
      config: the default config, with the groups and fields that it has and no others.
      network: (config, own parts) -> the network. Raises UserError for what does not fit.
      objective: (config, network, schedule, own parts) -> what is minimised; a schedule of None is
        learned by the network.
      face: what `experiment.load` gives, a name of `trained.load.FACES`.
      measures: what metrics of it are measured on, members of `measures.metric.Needs`.
      watches: what looks at it while it trains besides its loss, methods of `measures.watch.Watch`;
        config.train.NAME_every is the period of each.
      place: where it can stand beside another model: as "weaker", "classifier" or "clip" of a
        `Task`, as the "prior" of unCLIP, as the "captioner" of samples; None for nowhere.
      reads_text: config -> whether its batches have "text", the tokens of captions.
      no_images: why it draws no images, or config -> why; "" for a kind that draws them.
      next: config -> the command to run after training, with {workdir} for the run's.
      codec: (config, own parts) -> what is between images and x_0.
      initial: (config, own parts, network, key) -> the network's parameters before training.
      towers: (config, network) -> the options of its towers, by the name of their parameters, for a
        run that begins with another's.
      several: whether several players move the parameters of a run with this config.
      players: (config, network, own parts, what stands around every objective) -> them; None for a
        kind that never has several.
      draws: how it draws images, a name of `trained.program.DRAWS`.
      from_noise: (config, network) -> the pass that makes an image of noise, for draws="one_pass".
      embeds: whether other runs can have its embeddings, as `config.data.clip`.
      has_clip: config -> whether it has those of another run.
      trained_on_data: whether it was trained on the data of its config; a pipeline that is brought
        along was not.
      reads_states: whether it reads what that CLIP's text tower makes of each token.
      fits_components: config -> whether the components of training embeddings are part of a run.
      embedded: (config, objective, the CLIP's network) -> the objective of batches that this CLIP
        embeds, for a kind that has one.
    """

    noun: str
    config: Callable[[], ConfigDict]
    network: Callable[[ConfigDict, Own], Any]
    objective: Callable[[ConfigDict, Any, Schedule | None, Own], step.Objective]
    face: str
    measures: tuple[str, ...]
    next: Callable[[ConfigDict], str]
    watches: tuple[str, ...] = ()
    place: str | None = None
    reads_text: Callable[[ConfigDict], bool] = lambda config: False
    no_images: str | Callable[[ConfigDict], str] = ""
    codec: Callable[[ConfigDict, Own], Codec] = coding.modelled
    initial: Callable[[ConfigDict, Own, Any, jax.Array], Any] = networks.initial_params
    towers: Callable[[ConfigDict, Any], dict[str, Options]] = lambda config, network: {}
    several: Callable[[ConfigDict], bool] = lambda config: False
    players: Callable[[ConfigDict, Any, Own, Wrap], Players] | None = None
    draws: str = "diffusion"
    from_noise: Callable[[ConfigDict, Any], FromNoise] | None = None
    embeds: bool = False
    has_clip: Callable[[ConfigDict], bool] = lambda config: False
    trained_on_data: bool = True
    reads_states: bool = False
    fits_components: Callable[[ConfigDict], bool] = lambda config: False
    embedded: Callable[[ConfigDict, Any, Any], step.Objective] = image_embeddings.objective

    @property
    def one(self) -> str:
        """A run of it, with the article: "a diffusion model", "an autoencoder"."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def watched(self, config: ConfigDict) -> tuple[str, ...]:
        """Its `watches` for a run with this config: none of one that draws no images."""
        return () if self.why_no_images(config) else self.watches

    def why_no_images(self, config: ConfigDict) -> str:
        """Why a run of it with this config draws no images; "" for one that draws them."""
        return self.no_images if isinstance(self.no_images, str) else self.no_images(config)


DRAW = "--num_samples=100 --out=samples.npz"

KINDS: dict[str, Kind] = {
    "denoiser": Kind(
        noun="diffusion model",
        config=defaults.denoiser,
        network=networks.denoiser,
        objective=objectives.denoising,
        face="denoiser",
        measures=(
            "FEATURES",
            "LOGITS",
            "PIXELS",
            "LABELS",
            "ATTRIBUTES",
            "CAPTIONS",
            "CAPTIONED",
            "CLIP_SCORED",
            "VARIATIONS",
            "LIKELIHOOD",
            "DRAWING",
        ),
        watches=("sample", "evaluate"),
        reads_text=conditioning.reads_text,
        place="weaker",
        towers=networks.towers,
        next=lambda config: f"sample {upsampling.next_command(config)} {DRAW}",
        has_clip=image_embeddings.told,
    ),
    "classifier": Kind(
        noun="classifier",
        config=defaults.classifier,
        network=networks.classifier,
        objective=noised_inputs.classification,
        face="classifier",
        measures=("CLASSIFIER",),
        place="classifier",
        no_images="draw from a diffusion model and name the classifier's run with "
        "--classifier_workdir",
        next=lambda config: f"sample --workdir=MODEL --classifier_workdir={{workdir}} {DRAW}",
    ),
    "clip": Kind(
        noun="CLIP",
        config=defaults.clip,
        network=contrasting.network,
        initial=contrasting.initial_params,
        objective=contrasting.objective,
        face="clip",
        measures=("PAIRS", "CLASSES", "PROBE"),
        reads_text=contrasting.reads_text,
        place="clip",
        towers=contrasting.towers,
        no_images="it compares images with texts: evaluate.py --workdir=DIR, or "
        "experiment.load(DIR).similarity",
        next=lambda config: "evaluate --workdir={workdir}",
        embeds=True,
    ),
    "noised_clip": Kind(
        noun="noised CLIP",
        config=defaults.noised_clip,
        network=noised_contrasting.network,
        initial=noised_contrasting.initial_params,
        objective=noised_contrasting.objective,
        face="noised_clip",
        measures=("PAIRS", "CLASSES", "PROBE"),
        reads_text=contrasting.reads_text,
        place="clip",
        no_images="draw from a diffusion model and name the CLIP's run with --clip_workdir and a "
        "--prompt",
        next=lambda config: "sample --workdir=MODEL --clip_workdir={workdir} --prompt=TEXT " + DRAW,
    ),
    "language": Kind(
        noun="language model",
        config=defaults.language,
        network=language.network,
        objective=language.objective,
        face="language",
        measures=("FEATURES", "LOGITS", "PIXELS", "LABELS", "TOKENS", "DRAWING"),
        watches=("sample", "evaluate"),
        reads_text=language.reads_text,
        no_images=language.no_images,
        next=lambda config: (
            "evaluate --workdir={workdir}"
            if language.no_images(config)
            else f"sample --workdir={{workdir}} {DRAW}"
        ),
        codec=coding.quantised,
        initial=language.initial_params,
        draws="tokens",
    ),
    "prior": Kind(
        noun="prior",
        config=defaults.prior,
        network=prior.network,
        initial=prior.initial_params,
        objective=prior.objective,
        face="prior",
        measures=("PRIOR",),
        reads_text=prior.reads_text,
        no_images="draw from a model that is told its embeddings and name the prior's run with "
        "--prior_workdir",
        next=lambda config: (
            'sample --prior_workdir={workdir} --workdir=DECODER --prompt="..." --out=samples.npz'
        ),
        place="prior",
        has_clip=prior.has_clip,
        reads_states=True,
        fits_components=prior.fits_components,
        embedded=prior.of_batches,
    ),
    "captioner": Kind(
        noun="captioner",
        config=defaults.captioner,
        network=captioning.network,
        initial=captioning.initial_params,
        objective=captioning.objective,
        face="captioner",
        measures=("IMAGE_CAPTIONS", "TRUE_CAPTIONS"),
        place="captioner",
        reads_text=lambda config: True,
        towers=contrasting.towers,
        no_images="it says what an image shows: experiment.load(DIR).captions(images)",
        next=lambda config: "evaluate --workdir={workdir}",
    ),
    "autoencoder": Kind(
        noun="autoencoder",
        config=defaults.autoencoder,
        network=autoencoding.network,
        initial=autoencoding.initial_params,
        objective=autoencoding.objective,
        several=autoencoding.several,
        players=autoencoding.players,
        face="autoencoder",
        measures=(
            "FEATURES",
            "LOGITS",
            "PIXELS",
            "LABELS",
            "RECONSTRUCTED",
            "RECONSTRUCTIONS",
            "LATENT_BOUND",
            "DRAWING",
        ),
        watches=("sample", "evaluate"),
        no_images=autoencoding.no_images,
        draws="one_pass",
        from_noise=autoencoding.from_noise,
        next=lambda config: "evaluate --workdir={workdir}",
    ),
    "gan": Kind(
        noun="GAN",
        config=defaults.gan,
        network=gan.network,
        initial=gan.initial_params,
        objective=gan.objective,
        several=lambda config: True,
        players=gan.players,
        face="from_noise",
        measures=("FEATURES", "LOGITS", "PIXELS", "LABELS", "DRAWING"),
        watches=("sample", "evaluate"),
        draws="one_pass",
        from_noise=gan.from_noise,
        next=lambda config: f"sample --workdir={{workdir}} {DRAW}",
    ),
    "translator": Kind(
        noun="translator",
        config=defaults.translator,
        network=translating.network,
        initial=translating.initial_params,
        objective=translating.objective,
        several=lambda config: True,
        players=translating.players,
        face="translator",
        measures=("TRANSLATIONS",),
        no_images="it makes images of one sort of images of another: "
        "experiment.load(DIR).translate(images, to=1)",
        next=lambda config: "evaluate --workdir={workdir}",
    ),
}
