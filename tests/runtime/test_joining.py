"""What a cluster says of its processes is read as jax reads it; flags that do not fit are named."""

import sys

import pytest
import tiny_runs

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import joining, peers

SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[007-010]",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}  # fmt: skip
ALL = (*SLURM, *OPEN_MPI, "KUBERNETES_SERVICE_HOST", "JAX_COORDINATOR_PORT")


@pytest.fixture
def cluster(monkeypatch):
    """cluster(**variables): what a launcher sets, and nothing of another's."""
    for name in ALL:
        monkeypatch.delenv(name, raising=False)

    def given(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return given


def test_slurm_says_where_process_0_is_and_which_one_this_is(cluster):
    cluster(**SLURM)
    place = joining.detected(5.0)
    # The first node of the step's list; a port of the job's own.
    assert (place.host, place.count, place.process) == ("gpu007", 8, 5)
    assert place.local_devices == [1]
    cluster(SLURM_JOB_ID="4098", SLURM_PROCID="0")
    other = joining.detected(5.0)
    assert other.port != place.port
    assert 1024 < other.port < 65535


def test_open_mpi_does_too(cluster):
    cluster(**OPEN_MPI)
    place = joining.detected(5.0)
    assert (place.host, place.count, place.process) == ("10.96.0.1", 4, 2)


def test_a_job_of_one_task_joins_nobody(cluster):
    cluster(**SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    with joining.joined("auto") as others:
        assert others is peers.ALONE
    with joining.joined(None) as others:  # as in any task of Slurm's that was not told to
        assert others is peers.ALONE


def test_kubernetes_without_its_package_says_what_to_install(cluster, monkeypatch):
    cluster(KUBERNETES_SERVICE_HOST="10.0.0.1")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UserError, match=r"--coordinator=auto: .*`kubernetes` package .*not inst"):
        joining.detected(5.0)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "this is no task of Slurm"),
        (SLURM | {"SLURM_NTASKS": "many"}, "invalid literal .*many"),
        (SLURM | {"SLURM_PROCID": "8"}, "process 8 of 8"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_one_line(cluster, variables, named):
    cluster(**variables)
    with pytest.raises(UserError, match=named):
        joining.detected(5.0)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--num_processes=2"], "need --coordinator"),
        (["--coordinator=localhost:1", "--num_processes=2"], "--process_id from 0"),
        (["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"], "got 2 and 2"),
        (["--coordinator=localhost:1", "--num_processes=2", "--process_id=-1"], "got 2 and -1"),
        (["--coordinator=localhost", "--num_processes=2", "--process_id=0"], "need HOST:PORT"),
        (["--coordinator=h:65535", "--num_processes=2", "--process_id=0"], "from 1 to 65534"),
        (["--coordinator=auto", "--num_processes=2"], "leave out --num_processes"),
        (["--coordinator=auto", "--join_timeout=0"], "--join_timeout=0: need"),
        (["--coordinator=auto", "--join_timeout=nan"], "--join_timeout=nan: need"),
        (["--join_timeout=5"], "--join_timeout needs --coordinator"),
        (["--coordinator=auto", "--join_timeout=soon"], "join_timeout"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_flags_that_do_not_fit_are_named(tmp_path, words, named):
    flags = tiny_runs.tiny_flags(tmp_path / "run", tiny_runs.BRIEF)
    done = tiny_runs.in_process("train", *flags, *words)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
