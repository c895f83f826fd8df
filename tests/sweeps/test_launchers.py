"""What launchers write: an sbatch array, a Kubernetes Job; what is refused before anything runs."""

import json
import subprocess

import pytest
import tiny_runs

from ddpm_jax.errors import UserError
from ddpm_jax.sweeps import kubernetes, plan, slurm, sweep_file

TEXT = """
from configs import digits
from ddpm_jax.sweeps import grid, seeds
get_config = digits.get_config
def sweep():
    return seeds(5)
evaluate = dict(metrics=("kid",), num_samples=100)
"""


@pytest.fixture
def read(tmp_path):
    def read(more=""):
        path = tmp_path / "five.py"
        path.write_text(TEXT + more)
        return sweep_file.read(path)

    return read


def written(sweep, workdir, **options):
    plan.write(sweep, workdir)
    return slurm.run(sweep, workdir, attempts=2, dry_run=True, **options)


def test_an_array_is_a_readable_script(read, tmp_path):
    sweep = read("slurm = dict(partition='gpu', gres='gpu:1', time='04:00:00', signal='TERM@300')")
    workdir = tmp_path / "d d"
    (said,) = written(sweep, workdir, at_once=2, words=["--code_path=/a b"])
    path = workdir / "slurm" / "array-1.sbatch"
    assert str(path) in said
    text = path.read_text()
    lines = text.splitlines()
    for line in (
        "#SBATCH --array=0-4%2",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --partition=gpu",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --time=04:00:00",
        "#SBATCH --signal=TERM@300",
    ):
        assert line in lines
    assert "--signal=TERM@120" not in text
    assert "\"$@\" '--code_path=/a b'" in text
    assert "coordinator" not in text
    cells = (workdir / "slurm" / "array-1.cells").read_text().split()
    assert cells == [cell.training for cell in sweep.cells]
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_cells_of_several_processes_find_each_other(read, tmp_path):
    written(read("slurm = dict(nodes=2, ntasks_per_node=4)"), tmp_path / "d")
    text = (tmp_path / "d" / "slurm" / "array-1.sbatch").read_text()
    assert "#SBATCH --ntasks-per-node=4" in text
    assert "--lock_wait=600 --coordinator=auto" in text
    assert "srun --kill-on-bad-exit=0 " in text  # whoever is lost is named by the others


def test_arrays_are_split_at_the_largest(read, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "_largest_array", lambda: 2)
    said = written(read(), tmp_path / "d")
    assert len(said) == 3
    names = [(tmp_path / "d" / "slurm" / f"array-{k}.cells").read_text().split() for k in (1, 2, 3)]
    assert [len(one) for one in names] == [2, 2, 1]
    assert len({name for one in names for name in one}) == 5
    assert "--array=0-0\n" in (tmp_path / "d" / "slurm" / "array-3.sbatch").read_text()


@pytest.mark.parametrize("name", ["array", "output", "job_name"])
def test_what_the_launcher_sets_is_not_the_sweep_files(read, tmp_path, name):
    with pytest.raises(UserError, match=f"slurm sets '{name}', which the launcher sets"):
        written(read(f"slurm = dict({name}='x')"), tmp_path / "d")


def test_without_sbatch_nothing_is_written(read, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    read()
    done = tiny_runs.in_process(
        "sweep",
        "run",
        f"--sweep={tmp_path / 'five.py'}",
        f"--workdir={tmp_path / 'd'}",
        "--launcher=slurm",
    )
    assert done.returncode == 2
    assert "there is no sbatch on PATH" in done.stderr
    assert not (tmp_path / "d").exists()


def test_squeue_says_what_waits_and_runs():
    jobs = {"7": ["a", "b"], "8": ["c"]}
    listed = "7 0 RUNNING\n7 1 PENDING\n8 0 COMPLETED\n9 0 RUNNING\nnonsense\n7 5 RUNNING\n"
    assert slurm._read(listed, jobs) == {"a": "running", "b": "queued"}


def test_a_job_has_the_shape_of_the_published_schema(read, tmp_path):
    """batch/v1 Job, Kubernetes' API reference: names and types, no cluster."""
    sweep = read(
        "k8s = dict(image='i:1', volume_claim='v', mount_path='/m', namespace='n', "
        "resources={'limits': {'nvidia.com/gpu': 1}})"
    )
    plan.write(sweep, tmp_path / "d")
    kubernetes.write(sweep, tmp_path / "d", attempts=3, at_once=2)
    job = json.loads((tmp_path / "d" / "k8s" / "job.json").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["metadata"] == {"name": "five", "namespace": "n"}
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (5, 2)
    assert spec["backoffLimitPerIndex"] == 2
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0] == {
        "action": "Ignore",
        "onExitCodes": {"operator": "In", "values": [75]},
    }
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy needs
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert container["volumeMounts"] == [{"name": "sweep", "mountPath": "/m"}]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "v"}
    subprocess.run(["bash", "-n"], input=container["command"][2], text=True, check=True)


def test_a_job_needs_an_image(read, tmp_path):
    with pytest.raises(UserError, match="needs k8s = dict"):
        kubernetes.write(read(), tmp_path / "d", attempts=3)
