"""Which results may be compared: all that a figure depends on must agree, and nothing else."""

import contextlib
import copy
import json

import pytest

from ddpm_jax.commands.evaluate import compare
from ddpm_jax.errors import UserError

FID = {"value": 2.0, "low": 1.0, "high": 3.0}
BITS = {"bpd_ode": {"value": 4.0, "low": 3.9, "high": 4.1}, "spread": {"value": 1.0}}


def result(**metrics):
    """A result of samples at one scale, of every kind of figure."""
    return {
        "format": 2,
        "protocol": {
            "seed": 0, "parameters": "ema", "data": "digits",
            "num_samples": 500, "repeats": 1, "guides": {},
            "sampling": {"sampler": "ddim", "num_steps": 50},
            "extractor": {"name": "inception", "weights": "1a", "resize": "bicubic"},
            "reference": {"split": "train", "num": 1437, "fingerprint": "2b"},
            "metrics": {"kid": {"pairs": "all"}},
            "real": {"train": {"fingerprint": "3c"}},
            "likelihood": {"model_of": "density", "num_terms": None},
        },
        "run": {"checkpoint_step": 5, "checkpoint": "4d"},
        "samples": [{"guidance_scale": 1.0, "nfe": 50, "metrics": metrics or {"fid": FID}}],
        "held_out_data": {"metrics": BITS},
        "versions": {"jax": "0.10.2"},
    }  # fmt: skip


def changed(content, field, value):
    """A copy with another value of a field, "protocol.sampling.num_steps"; None: without it."""
    content = copy.deepcopy(content)
    *groups, name = field.split(".")
    inner = content
    for group in groups:
        inner = inner[int(group) if group.isdecimal() else group]
    inner[name] = value
    if value is None:
        del inner[name]
    return content


@pytest.fixture
def compared(tmp_path):
    def run(a, b, *allow):
        for name, content in (("a", a), ("b", b)):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return compare.compare(tmp_path / "a.json", tmp_path / "b.json", allow)

    return run


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("parameters", "raw"),
        ("data", "folder"),
        ("num_samples", 400),
        ("repeats", 3),
        ("sampling.num_steps", 20),
        ("guides", {"weaker": {"checkpoint": "5e"}}),
        ("extractor.weights", "6f"),
        ("extractor.resize", "bilinear_torch"),
        ("reference.fingerprint", "70"),
        ("reference.num", 1000),
        ("metrics.kid.pairs", "some"),
        ("real.train.fingerprint", "81"),
        ("likelihood.num_terms", 8),
        ("likelihood.model_of", "lattice"),
    ],
)
def test_each_field_that_a_figure_depends_on_is_refused(compared, field, value):
    a = result(fid=FID, kid=FID, spread={"value": 1.0})
    assert "| fid |" in compared(a, a)
    b = changed(a, f"protocol.{field}", value)
    with pytest.raises(UserError, match=f"not measured alike: {field}.*: .*--allow") as error:
        compared(a, b)
    assert ";" not in str(error.value).split("; evaluate")[0]  # that field alone
    assert "| fid |" in compared(a, b, field.split(".")[0])
    with pytest.raises(UserError, match="not measured alike"):
        compared(a, changed(a, f"protocol.{field}", None))


@pytest.mark.parametrize(
    ("own", "other", "field", "value"),
    [
        # The figure that both have, one more of the second, and what that one alone depends on.
        ("spread", "fid", "extractor", {"name": "pixels"}),
        ("spread", "fid", "reference", {"split": "validation"}),
        ("fid", "spread", "real", {"train": {"fingerprint": "92"}}),
        ("is", "fid", "reference", {"split": "validation"}),
        ("spread", "fid", "metrics", None),
    ],
)
def test_what_only_other_figures_depend_on_may_differ(compared, own, other, field, value):
    a = changed(result(**{own: FID}), "held_out_data.metrics", {})
    b = changed(result(**{own: FID, other: FID}), "held_out_data.metrics", {})
    told = compared(a, changed(b, f"protocol.{field}", value))
    assert f"| {own} |" in told
    assert f"| {other} |" not in told
    # Where both have both, it counts.
    both = changed(result(**{own: FID, other: FID}), "held_out_data.metrics", {})
    with pytest.raises(UserError, match=f"not measured alike: {field}"):
        compared(both, changed(b, f"protocol.{field}", value))


def test_bits_are_compared_whatever_was_drawn_beside_them(compared):
    a = changed(result(), "samples", [])
    for field in ("num_samples", "repeats", "sampling", "guides", "extractor", "real"):
        a = changed(a, f"protocol.{field}", None)
    told = compared(a, result())
    assert "| bpd_ode | 4.000 (3.900 to 4.100) |" in told
    assert "spread" not in told


def test_single_rows_of_other_settings_are_refused_unless_allowed(compared):
    b = changed(result(), "samples.0.guidance_scale", 2.0)
    with pytest.raises(UserError, match=r"not measured alike: guidance_scale: 1.0 and 2.0;"):
        compared(result(), b)
    told = compared(result(), b, "guidance_scale")
    assert "| guidance_scale 1 and guidance_scale 2 | A | B | B - A |" in told


def test_numbers_of_evaluations_must_agree_where_the_sampling_is_the_same(compared):
    b = changed(result(), "samples.0.nfe", 1000)
    with pytest.raises(UserError, match="not measured alike: nfe: 50 and 1000;"):
        compared(result(), b)
    assert "nfe: 50 and 1000" in compared(result(), b, "nfe")
    # What is allowed to differ decides them.
    c = changed(b, "protocol.sampling.num_steps", 1000)
    assert "nfe: 50 and 1000" in compared(result(), c, "sampling.num_steps")


def test_several_rows_are_compared_by_their_settings(compared):
    rows = [result()["samples"][0] | {"guidance_scale": s} for s in (1.0, 2.0)]
    many = changed(result(), "samples", rows)
    told = compared(many, changed(result(), "samples", [*rows[1:], rows[1] | {"x": 3}]))
    assert "| guidance_scale 2 |" in told
    assert "| guidance_scale 1 |" not in told
    many = changed(many, "held_out_data.metrics", {})
    other = changed(many, "samples", [rows[0] | {"guidance_scale": 7.0}])
    with pytest.raises(UserError, match=r"no figure in common: their settings are .*_scale 7$"):
        compared(many, other)


def test_other_versions_are_told_and_not_refused(compared):
    assert "versions.jax: 0.10.2 and 0.11" in compared(
        result(), changed(result(), "versions.jax", "0.11")
    )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("samples.0.metrics.fid.value", "two", "is no number"),
        ("samples.0.metrics.fid.low", [1], "is no number"),
        ("samples.0.metrics.fid.value", 10**400, "is too large"),
        ("samples.0.metrics.fid.value", float("nan"), "NaN is no JSON"),
        ("samples.0.metrics", 3, "is no JSON object"),
        ("protocol", [], "protocol is no JSON object"),
        ("held_out_data.metrics.bpd_ode", [], "has no value|no number"),
    ],
)
def test_damaged_results_are_one_line(compared, field, value, words):
    with pytest.raises(UserError, match=f"b.json: cannot be compared .*({words})"):
        compared(result(), changed(result(), field, value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples.0.guidance_scale", "much"),
        ("samples.0.note", {"a": [1]}),
        ("protocol.metrics", [1]),
        ("versions", 3),
        ("run.checkpoint", None),
        ("protocol.sampling", 7),
    ],
)
def test_odd_fields_are_no_traceback(compared, field, value):
    odd = changed(result(), field, value)
    assert "| fid |" in compared(odd, odd)
    with contextlib.suppress(UserError):
        compared(result(), odd)


def test_undefined_figures_are_left_empty(compared):
    b = changed(result(), "samples.0.metrics.fid", {"value": None})
    assert "| fid | 2.000 (1.000 to 3.000) |  |  |" in compared(result(), b)
