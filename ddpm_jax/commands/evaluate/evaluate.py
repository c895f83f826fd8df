"""Measures of a trained model: its samples, its likelihood; as a table and as a file."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ddpm_jax import cli, sample_flags
from ddpm_jax.commands.evaluate import checks, exported_features, of_samples, subjects
from ddpm_jax.commands.evaluate.of_samples import SpaceFlags
from ddpm_jax.commands.evaluate.subjects import PipelineFlags
from ddpm_jax.commands.loading import load
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Loaded, described
from ddpm_jax.measures import (
    captioned,
    metric_table,
    model_metrics,
    results,
    sample_metrics,
)
from ddpm_jax.measures import clip_judge as judging
from ddpm_jax.measures.drawer import Judges
from ddpm_jax.reporting import plots

NUM_SAMPLES = 500
SAMPLES = "samples"  # the name of a result of these
CACHE = "cache"
# Of the command line; those of SpaceFlags and of what guides are grouped by `from_flags`.
SPACE = (
    "extractor",
    "inception_weights",
    "resize",
    "reference",
    "num_reference",
    "export_reference",
)
SAMPLING = (*sample_flags.SAMPLER, "options")
SCALES = {name: f"{name}s" for name in sample_flags.SCALES}  # flag: argument
OWN = (
    "workdir",
    "metrics",
    "num_samples",
    "repeats",
    "kid_subsets",
    "seed",
    "step",
    "ema",
    "raw_params",
    "name",
    "num_terms",
    "templates",
    "caption_style",
    "num_pairs",
    "captioner_workdir",
    "clip_judge",
    "data_dir",
    "code",
)
EXPORTED = ("sample_features", "reference_features")
NO_SPACE = SpaceFlags()  # of what no flag says
OF_PIPELINE = (*subjects.PIPELINE, *subjects.OF_DATA)
FLAGS = (*OWN, *SAMPLING, *SCALES, *SPACE, *sample_flags.GUIDES, *EXPORTED, *OF_PIPELINE)
# What is chosen among a run's checkpoints and samplers, or guides it: a pipeline has none of these.
OF_RUN = (
    "step",
    "ema",
    "raw_params",
    "classifier_scale",
    "clip_scale",
    *sample_flags.GUIDES,
    *(name for name in sample_flags.SAMPLER if name not in subjects.SAMPLING),
)


def evaluate(
    workdir: str | None,
    *,
    metrics: Sequence[str] | None = None,
    num_samples: int | None = None,
    repeats: int | None = None,
    guidance_scales: Sequence[str] = (),
    classifier_scales: Sequence[str] = (),
    clip_scales: Sequence[str] = (),
    guides: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    space: SpaceFlags = NO_SPACE,
    kid_subsets: int | None = None,
    seed: int = 0,
    step: int | str | None = None,
    ema: str | None = None,
    raw_params: bool = False,
    name: str = "",
    num_terms: int | None = None,
    templates: str | None = None,
    caption_style: str | None = None,
    num_pairs: int | None = None,
    captioner_workdir: str | None = None,
    clip_judge: str | None = None,
    data_dir: str | None = None,
    code: Sequence[str] = (),
    pipeline: PipelineFlags | None = None,
) -> dict[str, Any]:
    """Measure samples at each guidance scale, or the model itself; write DIR/eval/NAME.json.

    Samples and their features lie in DIR/eval/cache, and are not drawn again.

    Args:
      workdir: of the run; of a pipeline the folder of its results, None for its own.
      metrics: names in `metrics.METRICS`, or a user's own "package.module:name"; None for those of
        `checks.default_metrics`.
      num_samples: at each scale; None for 500.
      repeats: sets of so many samples, with the seeds seed, seed + 1, ...; None for one.
      guidance_scales, classifier_scales, clip_scales: as text; none: as `sample_metrics.settings`
        says. More than two settings are drawn as a figure, DIR/eval/NAME.png.
      guides: what `tasks.from_flags` takes of `sample_flags.GUIDES`.
      sampling: fields of config.sample that differ from the run's; None leaves one as it is.
      options: others, as text: "method=singlestep".
      space: for the metrics of distributions.
      kid_subsets: as in `distribution_metrics.measure`.
      seed, step, ema, raw_params: as in `experiment.load` and `Loaded.sample`.
      name: of the file; "" for "samples", or the section of a metric if no samples are measured.
      num_terms: of the discrete bound's sum, drawn at random; None for all.
      templates: a file of prompts for classes, a line each: "a {colour} {shape}".
      caption_style: the data's option `captions` in place of the run's, of the pairs.
      num_pairs: of images and captions; None for 256.
      captioner_workdir: the captioner's run that judges samples by its captions.
      clip_judge: the CLIP that judges samples by its embeddings, as of `clip_judge.read`.
      data_dir: where the run's data lie now; None for where they lay.
      code: modules that hold the runs' own parts, "package.module".
      pipeline: what is measured in place of a run, and the data.

    Returns:
      What the file holds: the protocol, the figures by guidance scale, the held-out data's own, and
      what each figure is; details of the model itself under its metrics' sections.

    Raises:
      UserError: for anything that is missing or does not fit; no result is written then.
    """
    began = time.monotonic()
    of_judges = {"captioner_workdir": captioner_workdir, "clip_judge": clip_judge}
    if pipeline is None:
        chosen = {"step": step, "ema": ema, "raw_params": raw_params, "data_dir": data_dir}
        subject = subjects.of_run(workdir, code, guides or {}, **chosen)
    else:
        subject = subjects.of_pipeline(pipeline, workdir, of_judges)
    names = subject.default_metrics() if metrics is None else metrics
    selected = metric_table.named(names, subject.metrics())
    of_model = [metric for metric in selected if metric.needs.of_model]
    drawn = [metric for metric in selected if not metric.needs.of_model]
    name = results.file_name(name or (SAMPLES if drawn else of_model[0].section))
    scales_of = {
        "guidance_scale": guidance_scales,
        "classifier_scale": classifier_scales,
        "clip_scale": clip_scales,
    }
    of_drawn = {
        "num_samples": num_samples,
        "repeats": repeats,
        **scales_of,
        "options": options,
        **(guides or {}),
        **(sampling or {}),
    }
    checks.check_used(selected, of_drawn)
    checks.check_space(selected, dataclasses.asdict(space) | {"kid_subsets": kid_subsets})
    flags = {
        "kid_subsets": kid_subsets,
        "num_terms": num_terms,
        "templates": templates,
        "caption_style": caption_style,
        "num_pairs": num_pairs,
        **of_judges,
    }
    if num_pairs is not None and num_pairs < 4:
        raise UserError(f"--num_pairs={num_pairs}: need at least 4")
    checks.check_flags(selected, flags)
    if seed + (repeats or 1) > 2**32:
        raise UserError(f"--seed={seed}, --repeats={repeats}: the last seed must be below 2**32")
    loaded = subject.load(sampling or {}, options)
    config = loaded.experiment.config
    checks.check_kind(loaded, selected)
    task = subject.task(loaded)
    checks.check_labels(loaded, selected, task)
    checks.check_clip(selected, task)
    judges = _judges(code, **of_judges)
    for metric in selected:
        if metric.check is not None:
            metric.check(metric.name, loaded, {**flags, **(guides or {}), **judges})
    folder = Path(subject.folder) / "eval"
    report: dict[str, Any] = {
        "format": results.FORMAT,
        "protocol": {
            "parameters": loaded.parameters,
            "seed": seed,
            "data": config.data.name,
            **metric_table.sources(selected),
        },
        "run": {**described(loaded), **results.step(loaded.step)},
        "samples": [],
        "held_out_data": {"metrics": {}},
        "figures": {},
    }
    scales: list[sample_metrics.Setting] = []
    if drawn:
        scales = sample_metrics.settings(scales_of, subject.scales(config), task)
        request = sample_metrics.Request(
            metrics=drawn,
            scales=scales,
            task=task,
            num_samples=num_samples or NUM_SAMPLES,
            seed=seed,
            repeats=repeats or 1,
            kid_subsets=kid_subsets,
            cache=folder / CACHE,
            pictures=lambda picture: folder / f"{name}_{picture}.png",
            judges=judges,
        )
        of_samples.measure(loaded, request, space, report)
    if any(sample_metrics.REAL in metric.needs.depends for metric in selected):
        report["protocol"][sample_metrics.REAL] = sample_metrics.real(loaded, selected)

    def beside(picture: str) -> Path:
        folder.mkdir(exist_ok=True)
        return folder / f"{name}_{picture}.png"

    for metric in of_model:
        model_metrics.add(report, cast(Loaded, loaded), metric, seed, flags, beside)
    results.write(folder / f"{name}.json", report, began)
    if len(scales) > 2:
        varied = sample_metrics.varied(scales)
        plots.trade_off(
            folder / f"{name}.png",
            varied,
            [{varied: row[varied], **results.values(row["metrics"])} for row in report["samples"]],
            results.values(report["held_out_data"]["metrics"]),
            sample_metrics.traded(report),
        )
    return report


def from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """`evaluate` as the command line asks for it: the values of FLAGS, by name."""
    if flags["sample_features"] or flags["reference_features"]:
        own = ("workdir", "metrics", "seed", "kid_subsets", "name")
        cli.refuse([f for f in FLAGS if f not in (*own, *EXPORTED)], "is not of exported features")
        return exported_features.evaluate(
            samples=flags["sample_features"],
            reference=flags["reference_features"],
            **{name: flags[name] for name in own},
        )
    pipeline = None
    if flags["pipeline"]:
        cli.refuse(OF_RUN, "applies only to a run (--workdir), not to --pipeline")
        asked = {name: flags[name] for name in (*OF_PIPELINE, "data_dir")}
        pipeline = PipelineFlags(**asked)
    else:
        cli.refuse(OF_PIPELINE, "applies only to --pipeline")
    return evaluate(
        **{name: flags[name] for name in OWN},
        pipeline=pipeline,
        **{argument: flags[flag] for flag, argument in SCALES.items()},
        guides={name: flags[name] for name in sample_flags.GUIDES},
        sampling={name: flags[name] for name in sample_flags.SAMPLER},
        options=flags["options"],
        space=SpaceFlags(**{name: flags[name] for name in SPACE}),
    )


def _judges(code: Sequence[str], captioner_workdir: str | None, clip_judge: str | None) -> Judges:
    """What judges samples by their prompts, by its entry in the protocol."""
    judges: dict[str, Any] = {}
    if captioner_workdir:
        judges[captioned.JUDGE] = load(captioner_workdir, code)
    if clip_judge:
        judges[judging.FLAG] = judging.read(clip_judge, functools.partial(load, modules=code))
    return judges


def table(report: dict[str, Any]) -> str:
    """The figures of a report as lines of Markdown tables."""
    parts = []
    if "sample_features" in report["run"]:
        return exported_features.table(report)
    if report["samples"]:
        parts.append(sample_metrics.table(report))
    names = dict.fromkeys(one["metric"] for one in report["figures"].values())
    for metric in metric_table.named([*names]):
        if metric.table is not None and metric.section in report:
            parts.append(metric.table(report[metric.section]))
    return "\n\n".join(parts)
