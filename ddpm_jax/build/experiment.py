"""From a config to the parts of an experiment."""

# Over 300 lines: one record, whose methods place and compile its parts on its mesh.

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, SingleDeviceSharding
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build import (
    averages,
    class_names,
    coding,
    conditioning,
    datasets,
    networks,
    starting_weights,
)
from ddpm_jax.build.kinds import Kind
from ddpm_jax.build.starting_weights import StartingWeights
from ddpm_jax.build.tower_options import Options
from ddpm_jax.codecs import Codec
from ddpm_jax.config.own_code import Own
from ddpm_jax.data.captions import STATES, TEXT, EncodeTexts
from ddpm_jax.data.text_states import TextStates
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.models import learned_schedule
from ddpm_jax.runtime import compiling, processes, sharding
from ddpm_jax.training import guard, inspection, plans, players, state, step
from ddpm_jax.training.dispatched import Dispatched
from ddpm_jax.training.gradients import Trees
from ddpm_jax.training.objectives.base import Objective
from ddpm_jax.training.parts import Parts
from ddpm_jax.training.players import Players
from ddpm_jax.training.strict import Strict

# What may be replaced in an experiment, by `dataclasses.replace`.
PARTS = ("model", "schedule", "learning_rate", "optimizer", "objective", "players")


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What a config describes, built; pure functions and records, no weights, no data read.

    Attributes:
      config: the resolved config.
      kind: its kind of run.
      own: the user's own parts, by "package.module:name".
      model: the network.
      schedule: the forward process; None if it is learned (`schedule_of`), or there is none.
      learning_rate, optimizer: optax's.
      objective: (params, batch, key, train, extra) -> Outcome.
      mesh: the devices.
      image_shape: (H, W, C).
      codec: between images and x_0, which has its shape.
      players: several, which then move instead of one of `objective` and `optimizer`; `objective`
        is what validation measures.
      tokenizer: of its captions, for a kind that reads text; None until its run begins or is
        loaded (`build.texts`).
      text_states: what a frozen tower makes of the captions of its data, which batches then hold
        (`build.text_cache`); None where the step runs the tower.
      frozen: trees of parameters that objectives need by name, such as another run's.
      clip: the CLIP whose embeddings it has, for a kind that has one (`build.clips`); its
        parameters are among `frozen`.
      latents: the autoencoder whose latents it has, for a run of latents (`build.latents`); its
        parameters are among `frozen`.
      built: PARTS as built from the config, and that config; `changed` reports what was changed
        since.
      programs: compiled programs that sample it, by what shapes them (`trained.program`); they are
        shared by copies with other fields.
    """

    config: ConfigDict
    kind: Kind
    own: Own
    model: networks.NetworkModule
    schedule: schedules.Schedule | None
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation
    objective: Objective
    mesh: Mesh
    image_shape: tuple[int, int, int]
    codec: Codec
    players: Players = dataclasses.field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    text_states: TextStates | None = None
    frozen: Trees = dataclasses.field(default_factory=dict)
    clip: Any = None
    latents: Any = None
    built: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def changed(self) -> dict[str, Any]:
        """Those of PARTS that are not what the config says: replaced in Python.

        Raises:
          UserError: where the config itself was changed after it was built.
        """
        if self.built and self.built["config"] != self.config.to_dict():
            raise UserError(
                "the experiment's config was changed after it was built, and its parts were not: "
                "change the config first, build(config), and replace parts in what that gives"
            )
        parts = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in parts.items() if self.built.get(name) is not part}

    @property
    def batch_codec(self) -> Codec:
        """The codec by which batches are read: of a run of latents that of pixels."""
        return coding.scaled(self.config, self.own) if self.latents is not None else self.codec

    @property
    def platform(self) -> str:
        """Of the mesh's devices: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def reads_text(self) -> bool:
        """Whether its batches have "text"."""
        return self.kind.reads_text(self.config)

    @functools.cached_property
    def encode_texts(self) -> EncodeTexts | None:
        """From a batch's captions to its "text", int32 [B, L]; None where none is read.

        With `text_states` to arrays by name.

        Raises:
          UserError: without a tokenizer.
        """
        if not self.reads_text:
            return None
        if self.tokenizer is None:
            raise UserError(
                "this experiment reads text and has no tokenizer yet: train it, load it from its "
                "workdir, or give it one, dataclasses.replace(experiment, tokenizer=...)"
            )
        encode = data.encode_texts(self.tokenizer, self.config.data.context)
        return encode if self.text_states is None else self.text_states.beside(encode)

    @property
    def towers(self) -> dict[str, Options]:
        """The options of its network's towers, by the names of their parameters."""
        return self.kind.towers(self.config, self.model)

    @property
    def spike(self) -> guard.Spike | None:
        """What counts as a spike; None for nothing."""
        optim = self.config.optim
        if optim.spike_sigma is None:
            return None
        options = {} if optim.spike_window is None else {"window": optim.spike_window}
        return guard.Spike(optim.spike_sigma, **options)

    def init_params(self, key: jax.Array) -> Any:
        """The network's initial parameters."""
        return self.kind.initial(self.config, self.own, self.model, key)

    def starting_weights(self) -> StartingWeights | None:
        """The weights of config.train.init_from, read anew; None where it names none.

        Raises:
          UserError: as `starting_weights.read`.
        """
        train = self.config.train
        if not train.init_from:
            return None
        like = self.state_shapes().params
        return starting_weights.read(
            train.init_from, like, strict=train.init_strict, towers=self.towers
        )

    def init_state(self, weights: StartingWeights | None = None) -> state.TrainState:
        """The state at step 0, placed on the mesh, a pure function of config.seed and the weights.

        Args:
          weights: that were read already; None for those of config.train.init_from.

        Raises:
          UserError: as `starting_weights`.
        """
        weights = weights or self.starting_weights()
        places, given = self.state_sharding(), (weights.params,) if weights else ()
        if self.config.mesh.strict:
            # By one device: a program of several may round otherwise.
            alone = SingleDeviceSharding(self.mesh.local_devices[0])
            whole = jax.jit(self._init_state, out_shardings=alone)(*given)
            return jax.tree.map(processes.placed, whole, places)
        return jax.jit(self._init_state, out_shardings=places)(*given)

    def state_shapes(self) -> state.TrainState:
        """The state's shapes, dtypes and shardings, without computing it."""
        shapes = jax.eval_shape(self._init_state)
        return jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            shapes,
            self.state_sharding(),
        )

    def state_sharding(self) -> state.TrainState:
        """The sharding of each of the state's leaves."""
        return sharding.state_sharding(self.mesh, jax.eval_shape(self._init_state))

    @property
    def parts(self) -> Parts:
        """In how many parts a step is shown its batch; a strict step's are its shards.

        Raises:
          UserError: for an objective that was put in place in Python and needs its batch whole.
        """
        count, strict = self.config.train.accumulate, self.config.mesh.strict
        field, off = ("mesh.strict=True", False) if strict else (f"train.accumulate={count}", 1)
        objectives = self._objectives()
        if strict and any(one.halves is not None for one in objectives):
            raise UserError(
                "config.mesh.strict=True: this run's objective compares the rows of its batch with "
                "each other, which no shard shows; set False"
            )
        if (strict or count > 1) and any(one.remember is None for one in objectives):
            raise UserError(
                f"config.{field}: this run's objective needs its batch whole, since it has no "
                f"Objective.remember; set {off}"
            )
        return Parts(self.config.mesh.strict_shards) if strict else Parts(count, self.mesh)

    def _objectives(self) -> list[Objective]:
        return [player.objective for player in self.players.values()] or [self.objective]

    def train_step(self) -> Any:
        """The (state, batch) -> (state, metrics), with `lower`; the state is donated.

        It is one jitted function, but for config.mesh.strict, and for config.train.accumulate on
        CPUs, whose loops are slow.

        Raises:
          UserError: as `parts`; for parameters that config.optim.frozen names, and a part replaced
            in Python.
        """
        self._check_frozen()
        ema, parts = self.config.ema, self.parts
        options: dict[str, Any] = {
            "ema_decay": ema.decay,
            "ema_warmup": ema.warmup,
            "averages": averages.shares(self.config),
            "spike": self.spike,
        }
        if self.players:
            plan = players.make_plan(self.players, **options)
        else:
            plan = step.make_plan(self.objective, self.optimizer, self.learning_rate, **options)
        states, batch = self.state_sharding(), sharding.batch_sharding(self.mesh)
        if self.config.mesh.strict:
            return Strict(plan, parts.count, self.mesh, states, self.placed_frozen())
        # Rows that are compared with each other go by twice, which is one program's own affair.
        whole = any(objective.halves is not None for objective in self._objectives())
        if parts.count > 1 and self.platform == "cpu" and not whole:
            return Dispatched(plan, parts, states, self.placed_frozen())
        pure = plans.in_one_program(plan, parts)
        out = (states, sharding.replicated(self.mesh))
        return self._with_frozen(pure, (states, batch), out, donate_argnums=0)

    def validation_step(self) -> Any:
        """The jitted (params, batch with "mask", key) -> loss sums and counts by quarter of t."""
        pure = step.make_validation_step(self.objective)
        places = (None, sharding.batch_sharding(self.mesh), None)
        return self._with_frozen(pure, places, sharding.replicated(self.mesh))

    def inspection(self) -> Any:
        """The jitted (state, batch) -> what the step of that state would see, by example.

        Raises:
          UserError: for several players, whose draws and parameters are each their own; as `parts`.
        """
        if self.players:
            raise UserError(
                f"--replay_step: this run has the players {', '.join(self.players)}, and a step is "
                "looked at example by example for one alone"
            )
        pure = inspection.make_inspection(self.objective, self.parts)
        places = (self.state_sharding(), sharding.batch_sharding(self.mesh))
        return self._with_frozen(pure, places, sharding.replicated(self.mesh))

    def _with_frozen(self, pure: Callable[..., Any], places: Any, out: Any, **options: Any) -> Any:
        """The jitted function; frozen trees, if there are any, are its last argument, handed in."""
        if not self.frozen:
            return compiling.jit(pure, in_shardings=places, out_shardings=out, **options)
        trees = self.placed_frozen()
        where = jax.tree.map(lambda leaf: leaf.sharding, trees)
        compiled = compiling.jit(pure, in_shardings=(*places, where), out_shardings=out, **options)
        return _Bound(compiled, trees)

    def placed_frozen(self) -> Trees:
        """The frozen trees on the mesh."""
        trees = dict(self.frozen)
        return jax.device_put(trees, sharding.state_sharding(self.mesh, trees))

    def check_loss(self) -> None:
        """Trace the objective once, without computing it.

        Raises:
          UserError: for a loss that is not [B].
          ValueError: as the loss does.
        """
        losses, shapes = inspection.loss_to_trace(
            self.objective, self.state_shapes(), self.batch_shapes(), self.frozen, rows=2
        )
        shape = jax.eval_shape(losses, *shapes).shape
        if shape != (2,):
            raise UserError(
                f"config.diffusion.loss={self.config.diffusion.get('loss')}: need a loss for each "
                f"example, [B]; for a batch of 2 it returned shape {shape}"
            )

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a training batch, placed on the mesh."""
        size = self.config.data.batch_size
        text: dict[str, tuple[tuple[int, ...], Any]] = {}
        if self.reads_text:
            text[TEXT] = ((self.config.data.context,), jnp.int32)
        if self.text_states is not None:
            text[STATES] = (self.text_states.shape, jnp.float32)
        place, codec, shape = sharding.batch_sharding(self.mesh), self.batch_codec, self.codec.shape
        if not self.config.data.get("cache_latents"):
            shape = codec.shape
        else:  # mean and deviation of each latent
            shape = (*shape[:-1], 2 * shape[-1])
        return {
            "x0": jax.ShapeDtypeStruct((size, *shape), codec.dtype, sharding=place),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32, sharding=place),
            **{
                name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=place)
                for name, (shape, dtype) in (
                    conditioning.shapes(self.config, self.own) | text
                ).items()
            },
        }

    def schedule_of(self, params: Any) -> schedules.Schedule:
        """The forward process under these parameters: the fixed one, or the one they learned."""
        return learned_schedule.schedule_of(params) if self.schedule is None else self.schedule

    def source(self, split: str) -> data.Source:
        """The data of "train" or "validation"; reads them. Raises UserError if they do not fit."""
        c = self.config.data
        source = datasets.source(self.config, split, self.own)
        class_names.check(self.config, source.info)
        classes = self.config.model.get("num_classes", 0)
        if classes > source.info.num_classes:
            raise UserError(
                f"config.model.num_classes={classes}, but {c.name} has labels of "
                f"{source.info.num_classes} classes: set it to that (0 trains without labels)"
            )
        if 0 < classes < source.info.num_classes:
            raise UserError(
                f"config.model.num_classes={classes}, but the labels of {c.name} go up to "
                f"{source.info.num_classes - 1}: set it to {source.info.num_classes}"
            )
        return source

    def _check_frozen(self) -> None:
        """What is frozen is held by the objective and the optimiser that `build` made."""
        frozen = self.config.optim.frozen
        for name in ("objective", "optimizer", "players") if frozen and self.built else ():
            if getattr(self, name) is not self.built[name]:
                raise UserError(
                    f"config.optim.frozen={frozen}: does not reach the {name} that was replaced in "
                    "Python; set (), and freeze there by what training/freezing.py has"
                )

    def _init_state(self, weights: Any = None) -> state.TrainState:
        seed, init_params = self.config.seed, starting_weights.over(self.init_params, weights)
        kept: dict[str, Any] = {"spike": self.spike, "averages": [*averages.shares(self.config)]}
        if self.players:
            return players.init_state(init_params, self.players, seed, **kept)
        init_extra = self.objective.init_extra
        return state.init_state(init_params, self.optimizer, seed, init_extra, **kept)


class _Bound:
    """A jitted function whose last argument is there already."""

    def __init__(self, compiled: jax.stages.Wrapped, last: Any):
        self._compiled = compiled
        self._last = last

    def __call__(self, *args: Any) -> Any:
        return self._compiled(*args, self._last)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        return self._compiled.lower(*args, self._last)


@contextlib.contextmanager
def fields_of(group: str) -> Iterator[None]:
    """A context in which library errors about values become the user's, with the config's group."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"config.{group}: {error}") from error
