"""How a CLIP's images and texts find each other, and what its features tell, for `evaluate`."""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.build import datasets
from ddpm_jax.data import Source, captions_of, evenly_spaced, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import probes
from ddpm_jax.evaluation import retrieval as found
from ddpm_jax.measures import attributes, real_data, results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.reporting import plots
from ddpm_jax.runtime import files
from ddpm_jax.trained.embedding import LoadedClip

NUM_PAIRS = 256
NUM_IMAGES = 2000  # held-out ones at most, of zero-shot accuracy and of a probe's test
NUM_TRAINING = 5000  # images that a probe is fitted to, at most
CANDIDATES = 8  # examples looked at for each pair, to find captions that differ
SHOWN = 24  # pairs in the picture
MOST_CLASSES = 4096
TEMPLATES = ("a photo of a {}.",)
# Which images a figure of zero-shot accuracy is of.
OF_IMAGES = {
    "accuracy": "held-out",
    "one_object": "of one object",
    "unseen_pairs": "of pairs that no training image shows",
}
CLASS = ""  # the field of a template that stands for the class
_SEPARATORS = str.maketrans("_", " ")


def check_reads_text(metric: str, loaded: Any, flags: Mapping[str, Any]) -> None:
    """Raises UserError for a run that reads no text."""
    if not loaded.experiment.reads_text:
        raise UserError(
            f"--metrics={metric}: this run reads no text (config.objective.name="
            f"{loaded.experiment.config.objective.name}), so it has no texts to compare"
        )


def check_templates(metric: str, loaded: Any, flags: Mapping[str, Any]) -> None:
    """As `check_reads_text`, and whether the templates fit the data's classes."""
    check_reads_text(metric, loaded, flags)
    source = real_data.held_out(loaded, metric)
    _values(source, _fields(templates(flags.get("templates"))))


def find(of: OfModel) -> Details:
    """Recall at 1, 5 and 10 both ways among held-out pairs whose captions all differ."""
    loaded: LoadedClip = of.loaded
    source: Source = of.source
    if of.caption_style:
        c, own = loaded.experiment.config, loaded.experiment.own
        source = datasets.source(c, "validation", own, captions=of.caption_style)
    rows, captions = _different(source, of.num_pairs or NUM_PAIRS)
    images = loaded.embed_encoded(_encoded(loaded, source, rows))
    texts = loaded.embed_texts(captions)
    recall = found.retrieval(images, texts, seed=of.seed)
    figures = {
        f"{way}_at_{k}": results.of_interval(one)
        for way, by_k in (("texts", recall.texts), ("images", recall.images))
        for k, one in by_k.items()
    }
    content: dict[str, Any] = {
        "num": len(rows),
        "chance": {str(k): min(k / len(rows), 1.0) for k in found.KS},
        "figures": {name: one.record() for name, one in figures.items()},
    }
    if of.beside is not None:
        path = of.beside("similarity")
        few = slice(0, SHOWN)
        pictures = [source[k]["image"] for k in rows[few]]
        plots.similarity(path, images[few] @ texts[few].T, pictures, captions[few])
        content["picture"] = path.name
    protocol = {"num": len(rows), "fingerprint": fingerprint(source)}
    if of.caption_style:
        protocol["caption_style"] = of.caption_style
    return Details(content, figures, protocol)


def find_table(content: dict[str, Any]) -> str:
    """The recalls as a Markdown table."""
    lines = ["| k | texts of an image | images of a text | chance |", "| --- |" + " --- |" * 3]
    figures = content["figures"]
    for k, chance in content["chance"].items():
        both = [results.text(figures[f"{way}_at_{k}"]) for way in ("texts", "images")]
        lines.append(f"| {k} | {' | '.join(both)} | {chance:.3f} |")
    return "\n".join([*lines, "", f"{content['num']} held-out pairs, no two captions alike."])


def name_images(of: OfModel) -> Details:
    """The share of held-out images whose class's prompts are the nearest of all classes'."""
    loaded: LoadedClip = of.loaded
    lines = templates(of.templates)
    fields = _fields(lines)
    names = _values(of.source, fields)
    sizes = tuple(len(names[field]) for field in fields)
    classes = [*np.ndindex(sizes)]
    prompts = [
        _filled(line, {f: names[f][n] for f, n in zip(fields, one, strict=True)})
        for one in classes
        for line in lines
    ]
    embeds = found.class_embeds(loaded.embed_texts(prompts).reshape(len(classes), len(lines), -1))
    named = {"accuracy": of.source}
    alone = attributes.one_object_source(loaded)
    if alone is not None and {*attributes.PAIR} <= {*fields}:
        named["one_object"] = alone  # of two, either would be right, and one counts
        if attributes.held_out(loaded):
            named["unseen_pairs"] = attributes.held_out_source(loaded)
    figures, nums = {}, {}
    for name, source in named.items():
        rows, labels = _classified(source, fields, sizes)
        images = loaded.embed_encoded(_encoded(loaded, source, rows))
        share = found.zero_shot_accuracy(images, embeds, labels, seed=of.seed)
        figures[name], nums[name] = results.of_interval(share), len(rows)
    content = {
        "num": nums["accuracy"],
        "nums": nums,
        "classes": len(classes),
        "templates": lines,
        "figures": {name: one.record() for name, one in figures.items()},
    }
    protocol = {"templates": lines, "nums": nums, "fingerprint": fingerprint(of.source)}
    return Details(content, figures, protocol)


def _classified(
    source: Source, fields: Sequence[str], sizes: tuple[int, ...]
) -> tuple[list[int], np.ndarray]:
    """Rows of images that have every field's value, and the number of each one's class."""
    rows = evenly_spaced(source, NUM_IMAGES)
    own = np.array([[int(source[k][f or "label"]) for f in fields] for k in rows])
    has_all = np.all(own >= 0, axis=1)
    kept = [row for row, fits in zip(rows, has_all, strict=True) if fits]
    return kept, np.ravel_multi_index(tuple(own[has_all].T), sizes)


def name_table(content: dict[str, Any]) -> str:
    """The accuracy as a Markdown table."""
    return "\n".join(
        [
            "| images | classes | templates | zero-shot accuracy | chance |",
            "| --- |" + " --- |" * 4,
            *(
                f"| {content['nums'][name]:,} {OF_IMAGES[name]} | {content['classes']} | "
                f"{len(content['templates'])} | {results.text(share)} | "
                f"{1 / content['classes']:.3f} |"
                for name, share in content["figures"].items()
            ),
        ]
    )


def probe(of: OfModel) -> Details:
    """Accuracy of a linear classifier on the images' features, fitted to training images.

    Of the labels where the data have classes, and of each attribute with names.
    """
    loaded: LoadedClip = of.loaded
    train = real_data.train(loaded)
    sides = {"train": (train, NUM_TRAINING), "test": (of.source, NUM_IMAGES)}
    features: dict[str, np.ndarray] = {}
    targets: dict[str, dict[str, np.ndarray]] = {}
    wanted = _targets(train)
    if not wanted:
        raise ValueError("these data have neither classes nor named attributes to be read")
    for side, (source, most) in sides.items():
        rows = evenly_spaced(source, most)
        features[side] = loaded.features(_encoded(loaded, source, rows))
        examples = [source[k] for k in rows]
        targets[side] = {
            name: np.array([int(one[field]) for one in examples]) for name, field in wanted.items()
        }
    figures = {}
    for name in wanted:
        if len(np.unique(targets["train"][name][targets["train"][name] >= 0])) < 2:
            continue  # of data that show one value alone
        share = probes.accuracy(
            features["train"], targets["train"][name], features["test"], targets["test"][name]
        )
        figures[name] = results.share(share.value, share.num)
    content = {
        "num": len(features["test"]),
        "fitted_to": len(features["train"]),
        "figures": {name: one.record() for name, one in figures.items()},
    }
    protocol = {"fitted_to": len(features["train"]), "num": len(features["test"])}
    return Details(content, figures, protocol)


def probe_table(content: dict[str, Any]) -> str:
    """The accuracies as a Markdown table."""
    lines = ["| read from the features | accuracy |", "| --- | --- |"]
    lines += [f"| {name} | {results.text(one)} |" for name, one in content["figures"].items()]
    return "\n".join(
        [*lines, "", f"{content['num']} held-out images; fitted to {content['fitted_to']}."]
    )


def templates(path: str | None) -> list[str]:
    """The lines of a file of prompt templates; without one, CLIP's own.

    Raises:
      UserError: for a file that cannot be read, or a template without a field {}.
    """
    if path is None:
        return [*TEMPLATES]
    try:
        text = files.read_bytes(Path(path).expanduser(), 2**20).decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"--templates={path}: cannot be read ({reason})") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(
            f"--templates={path}: holds no template; write one a line, 'a photo of {{}}'"
        )
    return lines


def _fields(lines: Sequence[str]) -> list[str]:
    """The fields that the templates have, "" for the class. Raises UserError if they differ."""
    every = []
    for line in lines:
        try:
            parsed = [*string.Formatter().parse(line)]
        except ValueError as error:
            raise UserError(f"--templates: {line!r} is no template ({error})") from error
        fields = sorted({name for _, name, _, _ in parsed if name is not None})
        if not fields or any(spec or change for _, _, spec, change in parsed):
            raise UserError(
                f"--templates: {line!r} needs fields such as {{}} or {{colour}}, and no formats"
            )
        every.append(fields)
    if any(fields != every[0] for fields in every):
        raise UserError("--templates: all lines must have the same fields")
    return every[0]


def _values(source: Source, fields: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The names of each field's values. Raises UserError for a field that the data do not know."""
    known = {CLASS: source.info.class_names, **source.info.attributes}
    num = 1
    for field in fields:
        if not known.get(field):
            names = ", ".join(f"{{{name}}}" for name, of in known.items() if of) or "none"
            raise UserError(
                f"--templates: the data know no names for {{{field}}}; they have {names}"
            )
        num *= len(known[field])
    if num > MOST_CLASSES:
        raise UserError(f"--templates: {num:,} classes; at most {MOST_CLASSES:,} are compared")
    return {field: tuple(known[field]) for field in fields}


def _filled(line: str, values: Mapping[str, str]) -> str:
    parts = []
    for text, name, _, _ in string.Formatter().parse(line):
        parts.append(text)
        if name is not None:
            parts.append(values[name].translate(_SEPARATORS))
    return "".join(parts)


def _targets(source: Source) -> dict[str, str]:
    """What a probe reads, by name, with the field of an example that tells it."""
    labels = {"label": "label"} if source.info.num_classes > 1 else {}
    return labels | {name: name for name, names in source.info.attributes.items() if names[1:]}


def _different(source: Source, num: int) -> tuple[list[int], list[str]]:
    """The rows of at most `num` examples whose captions all differ, evenly spaced; and these."""
    seen: dict[str, int] = {}
    rows = evenly_spaced(source, num * CANDIDATES)
    for row, caption in zip(rows, captions_of(source, num * CANDIDATES), strict=True):
        seen.setdefault(caption, row)
    captions = [*seen]
    count = min(num, len(captions))
    kept = [captions[k * len(captions) // count] for k in range(count)]
    return [seen[caption] for caption in kept], kept


def _encoded(loaded: LoadedClip, source: Source, rows: Sequence[int]) -> np.ndarray:
    images = np.stack([source[k]["image"] for k in rows])
    return loaded.experiment.codec.encode(images, source.info.levels)
