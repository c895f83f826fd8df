"""Within n commits every case of a wide matrix runs."""

import shutil
import subprocess

import pytest
import tiny_runs
import wide_matrices


@pytest.mark.parametrize("size", [0, 1, 2, 6, 7, 8, 100])
@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("first", [0, 225])
def test_each_case_runs_within_n_commits(size, n, first):
    cases = [f"case {number}" for number in range(size)]
    parts = [wide_matrices.part(cases, n, k) for k in range(first, first + n)]
    assert set().union(*parts) == set(cases)
    for some in parts:
        # Something runs at every commit, and no more than an n-th and one.
        assert min(size, 1) <= len(some) <= size // n + 1
        assert some == sorted(some, key=cases.index)
    if size >= n:  # none twice
        assert sum(map(len, parts)) == size


@pytest.mark.parametrize("first", [0, 11])
def test_long_tests_take_turns(first):
    marked = {f"a.py::test_{c}": 3 for c in "pqrst"} | {f"b.py::test_w[{c}]": 4 for c in "xyzuv"}
    runs = [wide_matrices.selected(marked, k) for k in range(first, first + 4)]
    assert set().union(*runs) == set(marked)
    assert set().union(*runs[:3]) >= {f"a.py::test_{c}" for c in "pqrst"}
    for run in runs:
        singles = [name for name in run if name.startswith("a.py")]
        assert len(singles) in (1, 2)
        assert 1 <= len(run) - len(singles) <= 2
    # A matrix of fewer cases than n takes turns with the others of that n.
    marked |= {"c.py::test_few[0]": 3, "c.py::test_few[1]": 3}
    runs = [wide_matrices.selected(marked, k) for k in range(first, first + 3)]
    assert set().union(*runs) >= {name for name, n in marked.items() if n == 3}
    assert {sum(marked[name] == 3 for name in run) for run in runs} <= {2, 3}
    # One that is asked for by its name runs.
    assert wide_matrices.selected({"a.py::test_p": 3}, first) == {"a.py::test_p"}


def test_commits_are_counted_where_there_is_a_history(tmp_path):
    def git(*arguments, cwd=tmp_path):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=cwd, check=True, capture_output=True)

    count = wide_matrices.number_of_commits
    code = tmp_path / "code"
    code.mkdir()
    assert count(tmp_path / "none") == count(code) == 0
    git("init", "-q", cwd=code)
    assert count(code) == 0
    for expected in (1, 2, 3):
        git("commit", "-q", "--allow-empty", "-m", "a", cwd=code)
        assert count(code) == expected
    # A copy within somebody else's repository has no history of its own.
    (code / "copy").mkdir()
    assert count(code / "copy") == 0
    git("clone", "-q", "--depth=1", f"file://{code}", "shallow")
    assert count(tmp_path / "shallow") == 0
    shutil.rmtree(code / ".git")
    assert count(code) == 0


def test_the_suite_selects_by_it(pytestconfig, request):
    """Of a matrix of this suite exactly its part was selected."""
    names = [item.name for item in request.session.items if item.name.startswith("test_of_ten[")]
    if not names:
        pytest.skip("this test was asked for alone")
    ten = [f"test_of_ten[{number}]" for number in range(10)]
    if not pytestconfig.getoption("--full"):
        ten = wide_matrices.part(ten, 3, wide_matrices.number_of_commits(tiny_runs.ROOT))
    assert names == ten


@pytest.mark.wide(3)
@pytest.mark.parametrize("number", range(10))
def test_of_ten(number):
    """The matrix that the test above looks for."""
    assert 0 <= number < 10
