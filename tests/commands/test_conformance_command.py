"""scripts/conformance.py: mistakes in one line, and what a report writes."""

import json

import pytest
import tiny_runs
from conformance import report


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out=x", "--only=order"], ["--only=order", "orders"]),
        (["--only=orders"], ["--out is missing"]),
        (["--out=setup.cfg/x", "--only=orders"], ["--out=setup.cfg/x"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, words):
    done = tiny_runs.script("conformance", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert all(word in line for word in words)


def section(verdict):
    table = report.Table("Orders", "Why.", ("what", "measured", "verdict"), [("a", 1.5, verdict)])
    drawings = {"own.png": lambda figure: figure.subplots().plot([1, 2])}
    line = report.Line("a", (8, 16, 32), (1e-1, 2.5e-2, 6.25e-3), 2)
    return report.Section([table], [report.Panel("Errors", "error", [line])], drawings=drawings)


def test_a_report_is_a_table_a_json_file_and_a_figure(tmp_path):
    report.write(tmp_path, {"orders": section(report.HOLDS)}, "# Head\n")
    text = (tmp_path / "conformance.md").read_text()
    assert text.startswith("# Head\n\n## Orders")
    assert "## Orders\n\nWhy.\n\n| what | measured | verdict |" in text
    assert "| a | 1.500 | holds |" in text
    (table,) = json.loads((tmp_path / "conformance.json").read_text())["orders"]["tables"]
    assert table["rows"] == [["a", 1.5, "holds"]]
    for name in ("conformance.png", "own.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_claim_that_fails_is_found():
    sections = {"orders": section(report.FAILS), "laws": section(report.HOLDS)}
    assert report.failures(sections) == ["Orders: a"]
    assert report.verdict(False) == report.FAILS


def test_the_slope_is_the_power_of_the_error():
    assert report.slope((8, 16, 32), (1e-1, 2.5e-2, 6.25e-3)) == pytest.approx(2)
