"""One row says all of a metric: nothing else knows its name, and all that shows it reads it."""

import ast
import json
from pathlib import Path

import pytest

from ddpm_jax.commands.evaluate import compare, listing
from ddpm_jax.errors import UserError
from ddpm_jax.measures import metric_table
from ddpm_jax.measures.metric import HIGHER, LOWER, NEAR_ONE, Metric, Needs
from ddpm_jax.measures.results import Figure
from ddpm_jax.reporting.report import evaluations, labels, results

ROOT = Path(__file__).parents[2]
TABLE = "ddpm_jax/measures/metric_table.py"
NAMES = {*metric_table.METRICS, *metric_table.labels()}
# Words that are names of figures too, and are there for something else.
OTHERWISE = {
    "ddpm_jax/config/defaults.py": {"fid": "the value of a field"},
    "ddpm_jax/commands/benchmark/sections.py": {"prdc": "a function whose speed is measured"},
    "ddpm_jax/evaluation/classifier.py": {"accuracy": "kept with a classifier of features"},
    "ddpm_jax/evaluation/manifold.py": dict.fromkeys(
        ("precision", "recall", "density", "coverage"), "fields of what it returns"
    ),
    "ddpm_jax/build/networks.py": {"attributes": "a field of a network"},
    "ddpm_jax/interop/unet2d_config.py": {"attributes": "a field of a network"},
    "ddpm_jax/models/convolution.py": {"precision": "of products, an argument of jax's"},
    "ddpm_jax/measures/metric.py": {"attributes": "what some metrics need"},
    "ddpm_jax/measures/likelihood.py": {"density": "of pixels: a model of one, or of a lattice"},
    "ddpm_jax/measures/classification.py": {"accuracy": "a column of the section of a result"},
    "ddpm_jax/measures/embeddings.py": {"accuracy": "of zero-shot classification"},
    "ddpm_jax/measures/sample_metrics.py": {"held_out_pairs": "a field of the protocol"},
}


def words(path):
    """The texts that a file holds, but for what it says of itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("folder", ["ddpm_jax", "scripts"])
def test_a_metric_is_named_in_the_table_alone(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name != TABLE:
            assert NAMES & {*words(path)} == {*OTHERWISE.get(name, {})}, name


def test_every_row_is_whole():
    assert [*metric_table.METRICS] == [one.name for one in metric_table.METRICS.values()]
    every = [name for one in metric_table.METRICS.values() for name in one.labels()]
    assert len(every) == len({*every})  # no figure is two metrics'
    for one in metric_table.METRICS.values():
        assert one.better in (LOWER, HIGHER, NEAR_ONE, "")
        assert one.needs.depends
        assert (one.distance is None) or (one.better == LOWER and one.needs.space)
        assert one.figures or one.labels() == {
            one.name: labels.Label(one.label, one.better, one.needs.value, one.name, one.picture)
        }
    assert {n.value for n in Needs if n.of_model} == {*labels.OF_MODEL}


def test_every_picture_beside_a_result_says_what_is_seen():
    """Those that metrics of the model draw, by their calls, and those of samples, by their rows."""
    drawn = {
        ast.literal_eval(node.args[0])
        for path in (ROOT / "ddpm_jax" / "measures").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "of.beside"
    }
    drawn |= {one.picture for one in metric_table.METRICS.values() if one.picture}
    assert drawn - {"nearest"} == {*metric_table.pictures()}


def test_what_a_metric_gives_has_the_names_of_its_row():
    one = Figure(1.0)
    plain, fid = metric_table.METRICS["spread"], metric_table.METRICS["fid"]
    assert plain.named(one) == plain.named(1) == {"spread": one}
    assert fid.named((one, None)) == {"fid": one}
    assert [*fid.named((one, one))] == ["fid", "fid_infinity"]
    assert [*plain.named({"": one, "shape": one})] == ["spread", "shape"]
    told = plain.labels(["spread", "shape"])["shape"]
    assert (told.label, told.better, told.metric) == ("shape", NEAR_ONE, "spread")


def test_a_record_that_lacks_what_it_needs_is_refused():
    for needs in (Needs.ATTRIBUTES, Needs.CLASSIFIER):
        with pytest.raises(ValueError, match=r"the metric mine .*has no"):
            Metric("mine", "mine", HIGHER, needs, len)


def test_the_list_names_every_metric_and_figure():
    table = listing.table()
    assert all(name in table for name in NAMES)
    assert "| fid | fid, fid_infinity | Fréchet distance | lower | features |" in table


def classifier(*shares, **protocol):
    """A result of a classifier, as it is written."""
    rows = [{"t": t, "accuracy": share} for t, share in zip((0.0, 0.5), shares, strict=True)]
    return {
        "format": 2,
        "protocol": {"seed": 0, "data": "digits", "real": {"validation": {"num": 360}}} | protocol,
        "run": {"checkpoint_step": 5},
        "samples": [],
        "held_out_data": {"metrics": {}},
        "accuracy": rows,
    }


def compared(folder, a, b, *allow):
    for name, content in (("a", a), ("b", b)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return compare.compare(folder / "a.json", folder / "b.json", allow)


def test_classifiers_are_compared_at_each_time(tmp_path):
    told = compared(tmp_path, classifier(0.9, 0.5), classifier(0.95, 0.25))
    assert "| accuracy, t 0 | 0.900 | 0.950 | 0.050 |" in told
    assert "| accuracy, t 0.5 | 0.500 | 0.250 | -0.250 |" in told
    other = classifier(0.9, 0.5, real={"validation": {"num": 300}})
    with pytest.raises(UserError, match=r"not measured alike: real.validation.num: 360 and 300"):
        compared(tmp_path, classifier(0.9, 0.5), other)
    # What samples are drawn by says nothing of a classifier.
    assert compared(tmp_path, classifier(0.9, 0.5), classifier(0.9, 0.5, sampling={"eta": 1}))


def of_own(digest, better="higher"):
    """A result of a metric that a user wrote."""
    name = "mine.parts:sharpness"
    fields = {"label": "sharpness", "better": better, "needs": "pixels", "metric": name}
    return {
        "format": 2,
        "protocol": {"num_samples": 5, "code": {name: digest, "mine.parts:other": digest}},
        "run": {},
        "samples": [{"guidance_scale": 1.0, "metrics": {name: {"value": 2.0}}}],
        "held_out_data": {"metrics": {}},
        "figures": {name: fields},
    }


def test_own_metrics_of_other_sources_are_not_compared(tmp_path):
    assert "| mine.parts:sharpness |" in compared(tmp_path, of_own("1a"), of_own("1a"))
    with pytest.raises(UserError, match=r"alike: code.mine.parts:sharpness: 1a and 2b; evaluate"):
        compared(tmp_path, of_own("1a"), of_own("2b"))


def test_a_result_says_what_its_own_figures_are():
    one = evaluations.parse("a", of_own("1a"), metric_table.labels())
    assert results.titled("mine.parts:sharpness", one.labels) == "mine.parts:sharpness ↑"
    # A file cannot say of a known figure that it is another.
    lie = of_own("1a") | {"figures": {"fid": {"label": "x", "better": "higher"}}}
    assert evaluations.parse("a", lie, metric_table.labels()).labels["fid"].better == LOWER
    for odd in (3, [1], {"a": 3}, {"a": {"label": 7, "more": "x"}}):
        evaluations.parse("a", of_own("1a") | {"figures": odd}, metric_table.labels())
