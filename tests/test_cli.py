import ast
import subprocess
import sys

import jax
import pytest
import tiny_runs
from absl import flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError

SCRIPTS = sorted(path.stem for path in (tiny_runs.ROOT / "scripts").glob("*.py"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs cli.run in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def of(main, *arguments):
        with pytest.raises(SystemExit) as ended:
            cli.run(main, ["scripts/none.py", *arguments])
        return ended.value.code, *capsys.readouterr()

    yield of
    flags.FLAGS.unparse_flags()


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, None), (0, 0), (75, 75)])
def test_the_exit_code_is_what_main_returns(run, returned, code):
    assert run(lambda: returned) == (code, "", "")


def test_a_mistake_is_one_line_and_exit_code_2(run):
    code, out, said = run(raising(UserError("this is\n  wrong: do\tthat")))
    assert (code, out, said) == (2, "", "error: this is wrong: do that\n")


def test_a_bug_keeps_its_traceback(run):
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()), ["scripts/none.py"])
    assert run(raising(KeyboardInterrupt()))[0] == 130


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--compile_cash=x", "--compile_cash: no such flag; did you mean compile_cache?"),
        ("x", "unexpected argument 'x'"),
        ("--compile_cache", "compile_cache"),
    ],
)
def test_a_wrong_flag_never_reaches_main(run, argument, named):
    code, out, said = run(lambda: pytest.fail("main was called"), argument)
    assert (code, out) == (2, "")
    assert named in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("optim.learning_rat", "; did you mean optim.learning_rate?"),
        ("model.learning_rate", "; did you mean optim.learning_rate?"),
        ("qqqqqq", "; known: optim.learning_rate, seed, train.num_steps"),
    ],
)
def test_the_nearest_name_is_suggested(name, hint):
    assert cli.suggest(name, ["optim.learning_rate", "seed", "train.num_steps"]) == hint


def test_the_compile_cache_is_where_the_flag_says(run, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(jax.config, "update", seen.__setitem__)

    def main():
        seen.clear()
        cli.use_compile_cache()

    run(main, f"--compile_cache={tmp_path}")
    assert seen["jax_compilation_cache_dir"] == str(tmp_path)
    flags.FLAGS.unparse_flags()
    flags.FLAGS["compile_cache"].value = None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    run(main)
    assert seen["jax_compilation_cache_dir"] == "/elsewhere"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    run(main)
    assert seen["jax_compilation_cache_dir"] == str(tmp_path / "home" / "ddpm_jax" / "xla")
    run(main, "--compile_cache=off")
    assert seen == {"jax_enable_compilation_cache": False}
    flags.FLAGS["compile_cache"].value = None


def defined_flags(script):
    """The names of the flags that a script defines."""
    for node in ast.walk(ast.parse((tiny_runs.ROOT / "scripts" / f"{script}.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].startswith(
            "DEFINE"
        ):
            yield node.args[0].value


def test_help_explains_each_flag_of_each_script():
    running = {
        script: tiny_runs.start(script, "--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for script in SCRIPTS
    }
    for script, process in running.items():
        text, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, (script, stderr)
        assert stderr == "", script
        document = ast.get_docstring(
            ast.parse((tiny_runs.ROOT / "scripts" / f"{script}.py").read_text())
        )
        assert document.splitlines()[0] in text
        explained = explanations(text)
        for name in defined_flags(script):
            assert explained.get(name), f"{script} --help does not explain --{name}"


def explanations(text):
    """{flag: its text} of absl's help: a line "--name: text", or "--[no]name: text"."""
    lines = (line.strip().replace("[no]", "") for line in text.splitlines())
    pairs = (line[2:].partition(":") for line in lines if line.startswith("--"))
    return {name: said.strip() for name, _, said in pairs}
