"""A sweep on this machine: each cell an ordinary run, failures left aside, nothing done twice."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.sweep import vectorize
from ddpm_jax.sweeps import groups, local, plan, status, sweep_file, workdirs
from ddpm_jax.sweeps.workdirs import State

# Two seeds, sampled in two ways, and a cell that has no data.
TEXT = """
from configs import digits
from ddpm_jax.sweeps import grid, seeds

def get_config():
    config = digits.get_config()
    config.data.batch_size = 8
    config.model.update(
        name="dit", channels=8, num_heads=2, patch_size=4, num_blocks=1, num_groups=4
    )
    config.diffusion.num_steps = 10
    config.optim.warmup_steps = 0
    config.train.update(
        num_steps=6, log_every=2, checkpoint_every=2, sample_every=0, validate_every=6,
        validate_examples=20, max_skipped=1,
    )
    config.sample.update(num_steps=5, guidance_scale=1.0)
    config.mesh.data = 1
    return config

def sweep():
    return grid({"optim.learning_rate": (1e-3,)}, seeds(2)) + [
        {"data.name": "folder", "data.data_dir": "/none"}
    ]

evaluate = dict(metrics=("label_accuracy",), num_samples=20,
                samplers=(dict(num_steps=5), dict(num_steps=3)))
baseline = {"optim.learning_rate": 1e-3, "sample.num_steps": 5}
"""


class Forked:
    """What the driver asks of a process, of one that was forked: it need not import jax anew."""

    def __init__(self, words, log, variables):
        name, *flags = words
        self._started, self._log = tiny_runs.forked(name, *flags), log
        self.pid, self.returncode = self._started.pid, None

    def poll(self):
        if self.returncode is None and self._started.poll() is not None:
            self.returncode = self._started.poll()
            with open(self._log, "a") as log:
                log.writelines(self._started.said())
        return self.returncode


def run(root, attempts):
    """What `sweep.py run` does once every setting was built; the exit code and what it said."""
    sweep, said = cells_of(root), io.StringIO()
    plan.write(sweep, root / "d")
    with mock.patch.object(local, "start_command", Forked):
        code = local.run(sweep, root / "d", jobs=2, attempts=attempts, stream=said)
    return code, said.getvalue()


def sweep_command(action, root, *flags):
    return tiny_runs.in_process(
        "sweep", action, f"--sweep={root / 'three.py'}", f"--workdir={root / 'd'}", *flags
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder, the exit code and what the run said."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "three.py").write_text(TEXT)
    return root, *run(root, attempts=2)


def cells_of(root):
    return sweep_file.read(root / "three.py")


@pytest.mark.wide(2)
def test_every_cell_is_an_ordinary_run_and_a_failing_one_stops_no_other(ran):
    root, code, said = ran
    sweep = cells_of(root)
    assert code == 1
    assert "failed: data.name=folder,data_dir=_none,seed=0-" in said
    assert "2 failed, 4 done" in said
    states, trainings = status.look(sweep, root / "d", attempts=2)
    assert [states[cell.name] for cell in sweep.cells[:4]] == [State.DONE] * 4
    assert [states[cell.name] for cell in sweep.cells[4:]] == [State.FAILED] * 2
    for name in list(sweep.trainings())[:2]:
        workdir = workdirs.folder(root / "d", name)
        assert trainings[name].step == trainings[name].num_steps == 6
        assert experiment.load(workdir).step == 6
        tries = workdirs.json_lines(workdir / "tries.jsonl")
        assert [(one["what"], one["exit_code"]) for one in tries] == [
            ("train", 0),
            *((workdirs.result(root / "d", cell).stem, 0) for cell in sweep.cells
              if cell.training == name),
        ]  # fmt: skip
    failed = workdirs.folder(root / "d", sweep.cells[4].training)
    assert len(workdirs.json_lines(failed / "tries.jsonl")) == 2
    assert trainings[failed.name].failures == 2
    assert "no such folder: /none" in trainings[failed.name].error


def test_cells_are_drawn_as_each_says(ran):
    root, *_ = ran
    sweep = cells_of(root)
    for cell in sweep.cells[:4]:
        result = json.loads(workdirs.result(root / "d", cell).read_text())
        assert result["protocol"]["sampling"]["num_steps"] == cell.sampling["sample.num_steps"]
        assert len(result["samples"]) == 1


def test_nothing_is_done_twice_and_status_starts_nothing(ran):
    root, *_ = ran
    before = tiny_runs.snapshot(root / "d" / "cells")
    code, again = run(root, attempts=2)
    said = sweep_command("status", root, "--attempts=2")
    assert code == 1
    assert "training" not in again
    assert said.returncode == 0
    assert "6 cells: 2 failed, 4 done" in said.stdout
    assert tiny_runs.snapshot(root / "d" / "cells") == before


def test_a_report_is_the_same_bytes_elsewhere(ran, tmp_path):
    root, *_ = ran
    shutil.copytree(root, tmp_path / "elsewhere")
    for one in (root, tmp_path / "elsewhere"):
        done = sweep_command("report", one)
        assert done.returncode == 0, done.stderr
    names = [f"report.{end}" for end in ("md", "csv", "json", "html")]
    for name in names:
        texts = [(one / "d" / name).read_bytes() for one in (root, tmp_path / "elsewhere")]
        assert texts[0] == texts[1]
        assert str(root).encode() not in texts[0]
    text = (root / "d" / "report.md").read_text()
    assert "label_accuracy" in text
    assert "n < 3" in text or "fewer than 3" in text
    assert "Cells done: 4 of 6" in text


def test_what_failed_is_tried_again_when_it_is_asked_for(ran, tmp_path):
    root, *_ = ran
    shutil.copytree(root, tmp_path / "again")
    sweep = cells_of(tmp_path / "again")
    assert sweep_command("retry", tmp_path / "again").returncode == 0
    states, _ = status.look(sweep, tmp_path / "again" / "d", attempts=2)
    assert states[sweep.cells[4].name] is not State.FAILED
    failed = workdirs.folder(tmp_path / "again" / "d", sweep.cells[4].training)
    assert (failed / "tries.1.jsonl").exists()


def test_status_of_a_thousand_cells_reads_each_workdir(ran, tmp_path):
    """How long it takes is measured elsewhere; here, that it takes no jax and finds each."""
    root, *_ = ran
    text = TEXT.replace("seeds(2)", "seeds(40)")
    text = text[: text.index(" + [")] + text[text.index("\nevaluate") :]
    (tmp_path / "three.py").write_text(text)
    sweep = sweep_file.read(tmp_path / "three.py")
    one = workdirs.folder(root / "d", next(iter(sweep.trainings())))
    for name in sweep.trainings():
        folder = workdirs.folder(tmp_path / "d", name)
        folder.mkdir(parents=True)
        for file in ("final.json", "config.json", "manifest.json", "metrics.jsonl"):
            shutil.copy(one / file, folder)
    states, _ = status.look(sweep, tmp_path / "d", attempts=3)
    assert set(states.values()) == {State.TRAINED}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("label_accuracy", "accuracy"),
            "cell .*--metrics=accuracy: this run is a diffusion model",
        ),
        (("label_accuracy", "no_metric"), "--metrics=no_metric"),
        (
            ('"data.data_dir": "/none"', '"model.num_heads": 3'),
            "cell .*num_heads=3.*config.model: width=8",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(tmp_path, change, message):
    (tmp_path / "three.py").write_text(TEXT.replace(*change))
    done = sweep_command("check", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr
    if "no_metric" in message:  # the same by what runs it, in a process of its own
        run_says = sweep_command("run", tmp_path)
        assert (run_says.returncode, run_says.stderr) == (2, done.stderr)
    assert not (tmp_path / "d").exists()


def test_plan_and_status_import_no_jax(tmp_path):
    (tmp_path / "three.py").write_text(TEXT)
    code = (
        "import sys; sys.argv = ['sweep', ACTION, '--sweep=three.py', '--workdir=d']\n"
        "from ddpm_jax import cli\n"
        "from ddpm_jax.commands.sweep import command\n"
        "try:\n    cli.run_command(command)\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'jax', 'scipy', 'sklearn', 'flax'} & set(sys.modules)\n"
    )
    for action in ("plan", "status"):
        subprocess.run(
            [sys.executable, "-c", code.replace("ACTION", repr(action))],
            cwd=tmp_path,
            env=tiny_runs.environment() | {"PYTHONPATH": str(tiny_runs.ROOT)},
            check=True,
            capture_output=True,
            timeout=60,
        )
    assert Path(tmp_path / "d" / "plan.json").exists()


def test_cells_in_one_program_are_grouped_once(tmp_path):
    text = TEXT[: TEXT.index("\nevaluate")]
    several = 'return grid({"optim.learning_rate": (1e-3, 3e-3)}, seeds(NUM))'
    before, _, _ = text.partition("return grid(")
    (tmp_path / "three.py").write_text(before + several.replace("NUM", "1"))
    sweep, workdir = cells_of(tmp_path), tmp_path / "d"
    plan.write(sweep, workdir, groups=vectorize.decide(sweep, workdir, "on"))
    (first,) = groups.read(workdir)
    assert first == [cell.training for cell in sweep.cells]
    code, said = run(tmp_path, attempts=2)
    assert (code, "2 done" in said) == (0, True)
    entries = [
        json.loads((workdirs.folder(workdir, name) / "manifest.json").read_text())["attempts"][-1]
        for name in first
    ]
    assert [entry["group"] for entry in entries] == [{"replicas": 2, "members": first}] * 2
    assert len({entry["final"]["state_sha256"] for entry in entries}) == 2
    # More cells leave the group as it is; what is there is not trained again.
    (tmp_path / "three.py").write_text(before + several.replace("NUM", "2"))
    more = cells_of(tmp_path)
    made = vectorize.decide(more, workdir, "on")
    assert made == [first, [cell.training for cell in more.cells if cell.seed == 1]]
    assert vectorize.decide(more, workdir, "off") == [first]
    assert vectorize.decide(more, workdir, "auto") == [first]  # of a CPU
    assert groups.units(more, workdir)[0] == tuple(first)


def test_cells_whose_batches_come_in_parts_are_not_grouped(tmp_path):
    line = "config.mesh.data = 1\n"
    text = TEXT.replace(line, f"{line}    config.train.accumulate = 2\n")
    before, _, _ = text.partition("return grid(")
    (tmp_path / "three.py").write_text(before + "return seeds(2)")
    assert vectorize.decide(cells_of(tmp_path), tmp_path / "d", "on") == []
