import inspect
import io
import re
import subprocess
import sys

import jax
import pytest
import tiny_runs
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from ddpm_jax import __main__ as commands
from ddpm_jax import cli, command_words, config_words
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError, suggest

TRAIN = ("train", f"--config={tiny_runs.ROOT / 'configs' / 'digits.py'}")


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
    assert suggest(name, ["optim.learning_rate", "seed", "train.num_steps"]) == hint


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


def explanations(text):
    """{flag: its text} of absl's help: a line "--name: text", or "--[no]name: text"."""
    lines = (line.strip().replace("[no]", "") for line in text.splitlines())
    pairs = (line[2:].partition(":") for line in lines if re.match(r"--\w+:", line))
    return {name: said.strip() for name, _, said in pairs}


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_explains_each_flag_of_each_command(name):
    done = tiny_runs.in_process(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    explained = explanations(done.stdout)
    with tiny_runs.command(name) as module:
        assert done.stdout.startswith(module.__doc__)
        defined = flags.FLAGS.get_key_flags_for_module(module.__name__)
        assert {flag.name for flag in defined} == explained.keys()
    assert all(explained.values())
    assert "code_path" in explained


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_has_its_script(name):
    with tiny_runs.command(name) as module:
        summary = module.__doc__.splitlines()[0]
    script = (tiny_runs.ROOT / "scripts" / f"{name}.py").read_text()
    assert script.startswith(f'"""{summary}"""\n')
    assert f"from ddpm_jax.commands.{name} import command\n" in script


@pytest.mark.parametrize("script", ["train", "conformance", "fault_campaign"])
def test_a_script_of_its_own_gives_help(script):
    done = tiny_runs.script(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(explanations(done.stdout).values())


def test_a_mistake_in_a_flag_is_told_before_jax_is_imported():
    """As is --help; in a process of its own, for this one has jax."""
    code = inspect.cleandoc("""
        import sys
        sys.modules["jax"] = None  # importing it now fails
        sys.path.insert(0, "tests")
        import tiny_runs
        from ddpm_jax.__main__ import COMMANDS
        for name in COMMANDS:
            assert tiny_runs.in_process(name, "--help").returncode == 0, name
            words = [["--workdri=x"], ["--out=gs://a/b"], ["surplus"], []]
            for word in words[: 3 if name == "prepare_data" else 4]:
                assert tiny_runs.in_process(name, *word).returncode == 2, (name, word)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny_runs.ROOT, env=tiny_runs.environment(),
        text=True, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture
def module(monkeypatch, capsys):
    """Runs `python -m ddpm_jax WORDS` in this process: (exit code, stdout, stderr)."""

    def of(*words):
        monkeypatch.setattr(sys, "argv", ["ddpm_jax/__main__.py", *words])
        try:
            commands.main()
        except SystemExit as ended:
            return ended.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return of


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_without_a_command_the_commands_are_listed(module, words):
    code, out, err = module(*words)
    assert (code, err) == (0, "")
    for name, what in commands.COMMANDS.items():
        assert any(line.split() == [name, *what.split()] for line in out.splitlines())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sampel"], "sampel: no such command; did you mean sample?"),
        (["qqq"], "qqq: no such command; known: train, sample"),
        (["--workdir=x", "train"], "name a command before --workdir=x: train, sample"),
    ],
)
def test_an_unknown_command_is_one_line(module, words, said):
    code, out, err = module(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_command_started_as_a_module_says_so_in_its_help(module):
    with tiny_runs.command("report") as report:
        pass
    before = set(flags.FLAGS)
    try:
        code, out, _ = module("report", "--help")
    finally:
        flags.FLAGS.remove_flag_values(set(flags.FLAGS) - before)
    assert code == 0
    assert "python -m ddpm_jax report --workdir=runs/digits\n" in out
    assert out.replace("-m ddpm_jax report", "scripts/report.py").startswith(report.__doc__)


@pytest.mark.parametrize(
    "url", ["gs://bucket/run", "s3://bucket/x.png", "file:///tmp/x", "a+b://c"]
)
@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("train", "workdir"),
        ("train", "compile_cache"),
        ("sample", "workdir"),
        ("sample", "out"),
        ("sample", "classifier_workdir"),
        ("sample", "upsampler_workdir"),
        ("sample", "init_image"),
        ("sample", "trajectory"),
        ("sample", "condition=low_resolution"),
        ("evaluate", "reference"),
        ("evaluate", "export_reference"),
        ("report", "workdir"),
        ("reproduce", "manifest"),
        ("checkpoint", "out"),
        ("benchmark", "out"),
        ("prepare_data", "data_dir"),
    ],
)
def test_what_lies_elsewhere_is_refused_at_once(tmp_path, monkeypatch, name, flag, url):
    monkeypatch.chdir(tmp_path)
    action = ["export"] if name == "checkpoint" else []
    done = tiny_runs.in_process(name, *action, f"--{flag}={url}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: --{flag.partition('=')[0]}=")
    assert f"{url}: files and folders are those of this machine" in done.stderr
    assert not list(tmp_path.iterdir())


def test_data_that_lie_elsewhere_are_refused_in_a_config_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flag = "--config.data.data_dir=gs://bucket/images"
    done = tiny_runs.in_process(*TRAIN, f"--workdir={tmp_path / 'run'}", flag)
    assert done.returncode == 2
    assert "--config.data.data_dir=gs://bucket/images: files" in done.stderr
    config = tiny_runs.tiny_config(data={"labels_file": "s3://b/labels.csv"})
    with pytest.raises(UserError, match=r"options\.labels_file=s3://b/labels\.csv: files"):
        config_files.resolve(config)
    config.data.options.labels_file = ""
    with pytest.raises(UserError, match="--workdir=gs://bucket/run: files"):
        train.train(config, "gs://bucket/run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["--config.model.channel_multipliers=1,2", "--config.model.channel_multipliers=1,2,2"],
        ["--config.model.channel_multipliers", "(1,2)", "--config.model.channel_multipliers=1,2,2"],
        ["--config.model.channel_multipliers=1", "--config.seed=3",
         "--config.model.channel_multipliers", "1,2,2"],
    ],
)  # fmt: skip
def test_of_a_field_that_is_set_twice_the_last_one_counts(monkeypatch, words):
    argv = ["scripts/train.py", "--config=configs/digits.py", "--config.seed=5", *words]
    monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks there
    with tiny_runs.command("train"):
        cli.parse(argv)
        assert flags.FLAGS.config.model.channel_multipliers == (1, 2, 2)
        assert flags.FLAGS.config.seed == (3 if "--config.seed=3" in words else 5)
    fields = [word.partition("=")[0] for word in command_words.overrides(argv)]
    assert sorted(fields) == ["--config.model.channel_multipliers", "--config.seed"]


def test_what_the_terminal_cannot_write_is_written_with_escapes(run, monkeypatch):
    """As PYTHONIOENCODING=ascii has it; and a path of bytes that are no text."""
    for encoding, text in (("ascii", "\u00fcn\u00ef"), ("utf-8", "\udcff")):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda text=text: print(f"samples in {text}"), ["scripts/none.py"])
        assert ended.value.code is None
        out.flush()
        assert out.buffer.getvalue().decode("ascii") == (
            "samples in " + text.encode("ascii", "backslashreplace").decode() + "\n"
        )


def test_a_file_with_a_comma_in_its_name_can_be_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.png", "c.png"):
        Image.new("L", (2, 2)).save(name)

    def parsed(*words):
        with tiny_runs.command("sample") as sample:
            cli.parse(command_words.joined(["scripts/sample.py", *words], sample.PAIRS))
            return flags.FLAGS.init_image, flags.FLAGS.inpaint, flags.FLAGS.upsampler_workdir

    assert parsed("--init_image=a,b.png")[0] == ["a,b.png"]
    assert parsed("--init_image", "a,b.png")[0] == ["a,b.png"]
    assert parsed("--init_image=a.png,b.png")[0] == ["a.png", "b.png"]
    assert parsed("--init_image", "a,b.png", "c.png")[0] == ["a,b.png", "c.png"]
    assert parsed("--init_image", "c.png", "--seed=1")[0] == ["c.png"]
    assert parsed('--init_image="a,b.png",c.png')[0] == ["a,b.png", "c.png"]
    assert parsed("--inpaint", "a,b.png", "c.png")[1] == ["a,b.png", "c.png"]
    (tmp_path / "run,1").mkdir()
    assert parsed("--upsampler_workdir=run,1")[2] == ["run,1"]
    assert parsed()[0] == []


def test_own_modules_come_from_code_path(tmp_path, monkeypatch):
    """A config file may import from there; the current folder is no such place."""
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "own_size_of_mine.py").write_text("CHANNELS = 24\n")
    config = tmp_path / "config.py"
    config.write_text(
        "import own_size_of_mine\n"
        "from ddpm_jax.default_config import get_config as default\n"
        "def get_config():\n"
        "    config = default()\n"
        "    config.model.channels = own_size_of_mine.CHANNELS\n"
        "    return config\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    done = tiny_runs.in_process("train", f"--config={config}")
    assert done.returncode == 2
    assert "No module named 'own_size_of_mine'" in done.stderr
    monkeypatch.chdir(elsewhere)
    for words in ([f"--code_path={folder}"], ["--code_path", "../mine"]):
        with tiny_runs.command("train"):
            cli.parse(["scripts/train.py", f"--config={config}", *words])
            assert flags.FLAGS.config.model.channels == 24
            assert sys.path[0] == str(folder)
        sys.modules.pop("own_size_of_mine")
    done = tiny_runs.in_process("train", f"--config={config}", "--code_path=../none")
    assert done.stderr.startswith("error: --code_path=../none: there is no such folder")
    with tiny_runs.command("sample"):
        cli.parse(["scripts/sample.py", "--code=a.b,c"])
        assert flags.FLAGS.code == ["a.b", "c"]


def test_float64_is_set_aside(capsys):
    jax.config.update("jax_enable_x64", True)
    try:
        cli.use_devices()
        assert not jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", False)
    assert capsys.readouterr().err == "JAX_ENABLE_X64 is set aside: runs are in float32\n"


def test_a_platform_that_is_not_there_is_one_line(monkeypatch):
    def none():
        raise RuntimeError("Unable to initialize backend 'cuda': no device\nmore")

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(UserError, match=r"JAX_PLATFORMS=cpu: .*'cuda': no device\); unset it"):
        cli.use_devices()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "variables"),
    [
        ("train", [*TRAIN[1:], "--workdir=NEW"], {"JAX_PLATFORMS": "cuda"}),
        ("sample", ["--workdir=NEW", "--out=NEW/a.npz"], {"JAX_PLATFORMS": "cpuu"}),
        ("evaluate", ["--workdir=NEW"], {"JAX_PLATFORMS": "tpu"}),
        ("checkpoint", ["list", "--workdir=NEW"], {"JAX_ENABLE_X64": "maybe"}),
    ],
)
@pytest.mark.wide(4)
def test_what_jax_cannot_be_is_one_line(tmp_path, name, words, variables):
    words = [word.replace("NEW", str(tmp_path / "new")) for word in words]
    environment = tiny_runs.environment() | variables
    done = subprocess.run(
        [sys.executable, "-m", "ddpm_jax", name, *words], cwd=tiny_runs.ROOT, env=environment,
        text=True, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(value in done.stderr for value in variables.values())
    assert not (tmp_path / "new").exists()


def test_an_option_of_another_type_is_named_with_its_value():
    config = ConfigDict({"data": {"options": {"num": 300}}})
    with pytest.raises(UserError, match=r"^--config.data.options.num=many: need int, as 300 is$"):
        config_words.set_option(config, "config.data.options.num=many")
