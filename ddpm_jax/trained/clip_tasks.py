"""What a CLIP is told of the samples that it guides: a text of each image's own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import conditioning, contrasting
from ddpm_jax.build.conditioning import ConditionValue
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data.captions import TEXT
from ddpm_jax.errors import UserError
from ddpm_jax.trained.tasks import Task

# Of a task's arrays: rows of tokens, and which images have a text.
TOKENS, STEERED = "clip_tokens", "clip_steered"


def with_prompts(
    c: ConfigDict,
    task: Task,
    conditions: Mapping[str, ConditionValue] | None,
    prompts: Sequence[str],
) -> tuple[Task, dict[str, ConditionValue]]:
    """Prompts for whom they are: the CLIP that guides, the model if it reads text, or both.

    The CLIP's own, task.clip_prompts, stay where they are set; a text among the conditions is told
    to the CLIP too.

    Raises:
      UserError: for texts that are there twice.
    """
    told = conditioning.with_prompts(c, conditions, prompts)
    texts = _texts(told)
    if task.clip is None or len(task.clip_prompts) or not texts:
        return task, told
    if not conditioning.reads_text(c):
        del told[TEXT]
    return dataclasses.replace(task, clip_prompts=texts), told


def check(c: ConfigDict, task: Task) -> None:
    """A CLIP that guides has something to steer to. Raises UserError for one that has not."""
    if task.clip is None:
        if c.sample.clip_scale is not None:
            raise UserError(
                f"config.sample.clip_scale={c.sample.clip_scale}: no CLIP to scale; name its run "
                "too, or leave it unset"
            )
        if len(task.clip_prompts):
            raise UserError(
                f"clip_prompts={task.clip_prompts[0]}: no CLIP to tell them to; name its run too, "
                "or leave them out"
            )
        return
    if not any(map(_says, task.clip_prompts)):
        raise UserError(
            "clip: nothing to steer to: give it a prompt that is not empty, or leave the CLIP out"
        )


def arrays(
    experiment: Experiment, num: int, task: Task, conditions: Mapping[str, ConditionValue]
) -> dict[str, np.ndarray]:
    """What the program is told of a CLIP's texts, [num, ...], cycled; {} without a CLIP.

    The tokenizer says in one line what it cut off, unless it has said so of the model's own text.
    """
    if task.clip is None:
        return {}
    built, texts = task.clip.experiment, [*task.clip_prompts]
    rows: ConditionValue = texts
    same_context = built.config.data.context == experiment.config.data.get("context")
    if _texts(conditions) == texts and same_context:
        rows, _ = built.tokenizer.rows(texts, built.config.data.context)
    return {
        TOKENS: conditioning.text_rows(built.config, num, rows, built.tokenizer),
        STEERED: np.resize([*map(_says, texts)], num),
    }


def scale(c: ConfigDict) -> float:
    """How often a CLIP's gradient counts; once if config.sample does not say."""
    return 1.0 if c.sample.clip_scale is None else float(c.sample.clip_scale)


def factor(c: ConfigDict, task: Task) -> float:
    """What the products of the CLIP's embeddings count: `scale` times its own scale."""
    if task.clip is None:
        return 0.0
    own: Any = contrasting.logit_scale(task.clip.experiment.config, task.clip.params)
    return scale(c) * own


def _texts(conditions: Mapping[str, ConditionValue]) -> list[str]:
    """The text among some conditions; rows of tokens are none, but the model's own."""
    texts = conditions.get(TEXT, ())
    if isinstance(texts, np.ndarray):
        return []
    return [str(text) for text in ([texts] if isinstance(texts, str | int) else texts)]


def _says(text: str) -> bool:
    return bool(text.strip())
