"""A sweep whose cells begin with configs of several kinds, and one needs another's workdir."""

import io
import json
import re
import subprocess
import textwrap
from unittest import mock

import pytest
import synthetic_sweeps
import tiny_runs

from ddpm_jax.commands.sweep import check, measure
from ddpm_jax.errors import UserError
from ddpm_jax.sweeps import (
    aggregates,
    cell_flags,
    kubernetes,
    local,
    page,
    plan,
    results,
    slurm,
    status,
    sweep_file,
    tables,
    workdirs,
)
from ddpm_jax.sweeps.workdirs import State

TEXT = """
from configs import default, digits, digits_gan
from ddpm_jax.sweeps import grid, seeds, workdir_of

def codec():
    config = default.get_config("autoencoder")
    config.data.update(name="digits", image_size=(8, 8), channels=1, batch_size=8)
    config.model.update(channels=8, channel_multipliers=(1, 2), num_groups=4)
    return config

def latent():
    config = digits.get_config()
    config.data.latent_shape = (4, 4, 4)
    config.sample.update(clip_x0=False, guidance_scale=1.0)
    return config

CONFIGS = dict(diffusion=digits.get_config, gan=digits_gan.get_config, codec=codec, latent=latent)

def get_config(name="diffusion"):
    return CONFIGS[name]()

def sweep():
    alone = [{"config": name} for name in ("gan", "diffusion")]
    later = {"config": "latent", "data.codec": workdir_of({"config": "codec"})}
    return grid([*alone, later, {"config": "codec"}], seeds(2))

DRAWN = ("fid", "label_accuracy")
evaluate = {
    "gan": dict(metrics=DRAWN, num_samples=500),
    "latent": dict(metrics=DRAWN, num_samples=500),
    "diffusion": dict(metrics=(*DRAWN, "bpd"), num_samples=500),
}
statements = {"Quality": ("fid", "label_accuracy"), "A likelihood": "bpd_ode"}
"""


@pytest.fixture
def read(tmp_path):
    def read(*changes, name="several"):
        text = TEXT
        for change in changes:
            assert change[0] in text
            text = text.replace(*change)
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return sweep_file.read(path)

    return read


def of_config(sweep, name):
    return [cell for cell in sweep.cells if cell.config == name]


def test_a_cell_begins_with_the_config_that_it_names(read, tmp_path):
    sweep = read()
    assert {name: c.kind for name, c in sweep.configs.items()} == {
        "": "denoiser",
        "gan": "gan",
        "diffusion": "denoiser",
        "codec": "autoencoder",
        "latent": "denoiser",
    }
    (gan, _), (base, _) = of_config(sweep, "gan"), of_config(sweep, "diffusion")
    assert re.fullmatch(r"config=gan,seed=0-[0-9a-f]{8}", gan.name)
    assert (gan.setting, base.setting) == ("config=gan", "config=diffusion")
    lines = cell_flags.flag_lines(tmp_path / "d", sweep, gan)
    assert lines == [f"--config={tmp_path / 'several.py'}:gan", "--config.seed=0"]
    config = check.config_of(sweep, gan, tmp_path)
    assert (config.kind, config.model.latent_size, config.seed) == ("gan", 32, 0)
    assert gan.evaluate["metrics"] == ("fid", "label_accuracy")
    assert "--metrics=fid,label_accuracy,bpd" in cell_flags.measure_lines(tmp_path, sweep, base)
    assert of_config(sweep, "codec")[0].evaluate == {}


def test_more_cells_move_none_and_the_defaults_of_a_kind_are_its_own(read):
    few = read()
    more = read(("seeds(2)", "seeds(3)"), ('("gan", "diff', '("gan", "latent", "diff'))
    assert {cell.name for cell in few.cells} <= {cell.name for cell in more.cells}
    # Nothing differs from either kind's own defaults, and they are not the same run.
    plain = [("digits.get_config,", "default.get_config,")]
    plain += [("gan=digits_gan.get_config", "gan=lambda: default.get_config('gan')")]
    made = read(*plain)
    digests = {cell.name.rpartition("-")[2] for cell in made.cells if cell.config != "latent"}
    assert len(digests) == 6


def test_a_cell_needs_the_workdir_of_another_of_its_own_seed(read, tmp_path):
    sweep = read()
    for cell, other in zip(of_config(sweep, "latent"), of_config(sweep, "codec"), strict=True):
        assert cell.needs == {"data.codec": other.training}
        assert cell.seed == other.seed
        assert cell.setting == "config=latent,codec=codec"
        assert cell.name.startswith(f"config=latent,codec=codec,seed={cell.seed}-")
        assert f"--config.data.codec={tmp_path / 'd' / 'cells' / other.training}" in (
            cell_flags.flag_lines(tmp_path / "d", sweep, cell)
        )
    # Another autoencoder is another cell, and one for all seeds may be named.
    wider = read(("channels=8", "channels=16"))
    changed = {cell.name for cell in wider.cells} - {cell.name for cell in sweep.cells}
    assert {name.split(",")[0] for name in changed} == {"config=latent", "config=codec"}
    shared = read(('workdir_of({"config": "codec"})', 'workdir_of({"config": "codec", "seed": 1})'))
    needed = {cell.needs["data.codec"] for cell in of_config(shared, "latent")}
    assert needed == {of_config(shared, "codec")[1].training}
    assert of_config(shared, "latent")[0].setting == "config=latent,codec=codec+seed 1"


def test_every_setting_is_built_though_no_workdir_is_there(read, tmp_path):
    sweep = read()
    assert check.check(sweep, tmp_path / "d") == 4
    with pytest.raises(UserError, match=r"cell config=gan,.*--metrics=bpd: this run is a GAN"):
        check.check(read(('"gan": dict(metrics=DRAWN', '"gan": dict(metrics=("bpd",)')), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('{"config": name}', '{"config": name + "s"}'), r"in get_config\('gans'\) \(KeyError"),
        (('workdir_of({"config": "codec"})', 'workdir_of("codec")'), "need that cell's overrides"),
        (('{"config": name}', '{"config": [name]}'), r"config=\['gan'\]: need the name"),
        (('{"config": name}', '{"config": "../gan"}'), "config='../gan': need the name"),
        (('    "gan": dict', '    "gam": dict'), "evaluate has no 'gam'; did you mean gan"),
        (('"gan": dict(metrics', '"gan": dict(nums=3, metrics'), "gan has no 'nums'"),
        (("bpd\"), num", "bpd\"), nun"), "diffusion has no 'nun"),
        (('*alone, later, {"config": "codec"}', "*alone, later"), "begins with it|no cell: let"),
        (('of({"config": "codec"})', 'of({"config": "codec", "seed": 7})'), "codec is the workdir "
         "of config=codec,seed=7-.*, which is no cell: let sweep"),
        (('"bpd_ode"}', "3}"), r"statements\['A likelihood'\] must be names of figures"),
        (('"data.codec"', '"data.codek"'), "no such config field data.codek"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(read, change, message):
    with pytest.raises(UserError, match=message) as error:
        read(change)
    assert "\n" not in str(error.value)


class Played:
    """What the driver asks of a process, of one that writes what a training would."""

    def __init__(self, words, log, variables):
        self.pid, self.returncode = 1, None
        folder = log.parent
        Played.said.append(folder.name if words[0] == "train" else f"measured {folder.name}")
        if words[0] == "train":
            self._code = int(folder.name in Played.broken)
            for need in (
                (folder / "needs.txt").read_text().split()
                if (folder / "needs.txt").exists()
                else ()
            ):
                assert (folder.parent / need / "final.json").exists(), "begun too early"
            if not self._code:
                (folder / "config.json").write_text(json.dumps({"train": {"num_steps": 1}}))
                (folder / "final.json").write_text(json.dumps({"step": 1}))
        else:
            self._code = 0
            name = next(folder.glob("measure-*.txt")).stem.replace("measure", "sweep")
            (folder / "eval").mkdir(exist_ok=True)
            (folder / "eval" / f"{name}.json").write_text("{}")

    def poll(self):
        self.returncode = self._code
        return self._code


def run(sweep, workdir, broken=(), jobs=2):
    plan.write(sweep, workdir)
    Played.said, Played.broken, said = [], broken, io.StringIO()
    with mock.patch.object(local, "start_command", Played), mock.patch.object(local, "POLL", 0.001):
        code = local.run(sweep, workdir, jobs=jobs, attempts=2, stream=said)
    return code, said.getvalue()


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_what_a_cell_needs_is_trained_first(read, tmp_path, jobs):
    sweep = read()
    code, said = run(sweep, tmp_path / "d", jobs=jobs)
    assert (code, "8 cells: 8 done" in said) == (0, True)
    trained = [name for name in Played.said if not name.startswith("measured")]
    for cell in of_config(sweep, "latent"):
        assert trained.index(cell.needs["data.codec"]) < trained.index(cell.training)
    assert len(Played.said) == 8 + 6
    run(sweep, tmp_path / "d", jobs=jobs)
    assert Played.said == []


def test_a_cell_whose_need_failed_is_told_and_goes_on_after_a_retry(read, tmp_path):
    sweep, workdir = read(), tmp_path / "d"
    (broken, _), (latent, _) = of_config(sweep, "codec"), of_config(sweep, "latent")
    code, said = run(sweep, workdir, broken=[broken.training])
    assert code == 1
    assert f"not trained: {latent.training}: it needs {broken.training}" in said
    assert f"failed: {broken.training}" in said
    states, _ = status.look(sweep, workdir, 2)
    assert states[broken.name] is State.FAILED
    assert states[latent.name] is State.PLANNED
    assert list(states.values()).count(State.DONE) == 6
    assert run(sweep, workdir)[0] == 1  # without a retry nothing more is tried
    workdirs.forget_failures(workdirs.folder(workdir, broken.training))
    assert run(sweep, workdir)[0] == 0


def test_slurm_has_an_array_for_each_stage(read, tmp_path, monkeypatch):
    sweep, workdir = read(), tmp_path / "d"
    plan.write(sweep, workdir)
    said = slurm.run(sweep, workdir, attempts=2, dry_run=True)
    assert len(said) == 2
    first, second = ((workdir / "slurm" / f"array-{k}.cells").read_text().split() for k in (1, 2))
    assert {*second} == {cell.training for cell in of_config(sweep, "latent")}
    assert len(first) == 6
    path = workdir / "slurm" / "array-2.sbatch"
    assert said[1].endswith(f"sbatch --dependency=afterany:JOB_OF_array-1 {path}")
    assert "--dependency" not in said[0]
    subprocess.run(["bash", "-n", str(path)], check=True)
    # What was submitted before is waited for by its number.
    numbers = iter(("17", "18", "19"))
    called = []

    def submit(path, words):
        called.append(words)
        return next(numbers)

    monkeypatch.setattr(slurm, "_submit", submit)
    monkeypatch.setattr(slurm, "check", lambda *_: None)
    monkeypatch.setattr(slurm, "_largest_array", lambda: 4)
    slurm.run(sweep, workdir, attempts=2)
    # Of six in two arrays the codecs are in the second one.
    assert called == [[], [], ["--dependency=afterany:18"]]


def test_a_task_of_slurm_whose_need_is_not_trained_says_so(read, tmp_path):
    """The script itself, up to its first srun."""
    sweep, workdir = read(), tmp_path / "d"
    plan.write(sweep, workdir)
    slurm.run(sweep, workdir, attempts=2, dry_run=True)
    script = workdir / "slurm" / "array-2.sbatch"
    latent = of_config(sweep, "latent")[0]
    folder = workdirs.folder(workdir, latent.training)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(f"#!/bin/bash\necho ran >>{tmp_path / 'ran'}\n")
    (tools / "srun").chmod(0o755)
    variables = {"SLURM_ARRAY_TASK_ID": "0", "PATH": f"{tools}:/usr/bin:/bin"}
    done = subprocess.run(["bash", str(script)], env=variables, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "ran").exists()
    count, said = workdirs.failures_of(folder, "train")
    assert (count, said) == (
        1,
        f"{latent.needs['data.codec']}, which this cell needs, is not trained",
    )
    (workdirs.folder(workdir, latent.needs["data.codec"]) / "final.json").write_text("{}")
    assert subprocess.run(["bash", str(script)], env=variables, check=False).returncode == 0
    assert (tmp_path / "ran").read_text() == "ran\nran\n"  # trained, and measured


def test_kubernetes_leaves_them_to_a_second_job(read, tmp_path):
    sweep, workdir = read(("statements = ", "k8s = dict(image='i')\nstatements = ")), tmp_path / "d"
    plan.write(sweep, workdir)
    said = kubernetes.write(sweep, workdir, attempts=2)
    assert "6 pods" in said[0]
    assert said[1] == "2 cells need others that are not trained: once they are, run this again"
    assert "latent" not in (workdir / "k8s" / "cells.txt").read_text()
    run(sweep, workdir)
    assert "nothing to write" in kubernetes.write(sweep, workdir, attempts=2)[0]


SAMPLED = {"latent": {"sampler": "ddim"}, "diffusion": {"sampler": "ddim"}, "gan": {"temp": 1.0}}


def figures(cell):
    found = {"fid": len(cell.config) + cell.seed / 10, "label_accuracy": 0.9 + cell.seed / 100}
    return found | ({"bpd_ode": 2.0 + cell.seed / 10} if cell.config == "diffusion" else {})


@pytest.fixture
def reported(read, tmp_path):
    """reported(protocol) is the report of the sweep, whose figures are made up."""

    def make(protocol=lambda cell: {}, allow=()):
        sweep, workdir = read(), tmp_path / "w"

        def own(cell):
            return {"sampling": SAMPLED.get(cell.config)} | protocol(cell)

        synthetic_sweeps.write(
            sweep, workdir, figures, protocol=own, validation=lambda cell: len(cell.config)
        )
        return aggregates.aggregate(results.read(sweep, workdir, allow))

    return make


def test_each_config_has_its_own_figures_and_no_other(reported):
    report = reported()
    rows = {one.figure: [row.setting for row in one.rows] for one in report.tables}
    drawn = ["config=gan", "config=diffusion", "config=latent,codec=codec"]
    assert rows == {
        "fid": drawn,
        "label_accuracy": drawn,
        "bpd_ode": ["config=diffusion"],
        "nfe": drawn,
    }
    assert not any(row.undefined for one in report.tables for row in one.rows)
    text = tables.markdown(report)
    assert "validation_loss is left out: cells differ in config" in text
    shown = page.page(report)
    titles = re.findall(r"Held-out loss, (\w+)", shown)
    assert {*titles} == {"gan", "diffusion", "latent", "codec"}


def test_statements_stand_beside_their_figures(reported):
    report = reported()
    text = tables.markdown(report)
    table = text.split("## Statements")[1].split("##")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[0] == (
        "| statement | figure | config=gan | config=diffusion | config=latent,codec=codec | "
        "config=codec |"
    )
    assert lines[2].startswith("| Quality | fid ↓ | 3.050 (")
    assert lines[3].startswith("|  | label_accuracy ↑ | 0.905")
    assert re.fullmatch(
        r"\| A likelihood \| bpd_ode ↓ \|  \| 2\.050 \(.*\); n < 3 \|  \|  \|", lines[4]
    )
    assert "A likelihood" in page.page(report)
    assert tables.record(report)["statements"] == [
        {"statement": "Quality", "figures": ["fid", "label_accuracy"]},
        {"statement": "A likelihood", "figures": ["bpd_ode"]},
    ]


def test_configs_are_drawn_as_each_says_and_measured_alike(reported):
    reported()
    for field, value in (("num_samples", 400), ("extractor", {"name": "inception"})):
        with pytest.raises(UserError, match=f"config=gan,seed=0.*config=latent.*: {field}"):
            reported(lambda cell, f=field, v=value: {f: v} if cell.config == "latent" else {})
    # Within a setting sampling must be alike.
    with pytest.raises(UserError, match=r"config=gan,seed=0.*config=gan,seed=1.*sampling\.temp"):
        reported(
            lambda cell: {"sampling": {"temp": cell.seed}} if cell.config == "gan" else {},
        )


def test_a_forecast_leaves_out_what_needs_others_until_they_are_there(read, tmp_path):
    sweep, timed = read(), []

    def step(config):
        timed.append(config.kind)
        return {
            "compile_seconds": 1.0, "steps_per_second": 10.0, "devices": 1, "state_bytes": 8,
            "parameters": 1, "step_bytes": 8,
        }  # fmt: skip

    with mock.patch.object(measure, "_timed", step):
        found = measure.forecast(sweep, tmp_path / "d")
        assert timed == ["gan", "denoiser", "autoencoder"]
        assert found["waiting"] == [cell.training for cell in of_config(sweep, "latent")]
        assert "2 cells are not in it either: they need others" in measure.table(found)
        run(sweep, tmp_path / "d")
        assert measure.forecast(sweep, tmp_path / "d")["waiting"] == []


def test_names_of_the_docs_are_the_files(read):
    """What docs/sweeps.md shows of such a sweep can be read."""
    text = (tiny_runs.ROOT / "docs" / "sweeps.md").read_text()
    block = next(part for part in text.split("```python\n") if "workdir_of" in part)
    sweep = textwrap.dedent(block.split("```")[0])
    path = read().path.parent / "documented.py"
    path.write_text(sweep)
    made = sweep_file.read(path)
    assert [cell.needs for cell in made.cells if cell.needs]
