"""What is measured by its samples: a run's model, or a pipeline of another library."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.config.own_code import Own
from ddpm_jax.data import Source
from ddpm_jax.trained.drawing import Drawing
from ddpm_jax.trained.program import NO_TASK
from ddpm_jax.trained.tasks import Task


class KindOfDrawer(Protocol):
    """What metrics must know of a kind, as of `build.kinds.Kind`."""

    @property
    def one(self) -> str: ...

    @property
    def measures(self) -> tuple[str, ...]: ...

    @property
    def trained_on_data(self) -> bool: ...


class Described(Protocol):
    """What a drawer is compared with and how it draws, as of `build.experiment.Experiment`."""

    @property
    def config(self) -> ConfigDict: ...

    @property
    def own(self) -> Own: ...

    @property
    def kind(self) -> KindOfDrawer: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def source(self, split: str) -> Source: ...


class Drawer(Protocol):
    """What draws samples, as `trained.loaded.Loaded` does."""

    @property
    def experiment(self) -> Described: ...

    @property
    def parameters(self) -> str: ...

    @property
    def step(self) -> int | None: ...

    def drawing(
        self,
        num: int,
        *,
        prompts: Sequence[str] = (),
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> Drawing: ...

    def labels(
        self, num: int, requested: Sequence[int | str] = (), task: Task = NO_TASK
    ) -> np.ndarray: ...

    def nfe(self, *, task: Task = NO_TASK, **options: Any) -> int | None: ...


# What judges samples by prompts, by the name of its entry in a result's protocol.
Judges = Mapping[str, Any]
