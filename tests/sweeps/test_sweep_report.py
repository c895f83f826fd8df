"""A sweep's report from made-up results: what is counted, compared, refused and written."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import synthetic_sweeps
import tiny_runs
from scipy import stats

from ddpm_jax.commands.sweep import report as command
from ddpm_jax.errors import UserError
from ddpm_jax.sweeps import aggregates, results, tables, workdirs

RATES = (1e-4, 1e-3)
TWO_RATES = f'grid({{"optim.learning_rate": {RATES}}}, seeds(3))'
SAMPLED = (
    'evaluate = dict(metrics=("fid", "bpd"), num_samples=500, '
    "samplers=(dict(num_steps=10), dict(num_steps=50)))"
)


def rate(cell):
    return cell.values["optim.learning_rate"]


def figures(cell):
    """A rate of 1e-3 is better by 2, and by 0.1; noise by seed alone."""
    noise = np.random.default_rng(cell.seed).normal(size=2)
    better = rate(cell) == 1e-3
    own = np.random.default_rng([cell.seed, better]).normal() / 10
    return {
        "fid": 5 - 2 * better + noise[0] + own,
        "label_accuracy": 0.8 + 0.1 * better + noise[1] / 50,
        "spread": 0.7 + 0.2 * better + own / 50,
    }


@pytest.fixture
def made(tmp_path):
    """made(cells, figures, more) is a sweep of which every cell is done, and its folder."""

    def make(cells=TWO_RATES, found=figures, more=synthetic_sweeps.MEASURED, **options):
        sweep = synthetic_sweeps.sweep(tmp_path, cells, more)
        synthetic_sweeps.write(sweep, tmp_path / "w", found, **options)
        return sweep, tmp_path / "w"

    return make


def reported(sweep, workdir, baseline=None, allow=()):
    return aggregates.aggregate(results.read(sweep, workdir, allow), baseline)


def table(report, figure):
    return next(one for one in report.tables if one.figure == figure)


def test_every_figure_has_a_row_for_each_setting(made):
    sweep, workdir = made(validation=lambda cell: rate(cell) + cell.seed)
    report = reported(sweep, workdir)
    names = ["fid", "label_accuracy", "spread", "validation_loss", "nfe"]
    assert [one.figure for one in report.tables] == names
    for one in report.tables:
        assert [row.setting for row in one.rows] == ["learning_rate=0.0001", "learning_rate=0.001"]
        assert all(row.summary.n == 3 and not row.flags for row in one.rows)
    values = [figures(cell)["fid"] for cell in sweep.cells if rate(cell) == 1e-3]
    row = table(report, "fid").rows[1]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert row.summary.interval[:3] == pytest.approx((np.mean(values), low, high), rel=1e-9)
    assert table(report, "validation_loss").rows[0].seeds == {k: 1e-4 + k for k in range(3)}
    assert {row.summary.mean for row in table(report, "nfe").rows} == {50.0}


def test_cells_that_are_not_done_are_left_out_and_counted(made):
    late = "learning_rate=0.001"
    sweep, workdir = made(
        found=lambda cell: None if cell.seed and cell.setting == late else figures(cell)
    )
    report = reported(sweep, workdir)
    assert report.counts == "Cells done: 4 of 6; settings: 2; seeds: 3."
    assert [row.summary.n for row in table(report, "fid").rows] == [3, 1]
    assert table(report, "fid").rows[1].flags == ["n < 3"]
    text = tables.markdown(report)
    assert "Not done, and left out: seed=1-" in text
    assert "fewer than 3 seeds" in text


def test_words_are_those_of_scipys_paired_test(made):
    sweep, workdir = made()
    report = reported(sweep, workdir, "learning_rate=0.0001")
    for figure, word in (("fid", "better"), ("spread", "better")):
        base, row = table(report, figure).rows
        assert base.word == "baseline"
        values = [np.array([*one.seeds.values()]) for one in (row, base)]
        if figure == "spread":
            values = [np.abs(one - 1) for one in values]
        assert row.p == pytest.approx(stats.ttest_rel(*values).pvalue, rel=1e-9)
        assert row.difference.value == pytest.approx(np.mean(values[0] - values[1]))
        assert row.word == word
    assert not any(row.word for row in table(report, "nfe").rows)


def test_the_file_names_the_baseline_or_the_flag_does(made):
    more = f'{synthetic_sweeps.MEASURED}\nbaseline = {{"optim.learning_rate": 1e-3}}'
    sweep, workdir = made(more=more)
    assert reported(sweep, workdir).baseline == "learning_rate=0.001"
    for name in ("learning_rate=0.0001", sweep.cells[1].name):
        assert reported(sweep, workdir, name).baseline == "learning_rate=0.0001"
    with pytest.raises(UserError, match=r"--baseline=nobody is no cell; settings: learning_rate"):
        reported(sweep, workdir, "nobody")


def test_what_is_undefined_is_counted_and_is_never_the_best(made):
    def found(cell):
        diverged = rate(cell) == 1e-3 and cell.seed == 0
        return figures(cell) | ({"fid": None} if diverged else {})

    report = reported(*made(found=found))
    row = table(report, "fid").rows[1]
    assert (row.undefined, row.flags) == (1, ["n < 3", "1 undefined"])
    assert table(report, "fid").best is None  # of one that is left
    assert table(report, "label_accuracy").best.setting == "learning_rate=0.001"


def test_the_best_is_told_with_how_many_were_compared(made):
    cells = 'grid({"optim.learning_rate": (1e-5, 1e-4, 1e-3)}, seeds(6))'
    sweep, workdir = made(cells)
    best = table(reported(sweep, workdir), "fid").best
    assert (best.setting, best.num, best.optimism.n) == ("learning_rate=0.001", 3, 6)
    text = tables.markdown(reported(sweep, workdir))
    assert "Best of 3 settings compared: learning_rate=0.001. Chosen by half of 6 seeds" in text
    assert "| bootstrap low |" in text


def test_figures_of_a_training_are_compared_once_however_it_is_sampled(made):
    def found(cell):
        sampled = {"fid": figures(cell)["fid"] + 1 / cell.values["sample.num_steps"]}
        return sampled | {"bpd_ode": 4 - (rate(cell) == 1e-3) + cell.seed / 10}

    sweep, workdir = made(found=found, more=SAMPLED, validation=rate)
    report = reported(sweep, workdir, "learning_rate=0.0001,sample.num_steps=10")
    assert table(report, "fid").best.num == 4
    for figure in ("bpd_ode", "validation_loss"):
        one = table(report, figure)
        assert one.best.num == 2
        assert [row.word for row in one.rows[:2]] == ["baseline", "baseline"]
        assert len({row.p for row in one.rows[2:]}) == 1
    # Two trainings are one comparison: nothing to correct for.
    row = table(report, "bpd_ode").rows[2]
    assert row.p == row.difference.p


def test_held_out_losses_of_different_kinds_are_no_figures(made):
    cells = 'grid({"diffusion.prediction": ("eps", "v")}, seeds(2))'
    sweep, workdir = made(cells, lambda cell: {"fid": 1.0 + cell.seed}, validation=lambda _: 1.0)
    report = reported(sweep, workdir)
    assert [one.figure for one in report.tables] == ["fid", "nfe"]
    assert "cells differ in diffusion.prediction" in tables.markdown(report)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_samples", 400),
        ("seed", 1),
        ("extractor", {"name": "inception"}),
        ("sampling", {"sampler": "ddim", "num_steps": 20}),
        ("sampling", {"sampler": "heun", "num_steps": 50}),
    ],
)
def test_unlike_protocols_are_refused_naming_cells_and_field(made, field, value):
    odd = "seed=2"
    sweep, workdir = made(protocol=lambda cell: {field: value} if odd in cell.name else {})
    with pytest.raises(UserError, match="were not measured alike: ") as error:
        reported(sweep, workdir)
    assert sweep.cells[0].name in str(error.value)
    assert odd in str(error.value)
    assert f": {field}" in str(error.value)
    assert reported(sweep, workdir, allow=[field]).tables


def test_sampling_may_differ_as_the_sweep_varies_it_and_not_otherwise(made):
    cells = 'grid(seeds(2), {"sample.num_steps": (10, 50)})'
    sweep, workdir = made(cells, lambda cell: {"fid": 1.0})
    assert reported(sweep, workdir).tables
    # Two cells of one setting that were sampled in different numbers of steps.
    path = workdirs.result(workdir, sweep.cells[2])
    content = json.loads(path.read_text())
    content["protocol"]["sampling"]["num_steps"] = 50
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"not measured alike: sampling\.num_steps: 10 and 50"):
        reported(sweep, workdir)


def test_nothing_done_and_a_metric_of_another_kind_are_refused(made):
    sweep, workdir = made(found=lambda cell: None)
    with pytest.raises(UserError, match="none of 6 cells is done"):
        reported(sweep, workdir)
    sweep, workdir = made(more='evaluate = dict(metrics=("accuracy",))')
    with pytest.raises(UserError, match="--metrics=accuracy: this run is a diffusion model"):
        reported(sweep, workdir)


def test_a_result_that_cannot_be_read_is_named(made):
    sweep, workdir = made()
    path = workdirs.result(workdir, sweep.cells[3])
    path.write_text("{")
    with pytest.raises(UserError, match=f"{path.name}: cannot be compared"):
        reported(sweep, workdir)


def test_a_result_of_an_earlier_step_than_the_last_is_refused(made):
    sweep, workdir = made()
    cell = sweep.cells[2]
    final = workdirs.folder(workdir, cell.training) / "final.json"
    final.write_text(json.dumps({"step": 300, "state_sha256": "other"}))
    with pytest.raises(UserError, match=r"measured step 100, .* trained on to step 300 since"):
        results.read(sweep, workdir)


def test_two_folders_of_one_sweep_have_the_same_files_byte_by_byte(made, tmp_path):
    sweep, workdir = made(validation=rate)
    shutil.copytree(workdir, tmp_path / "elsewhere")
    for place in (workdir, tmp_path / "elsewhere"):
        command.write(sweep, place)
    for name in command.FILES:
        text = (workdir / name).read_bytes()
        assert text == (tmp_path / "elsewhere" / name).read_bytes()
        assert str(tmp_path).encode() not in text


def test_csv_and_json_hold_the_numbers_in_full(made):
    sweep, workdir = made()
    report = reported(sweep, workdir, "learning_rate=0.0001")
    rows = [*csv.DictReader(io.StringIO(tables.csv_text(report)))]
    assert [*rows[0]][:7] == ["metric", "setting", "n", "mean", "std", "low", "high"]
    row = next(r for r in rows if r["metric"] == "fid" and r["word"] == "better")
    own = table(report, "fid").rows[1]
    assert float(row["mean"]) == own.summary.mean
    assert float(row["difference_high"]) == own.difference.high
    assert float(row["optim.learning_rate"]) == 1e-3
    content = json.loads(json.dumps(tables.record(report), allow_nan=False))
    first = content["metrics"][0]
    assert (first["metric"], first["better"]) == ("fid", "lower")
    assert first["settings"][1]["seeds"]["2"] == own.seeds[2]
    assert first["best"] == {
        "setting": "learning_rate=0.001", "of": 2, "ties": [], "optimism": None,
    }  # fmt: skip


def test_the_command_writes_four_files_and_prints_the_first(made):
    sweep, workdir = made(validation=rate)
    words = [f"--sweep={sweep.path}", f"--workdir={workdir}"]
    done = tiny_runs.in_process("sweep", "report", *words, "--baseline=learning_rate=0.001")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (workdir / "report.md").read_text()
    assert all((workdir / f"report.{end}").exists() for end in ("csv", "json", "html"))
    for more, said in (
        (["--baseline=nobody"], "--baseline=nobody is no cell"),
        (["--allow=seed", "status"], "--allow applies only to report"),
    ):
        action = [more.pop()] if "status" in more else ["report"]
        done = tiny_runs.in_process("sweep", *action, *words, *more)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
