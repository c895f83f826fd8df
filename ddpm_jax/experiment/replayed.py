"""A run trained again in this process, between any two of its steps, and one step looked into."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import kept, latent_cache, text_cache, texts
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files, own_code
from ddpm_jax.data import Batches
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt, drift, recorded
from ddpm_jax.experiment.lineage import Lineage
from ddpm_jax.measures.manifest import Entry, fingerprints, parts_of
from ddpm_jax.runtime import compiling, digests, leaves, processes, sharding
from ddpm_jax.trained.program import build
from ddpm_jax.training import inspection, loop
from ddpm_jax.training.state import TrainState, reseeded

# Fields that no state depends on, but for train.num_steps, which a decay is as long as, and for
# those that change the order of sums.
NEUTRAL = ("sample.", "train.", "ema.snapshots_every")
COUNTED = (drift.NUM_STEPS, *drift.ROUNDING)
# Nor does the compiled step on these.
OUTSIDE = (*NEUTRAL, "seed", "data.data_dir", "data.clip", "data.num_threads")
# The parts of a state in the order in which a step computes them, and what each is called.
PARTS = {
    "params": "parameter",
    "opt_state": "optimizer state",
    "ema": "moving average",
    "extra": "history",
    "key": "key",
}
# What comes first in its stage, in the order in which it is made; everything else follows by name.
FIRST = {
    "batch": ("x0", "label"),
    "draws": ("x0", "low_resolution", "t", "weight", "eps", "drop"),
    "loss": ("per_example", "total"),
}

Stages = dict[str, dict[str, np.ndarray]]


class Seen(NamedTuple):
    """One step of a run.

    Attributes:
      stages: {stage: {tensor: array}} in the order of computation.
      after: the state after it, on the host.
      skipped: whether the guard refused it.
      examples: the places of its examples in the source.
    """

    stages: Stages
    after: TrainState
    skipped: bool
    examples: list[int]


class Programs:
    """What is compiled of an experiment; runs whose configs shape the same share it."""

    def __init__(self, experiment: Experiment):
        self.shapes = experiment.state_shapes()
        self.train_step = experiment.train_step()
        self.stages = compiling.jit(inspection.make_stages(experiment.objective, experiment.parts))
        self.frozen = experiment.placed_frozen()
        self.update = compiling.jit(inspection.make_update(experiment.optimizer))


@dataclasses.dataclass(frozen=True, eq=False)
class Stretch:
    """Steps of a run that were made with one config, from the step after `start` on.

    Attributes:
      start: the step that they begin with.
      config: resolved.
      experiment: what it describes.
      programs: compiled of it.
    """

    start: int
    config: ConfigDict
    experiment: Experiment
    programs: Programs

    @functools.cached_property
    def batches(self) -> Batches:
        """What it is trained on."""
        text_cache.check_alone(self.experiment, "bisect")
        latent_cache.check_alone(self.experiment, "bisect")
        return attempt.training_batches(self.experiment, self.experiment.source("train"))

    def placed(self, host: TrainState) -> TrainState:
        """A state of numpy arrays on the run's devices, with the run's key; the arrays stay."""
        # Copies: on the CPU a step could write into what it was given.
        fields = jax.tree.map(np.array, host._asdict())
        places = jax.tree.map(lambda leaf: leaf.sharding, self.programs.shapes._asdict())
        fields = jax.tree.map(processes.placed, fields, places)
        key = jax.random.wrap_key_data(fields["key"])
        return reseeded(TrainState(**fields | {"key": key}), self.config.seed)

    def train(self, host: TrainState, start: int, stop: int) -> TrainState:
        """The state on the host after step `stop`, from that after step `start`."""
        failures: list[UserError] = []
        read = self.batches.iterate(start, num_threads=self.config.data.num_threads)
        stream = attempt.placed(read, self.experiment, failures)
        state, _ = loop.train(
            self.placed(host), self.programs.train_step, stream, start=start, num_steps=stop
        )
        if failures:
            raise failures[0]
        return digests.on_host(state)

    def look(self, host: TrainState, step: int) -> Seen:
        """A step, from the state on the host before it."""
        batch = self.batches.batch_at(step - 1)
        on_devices = sharding.put_batch(batch, sharding.batch_sharding(self.experiment.mesh))
        state = self.placed(host)
        stages = self.programs.stages(state, on_devices, self.programs.frozen)
        updates = digests.on_host(self.programs.update(state, stages["gradient"]))
        stages = digests.on_host(stages)
        after, metrics = self.programs.train_step(state, on_devices)
        after = digests.on_host(after)
        ordered = {
            "batch": _ordered("batch", batch),
            **{name: _ordered(name, stages[name]) for name in ("draws", "loss")},
            "gradient": leaves.named(stages["gradient"]),
            "update": leaves.named(updates),
            **parts(after),
        }
        examples = self.batches.example_ids(step - 1)
        return Seen(ordered, after, bool(metrics["skipped"]), examples)


class Replayed:
    """A run that is trained again by the configs on record, with the present code and data.

    Args:
      flag: that names the run, for errors.
      run: on record.
      steps: (start, stop), of which every step after `start` up to `stop` may be replayed.
      here: what surrounds this process, `environment.describe()`.
      programs: those compiled so far, by the part of the config that shapes them; it grows.
      code: modules that hold the run's own parts, "package.module".

    Attributes:
      surroundings: a line for each thing that is not here what it was when the run was made.

    Raises:
      UserError: for parts that came from Python or were not handed over, a config that this
        version does not know, data that are not there, or devices that are too few.
    """

    def __init__(
        self,
        flag: str,
        run: Lineage,
        steps: tuple[int, int],
        here: Entry,
        programs: dict[str, Programs],
        code: Sequence[str] = (),
    ):
        self.flag, self.run = flag, run
        self.surroundings: list[str] = []
        self._stretches: list[Stretch] = []
        for entry in run.between(*steps):
            config, filled = recorded.config_of(entry, run.manifest)
            self._refuse_changed(entry)
            if not self._stretches or not _same_numbers(self._stretches[-1].config, config):
                with self._named():
                    self._stretches.append(_stretch(run, entry["start"], config, programs, code))
            with self._named():
                self.surroundings += [*filled, *_around(entry, self._stretches[-1], here)]

    def shapes(self) -> TrainState:
        """The state's shapes and where its leaves belong."""
        return self._stretches[0].programs.shapes

    def initial(self) -> TrainState:
        """The state at step 0, on the host."""
        experiment = self._stretches[0].experiment
        with self._named():
            weights = recorded.weights_of(experiment, self.run.attempts, self.run.manifest)
            return digests.on_host(experiment.init_state(weights))

    def train(self, host: TrainState, start: int, stop: int) -> TrainState:
        """The state on the host after step `stop`, from that after step `start`."""
        for stretch, begin, end in self._between(start, stop):
            with self._named():
                host = stretch.train(host, begin, end)
        return host

    def look(self, host: TrainState, step: int) -> Seen:
        """A step, from the state on the host before it."""
        ((stretch, _, _),) = self._between(step - 1, step)
        with self._named():
            return stretch.look(host, step)

    def _between(self, start: int, stop: int) -> Iterator[tuple[Stretch, int, int]]:
        ends = [*(stretch.start for stretch in self._stretches[1:]), stop]
        for stretch, end in zip(self._stretches, ends, strict=True):
            begin, end = max(start, stretch.start), min(stop, end)
            if begin < end:
                yield stretch, begin, end

    def _refuse_changed(self, entry: Entry) -> None:
        trees = [name for name in entry["frozen"] if name not in kept.TREES]
        if changed := [*entry["changed_in_python"], *trees]:
            raise UserError(
                f"--{self.flag}={self.run.workdir}: {', '.join(changed)} of this run came from "
                "Python and not from its config, which therefore cannot repeat it: compare runs "
                "that train.py made"
            )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """A context whose UserErrors begin with the run that they are of."""
        try:
            yield
        except UserError as error:
            raise UserError(f"--{self.flag}={self.run.workdir}: {error}") from error


def parts(host: TrainState) -> Stages:
    """The parts of a state on the host, as the last stages of the step that made it."""
    return {called: leaves.named(getattr(host, field)) for field, called in PARTS.items()}


def _stretch(
    run: Lineage, start: int, config: ConfigDict, programs: dict[str, Programs], code: Sequence[str]
) -> Stretch:
    """The steps after `start`; what is compiled is taken from `programs`, or added."""
    own = own_code.from_modules(code, config_files.own_names(config).values())
    experiment = kept.with_kept(build(config, own=own), run.workdir)
    fields = {
        name: value
        for name, value in config_files.fields(config).items()
        if not name.startswith(OUTSIDE) or name in COUNTED
    }
    # A step has the networks of others in it, which one path may name and not be the same.
    shape = config_files.sha256([fields, parts_of(experiment)["frozen"]])
    if shape not in programs:
        programs[shape] = Programs(experiment)
    return Stretch(start, config, experiment, programs[shape])


def _ordered(stage: str, tree: Any) -> dict[str, np.ndarray]:
    first = FIRST[stage]
    named = leaves.named(tree)

    def place(name: str) -> tuple[int, str]:
        head = name.partition("/")[0]
        return (first.index(head) if head in first else len(first), name)

    return {name: named[name] for name in sorted(named, key=place)}


def _same_numbers(old: ConfigDict, new: ConfigDict) -> bool:
    """Whether two configs of one run train alike."""
    return all(
        name.startswith(NEUTRAL) and name not in COUNTED
        for name, *_ in config_files.differences(old, new)
    )


def _around(entry: Entry, stretch: Stretch, here: Entry) -> list[str]:
    """What is not as it was, beside the config."""
    experiment = stretch.experiment
    own_parts = parts_of(experiment)["own_parts"]
    here = {**here, **recorded.processes_of(experiment.mesh), "own_parts": own_parts}
    differing = recorded.differences(entry, here, "here", (*recorded.COMPARED, "own_parts"))
    lines = recorded.noted(differing, stretch.config)
    stored, now = entry["data"].get("train"), fingerprints(stretch.batches.source, None)["train"]
    if stored != now:
        lines.append(f"data.fingerprint: {stored} there, {now} here")
    known, own = entry["data"].get("tokenizer"), texts.described(experiment.tokenizer)
    if known != own.get("tokenizer"):
        lines.append(f"data.tokenizer: {known} there, {own.get('tokenizer')} here")
    return lines
