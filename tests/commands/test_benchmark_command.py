"""The benchmark's command: its sections, its tables, what it refuses, where runs add up."""

import json

import pytest
import tiny_runs

from ddpm_jax.commands.benchmark import benchmark, command, journal, sections, tables
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import Failed
from ddpm_jax.errors import UserError

NAMES = (
    "train_step clip sampling guided_sampling latent_unet loop input startup checkpoint loading "
    "scaling memory "
    "forecast group strict deterministic feature_statistics prdc"
)
ROW = {
    "parameters": 10,
    "mfu": "unknown",
    "images_per_second": 1234.5,
    "ours": {"seconds": 2.0, "cpu_seconds": 4.0},
    "diffusers eager": {"seconds": 4.0, "ratio": 0.5},
    "diffusers compile": {"failed": "no | compiler"},
}
FIGURES = {
    "date": "2026-01-02",
    "machine": {"cpu": "Some CPU", "cores": 2, "device": "cpu", "devices": 1},
    "versions": {"jax": "1.2", "torch": None},
    "sections": {"train_step": {"cifar10_unet float32": ROW, "section_seconds": 3.25}},
}


def test_the_table_of_sections_and_what_a_quick_run_leaves_out():
    assert [*sections.SECTIONS] == NAMES.split()
    assert {*sections.SLOW} < {*sections.SECTIONS}
    assert set(sections.SECTIONS) >= {
        name for goals in tables.GOALS.values() for name, _, _ in goals
    }
    assert [*command._chosen(["loop", "train_step"], False)] == ["train_step", "loop"]
    assert "forecast" not in command._chosen([], True)
    assert "forecast" in command._chosen([], False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only=samplin"], "error: --only=samplin: no such section; did you mean sampling?"),
        (["--peer=difusers"], "error: --peer=difusers: no such peer; did you mean diffusers?"),
        (["--networks=digits"], "error: --networks=digits: no such network; did you mean digits_"),
        (["--append=nowhere"], "error: --append=nowhere: there is no index.md"),
        (["--config_file=none.py"], "error: --config=none.py: cannot load it"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, said):
    done = tiny_runs.in_process("benchmark", f"--out={tmp_path / 'f.json'}", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1


def test_a_peer_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(command, "NEEDS", {"diffusers": ("torch_that_is_not_there",)})
    with pytest.raises(UserError, match=r"--peer=diffusers: torch_that_is_not_there cannot be imp"):
        command._sides("diffusers", quick=True)


def test_a_section_that_fails_is_told_and_the_others_are_measured(capsys):
    def failing(options):
        raise Failed("out of memory")

    kept = []
    seen = benchmark.benchmark(
        Options(None, ""),
        {"one": failing, "two": lambda options: {"seconds": 1.0}},
        lambda figures: kept.append([*figures["sections"]]),
    )
    assert kept == [["one"], ["one", "two"]]
    taken = [section.pop("section_seconds") for section in seen["sections"].values()]
    assert min(taken) >= 0
    assert seen["sections"] == {"one": {"failed": "out of memory"}, "two": {"seconds": 1.0}}
    assert capsys.readouterr().err == "1/2 one\n2/2 two\n"


def test_a_table_has_ratios_with_their_goals_and_why_a_side_is_missing():
    lines = tables.text(FIGURES, "cpu").splitlines()
    assert "| cifar10_unet float32 | ours | 2 |  |  | 1,234 | unknown |" in lines
    assert "|  | diffusers eager | 4 | 0.5 | 1.25 |  |  |" in lines
    assert "|  | diffusers compile | no / compiler |  |  |  |  |" in lines
    assert "| section_seconds | 3.25 |" in lines


def test_runs_add_up_and_no_file_is_written_over(tmp_path):
    page = tmp_path / journal.PAGE
    page.write_text("# Benchmarks\n")
    journal.check(tmp_path)
    names = [
        journal.append(tmp_path, FIGURES, "python scripts/benchmark.py", "| a |\n").name
        for _ in range(3)
    ]
    stem = "2026-01-02-some-cpu-2-cores"
    assert names == [f"{stem}.json", f"{stem}-2.json", f"{stem}-3.json"]
    assert json.loads((tmp_path / names[0]).read_text())["sections"] == FIGURES["sections"]
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\n## 2026-01-02, 1 x Some CPU, 2 cores\n")
    assert text.count("```sh\npython scripts/benchmark.py\n```\n") == 3
    assert [text.count(f"[{name}]({name})") for name in names] == [1, 1, 1]
    assert "jax 1.2" in text
    assert "torch" not in text


@pytest.mark.wide(6)
@pytest.mark.slow
def test_the_command_measures_what_it_is_asked_for(tmp_path):
    (tmp_path / journal.PAGE).write_text("# Benchmarks\n")
    out = tmp_path / "figures.json"
    flags = [f"--out={out}", "--only=prdc", "--quick", f"--append={tmp_path}"]
    done = tiny_runs.script("benchmark", *flags)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert [*figures["sections"]] == ["prdc"]
    assert done.stdout.startswith("### prdc\n\n| what | measured |\n")
    assert (
        "python scripts/benchmark.py --only=prdc --quick --out=benchmark.json"
        in (tmp_path / journal.PAGE).read_text()
    )
