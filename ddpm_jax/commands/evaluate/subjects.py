"""What `evaluate` measures: a run, or a pipeline with the data that it is compared with."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ddpm_jax.build.datasets import dataset
from ddpm_jax.commands.evaluate import checks
from ddpm_jax.commands.loading import load, own_parts
from ddpm_jax.commands.sample import pipeline_flags, sampling_options, task_flags
from ddpm_jax.config import own_code
from ddpm_jax.data import DATASETS
from ddpm_jax.errors import EmptySplit, UserError
from ddpm_jax.experiment import Task
from ddpm_jax.measures import metric_table
from ddpm_jax.measures.drawer import Drawer
from ddpm_jax.measures.metric import Needs
from ddpm_jax.measures.metric_table import METRICS
from ddpm_jax.measures.pipelines import KIND, LoadedPipeline, PipelineData

# Flags that only a pipeline takes; those of sample.py that it shares, and those of its data.
PIPELINE = ("pipeline", "pipeline_config", "size", "lora", "negative_prompt")
OF_DATA = ("dataset", "data_options")
# Of config.sample those that a pipeline takes.
SAMPLING = ("sampler", "num_steps", "batch_size")
# What the errors of data name, as flags.
_AS_FLAGS = {
    "config.data.name": "--dataset",
    "data.name": "--dataset",
    "data.data_dir": "--data_dir",
    "data.image_size": "--size",
    "data.options.": "--data_options=",
}


class Subject(NamedTuple):
    """What is measured, before it is read.

    Attributes:
      folder: where eval/NAME.json is written.
      metrics: what can be asked for, their names.
      default_metrics: what is measured if nothing else is asked for, their names.
      load: (fields of config.sample, --options) -> what draws. Raises UserError for what is missing
        or does not fit.
      task: of what draws what guides it besides.
      scales: of it the guidance scales, where none are asked for.
    """

    folder: str
    metrics: Callable[[], Sequence[str]]
    default_metrics: Callable[[], Sequence[str]]
    load: Callable[[Mapping[str, Any], Sequence[str]], Drawer]
    task: Callable[[Any], Task]
    scales: Callable[[ConfigDict], Sequence[float]]


@dataclasses.dataclass(frozen=True)
class PipelineFlags:
    """A pipeline and its data on the command line.

    Attributes:
      pipeline, pipeline_config, size, lora: as of `pipeline_flags`.
      negative_prompt: what every image is steered away from.
      dataset: the name of captioned data, as of config.data.name.
      data_dir: as of config.data.data_dir.
      data_options: of config.data.options, as text, name=value.
    """

    pipeline: str
    pipeline_config: str | None = None
    size: str | None = None
    lora: Sequence[str] = ()
    negative_prompt: Sequence[str] = ()
    dataset: str | None = None
    data_dir: str | None = None
    data_options: Sequence[str] = ()


def of_run(
    workdir: str | None,
    code: Sequence[str],
    guides: Mapping[str, Any],
    **options: Any,
) -> Subject:
    """A run, with what guides it; options as of `experiment.load`."""
    if not workdir:
        raise UserError("--workdir is missing: name the run to evaluate")
    own = own_parts(workdir, code)

    def loaded(fields: Mapping[str, Any], asked: Sequence[str]) -> Drawer:
        run = load(workdir, code, **options)
        run = run.sampling_with(**sampling_options.from_flags(fields, asked))
        checks.check_classes(run, workdir)
        return run

    return Subject(
        workdir,
        lambda: checks.metrics(workdir),
        lambda: checks.default_metrics(workdir, own),
        loaded,
        lambda run: task_flags.from_flags(run, workdir, **guides, code=code),
        # Beside guided samples those of the model as it is.
        lambda config: (config.sample.guidance_scale, 1.0),
    )


def of_pipeline(flags: PipelineFlags, workdir: str | None, judges: Mapping[str, Any]) -> Subject:
    """A pipeline, compared with captioned data.

    Args:
      flags: of the command line.
      workdir: the folder of its results; None for its own.
      judges: flags of what judges samples, None for what is not given: their metrics are measured
        by default.

    Raises:
      UserError: for data without captions, and a single file without a folder for results.
    """
    if not flags.dataset:
        captioned = ", ".join(name for name, row in DATASETS.items() if row.captions)
        raise UserError(
            "--dataset is missing: name the captioned data that a pipeline draws by and is "
            f"compared with, {captioned} or your own"
        )
    if not workdir and Path(flags.pipeline).is_file():
        raise UserError(
            f"--workdir is missing: --pipeline={flags.pipeline} is a file, and results are "
            "written to a folder; name one"
        )
    if len(flags.negative_prompt) > 1:
        raise UserError("--negative_prompt: one for all images, when they are measured")
    own = own_code.imported_all(
        {"data.name": flags.dataset} if own_code.is_own(flags.dataset) else {}
    )
    data = _data(flags)
    row = dataset(ConfigDict({"data": data}), own)
    if not row.captions:
        raise UserError(f"--dataset={flags.dataset}: it has no captions to draw by")

    # Whether samples show what their captions tell is known of data alone that say so.
    read = {Needs.CAPTIONS: row.agrees, Needs.CAPTIONED: row.follows}
    its = [n for n in metric_table.of_kind(KIND) if read.get(METRICS[n].needs, True)]

    def default_metrics() -> list[str]:
        agree = [Needs.CAPTIONS.name] if row.agrees else []
        names = [
            one.name
            for one in METRICS.values()
            if (one.default and one.needs.name in agree)
            or any(judges.get(flag) is not None for flag in one.flags)
        ]
        if not names:
            raise UserError(f"--metrics is missing: name some of {', '.join(its)}")
        return names

    def loaded(fields: Mapping[str, Any], asked: Sequence[str]) -> Drawer:
        settings = pipeline_flags.settings(fields, asked)
        size = pipeline_flags.size(flags.size)
        pipeline = pipeline_flags.load(
            flags.pipeline, pipeline_config=flags.pipeline_config, lora=flags.lora
        )
        size = size or pipeline.size
        negative = "".join(flags.negative_prompt)
        config = ConfigDict(
            {
                "data": {**data, "image_size": size},
                "model": {"conditions": ("text",), "num_classes": 0},
                "sample": {
                    "guidance_scale": pipeline.guidance_scale,
                    "sampler": None,
                    "num_steps": pipeline.num_steps,
                    "batch_size": jax.device_count(),
                    "size": size,
                    "negative_prompt": negative or None,
                    **settings,
                },
            }
        )
        compared = PipelineData(config, own, (*size, 3))
        with _in_words_of_flags(flags):
            compared.source("train")
            compared.source("validation")
        return LoadedPipeline(pipeline, compared, negative).checked()

    return Subject(
        workdir or flags.pipeline,
        lambda: its,
        default_metrics,
        loaded,
        lambda pipeline: Task(),
        lambda config: (config.sample.guidance_scale,),
    )


def _data(flags: PipelineFlags) -> dict[str, Any]:
    """The group "data" of a config, without the images' size."""
    try:
        options = sampling_options.from_flags({}, flags.data_options)
    except UserError as error:
        raise UserError(str(error).replace("--options", "--data_options")) from error
    return {
        "name": flags.dataset,
        "data_dir": flags.data_dir or "",
        "channels": 3,
        "options": options,
    }


@contextlib.contextmanager
def _in_words_of_flags(flags: PipelineFlags) -> Iterator[None]:
    """A context in which errors of data, which name fields, name the flags that set them."""
    try:
        yield
    except EmptySplit as error:
        raise UserError(
            f"--dataset={flags.dataset}: {error}; --data_options=holdout=0.1 holds some out"
        ) from error
    except UserError as error:
        line = str(error)
        for field, flag in _AS_FLAGS.items():
            line = line.replace(field, flag)
        raise UserError(line) from error
