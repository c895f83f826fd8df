"""README and docs/: every page is in the site, every link leads somewhere, every flag is there."""

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from configs import default
from ddpm_jax.config.defaults import CONFIGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", *PAGES]
MODULES = sorted((ROOT / "ddpm_jax").rglob("*.py"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python scripts/|python -m ddpm_jax )(\w+)(?:\.py)?([^`;&\n]*)")


def named(path):
    return path.relative_to(ROOT).as_posix()


def test_every_page_is_in_the_site_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(pages_of(config["nav"])) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def pages_of(nav):
    """The files of a nav, which nests lists, and dicts of a title."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages_of(value) if isinstance(value, list) else [value]


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_every_link_leads_to_a_file_and_a_heading(path):
    for link in LINK.findall(path.read_text()):
        if "://" in link:
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{named(path)}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in {slug(heading) for heading in headings}, f"{named(path)}: {link}"


def slug(heading):
    """The anchor that GitHub and the site make of a heading of plain words."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_readme_is_short_and_begins_with_the_command_that_trains():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    first = re.search(r"```sh\n(.*?)```", text, re.S).group(1)
    assert re.search(
        r"^pip install .* && python scripts/train\.py --config=\S+ --work", first, re.M
    )
    assert re.search(r"^pip install .* && pytest", text, re.M)


def commands(path):
    """(name, the rest of the line) of each command shown, lines joined at backslashes."""
    return COMMAND.findall(path.read_text().replace("\\\n", " ").replace('"--', "--"))


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_every_command_has_the_flags_that_it_is_shown_with(path):
    for name, rest in commands(path):
        for flag in re.findall(r"--(?:no)?(\w+)", rest):
            assert flag == "config" or flag in flags_of(name), f"{named(path)}: {name} --{flag}"


def flags_of(name):
    """What the files that define a command's flags call their flags: all texts in their calls."""
    package = ROOT / "ddpm_jax"
    command = package / "commands" / name / "command.py"
    files = [command, package / "cli.py", package / "sample_flags.py"]
    files = files if command.exists() else [ROOT / "scripts" / f"{name}.py", package / "cli.py"]
    return {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } | {"help"}


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_every_field_that_a_command_sets_is_one_of_the_config(path):
    for field in re.findall(r"--config\.([\w.]+)=", path.read_text()):
        known = [default.get_config(kind) for kind in CONFIGS]
        assert any(has(config, field) for config in known), f"{named(path)}: --config.{field}"


def has(value, field):
    """Whether a config has a dotted field."""
    for part in field.split("."):
        if part not in value:
            return False
        if part.endswith("options"):
            return True  # what they may hold is for the part that takes them to say
        value = value[part]
    return True


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_docstrings_describe_arguments_that_there_are(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            spec = node.args
            arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
            names = {argument.arg for argument in arguments if argument}
            for name in described(ast.get_docstring(node) or ""):
                assert name in names, f"{named(path)}: {node.name} has no argument {name}"


def described(docstring):
    """The names under "Args:", of which a line may hold several."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.S | re.M)
    for names in re.findall(r"^  (\S[^:]*):", section.group(1) if section else "", re.M):
        yield from (name.strip("* `") for name in names.split(","))
