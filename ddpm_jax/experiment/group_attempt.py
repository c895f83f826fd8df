"""One attempt at a group of runs: the steps of all in one program, and what is done for each."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ddpm_jax.build import replicas
from ddpm_jax.errors import Stuck, UserError
from ddpm_jax.experiment.attempt import periodic_actions, prefetched, training_batches
from ddpm_jax.experiment.compiled_step import CompiledStep
from ddpm_jax.experiment.member import Member
from ddpm_jax.experiment.profiling import Profile
from ddpm_jax.experiment.run_data import RunData
from ddpm_jax.experiment.skipped import SkippedSteps
from ddpm_jax.measures import model_flop, speed
from ddpm_jax.measures.training_evaluation import TrainingEvaluation
from ddpm_jax.measures.watch import Watch
from ddpm_jax.reporting.progress import MemberProgress, Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime import sharding, user_cache
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.training import loop, replicated
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.watchdog import Watchdog


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """What looks at a member while it trains."""

    progress: MemberProgress
    skipped: SkippedSteps
    metrics: loop.Action
    periodic: Sequence[loop.Action]
    save: Callable[[int, TrainState], None]


class GroupAttempt:
    """The training of a group, of members that differ in their seed and in `replicas.TRACED`.

    Args:
      members: all of them, in the order of the group.
      data: what they see, each in its own order.
      progress: of the group.
      start, num_steps: as of `loop.train`.
      ledger: where their seconds go.
      profiled: the steps that are traced.
      forecast: as of `Attempt`.
    """

    def __init__(
        self,
        members: Sequence[Member],
        data: RunData,
        progress: Progress,
        start: int,
        num_steps: int,
        ledger: Ledger,
        profiled: range,
        forecast: Callable[[CompiledStep], loop.Action],
    ):
        self._members = members
        self._ledger, self._profiled, self._forecast = ledger, profiled, forecast
        self._experiment = members[0].experiment
        self._progress = progress
        self._start, self._num_steps = start, num_steps
        self._batches = [training_batches(m.experiment, data.train) for m in members]
        self._member_of = replicated.make_member_of(self._experiment.state_sharding())
        self._pending: tuple[int, loop.Metrics] | None = None
        self._validation = data.validation
        self._writers = contextlib.ExitStack()
        self._seen = dict(self._watched())

    def run(
        self,
        states: TrainState,
        until: int | None,
        watchdog: Watchdog,
        asked_to_stop: Callable[[], bool],
    ) -> tuple[TrainState, int]:
        """Train up to `until`, or the end, and save each member that still moves.

        Returns:
          The states, and the number of steps that they have seen.

        Raises:
          UserError: where data could not be read, or a member not be saved.
        """
        experiment, num = self._experiment, len(self._members)
        place = replicated.members_sharding(experiment.mesh, num)
        compiled = replicas.group_step(experiment, num)
        numbers = replicas.placed(
            replicas.numbers([m.experiment.config for m in self._members]), experiment
        )
        active = jax.device_put(np.asarray([not m.left for m in self._members]), place)
        failures: list[UserError] = []
        last = self._num_steps
        step = CompiledStep(compiled, self._ledger)
        threads = experiment.config.data.num_threads
        read = [batches.iterate(self._start, num_threads=threads) for batches in self._batches]
        stream = prefetched(placed_together(read, place, failures), self._ledger)
        folder, say = self._members[0].workdir, self._progress.say
        trace = Profile(self._profiled, folder, self._ledger, say)
        self._ledger.become("train")
        with contextlib.closing(stream), self._writers, trace:
            states, reached = loop.train(
                states,
                trace.around(
                    lambda states, batch: step(states, batch, numbers, active), self._start
                ),
                stream,
                start=self._start,
                num_steps=last if until is None else min(last, max(until, self._start)),
                actions=[
                    self._look_later,
                    self._forecast(step),
                    self._act,
                    self._looked_after(watchdog),
                ],
                stop=lambda: asked_to_stop() or not self._moving(),
            )
            self._look(states)
        with self._ledger.phase("checkpoint"):
            self._save(states, reached, failures)
        if failures:
            raise UserError(f"{failures[0]} (reached step {reached:,}, to go on from there)")
        return states, reached

    def _save(self, states: TrainState, reached: int, failures: list[UserError]) -> None:
        """The last state of each member that still moves; what cannot be saved is a failure."""
        for k, _ in self._moving():
            self._seen[k].save(reached, self._member_of(states, k))
        for _, member in self._moving():
            try:
                member.checkpoints.wait()
            except Stuck:
                raise
            except UserError as error:
                failures.append(error)
            member.manifest.reached(reached, member.checkpoints.records())

    def member_state(self, states: TrainState, k: int) -> TrainState:
        """The state of member k."""
        return self._member_of(states, k)

    def _moving(self) -> list[tuple[int, Member]]:
        return [(k, m) for k, m in enumerate(self._members) if m.moves]

    def _watched(self) -> Iterator[tuple[int, _Seen]]:
        config = self._experiment.config.train
        validation_step, evaluation = self._experiment.validation_step(), None
        if config.get("evaluate_every"):
            with self._ledger.phase("evaluate"):
                evaluation = TrainingEvaluation(
                    self._experiment, user_cache.cache_dir() / "features"
                )
        flop = model_flop.of_step(self._experiment) if config.log_every else 0
        moving = self._moving()
        for k, member in moving:
            progress = MemberProgress(self._progress, member.workdir.name, k == moving[0][0])
            watch = Watch(
                member.experiment,
                self._validation,
                self._writers.enter_context(self._writer(member, progress)),
                progress,
                member.workdir,
                evaluation,
                validation_step,
            )
            save = functools.partial(watch.save, member.checkpoints)
            skipped = SkippedSteps(
                member.workdir,
                self._start,
                progress,
                self._batches[k].example_ids,
                config.max_skipped,
            )
            saves = save, member.manifest.follow(member.checkpoints)
            periodic = periodic_actions(
                member.experiment, watch, saves, self._ledger, self._num_steps
            )
            # Images and FLOP are a member's own; the devices' use is that of all.
            num = len(self._members)
            figures = speed.of(member.experiment, self._ledger, flop_per_step=flop, replicas=num)
            shown = watch.metrics(self._num_steps, self._start, figures)
            yield k, _Seen(progress, skipped, shown, periodic, save)

    def _writer(self, member: Member, progress: Progress) -> MetricWriter:
        config = member.experiment.config
        return MetricWriter(
            member.workdir, self._start, progress.say, config.train.writers, config.to_dict()
        )

    def _look_later(self, step: int, states: TrainState, metrics: loop.Metrics) -> None:
        """Looks at the step before, which is complete: the devices never wait for this."""
        self._look(states)
        self._pending = step, metrics
        self._progress.advance()

    def _look(self, states: TrainState) -> None:
        """Show the last step to what looks at each member; what is wrong with one freezes it."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = jax.device_get(metrics)
        for k, _ in self._moving():
            seen, one = self._seen[k], {name: value[k] for name, value in values.items()}
            seen.skipped.action(step, states, one)
            seen.skipped.look()
            seen.metrics(step, states, one)
            if seen.skipped.too_many:
                self._freeze(k, states)

    def _freeze(self, k: int, states: TrainState) -> None:
        """Keep a member whose state has not moved since it failed, in `replicated`, and go on."""
        member, seen = self._members[k], self._seen[k]
        state = self._member_of(states, k)
        step = int(state.step)
        member.failed = f"frozen at step {step:,}: {seen.skipped.too_many}"
        member.checkpoints.save(step, state)
        try:
            member.checkpoints.wait()
        except Stuck:
            raise
        except UserError as error:
            seen.progress.say(str(error))
        member.manifest.reached(step, member.checkpoints.records())
        member.manifest.end(2, how=f"UserError: {member.failed}")
        seen.progress.say(f"{member.failed}; the others go on")

    def _act(self, step: int, states: TrainState, metrics: loop.Metrics) -> None:
        """Validate, draw and save, where it is time, each member that moves."""
        config = self._experiment.config.train
        names = ("validate", "checkpoint", *self._experiment.kind.watched(self._experiment.config))
        periods = [config[f"{name}_every"] for name in names]
        periods.append(self._experiment.config.ema.snapshots_every)
        if step != self._num_steps and all(not period or step % period for period in periods):
            return
        self._look(states)
        for k, _ in self._moving():
            state = self._member_of(states, k)
            for action in self._seen[k].periodic:
                action(step, state, {})

    def _looked_after(self, watchdog: Watchdog) -> loop.Action:
        def action(step: int, states: TrainState, metrics: loop.Metrics) -> None:
            for k, member in self._moving():
                for line in member.checkpoints.complaints():
                    self._seen[k].progress.say(line)
            watchdog.tick()

        return action


def placed_together(
    batches: Sequence[Iterator[dict[str, np.ndarray]]], place: Any, failures: list[UserError]
) -> Iterator[Any]:
    """The batches of all members, stacked, on their devices; as `attempt.placed`."""
    try:
        for several in zip(*batches, strict=True):
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
            yield sharding.put_batch(stacked, place)
    except UserError as error:
        failures.append(error)
