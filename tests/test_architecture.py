"""The house plan: which way imports point, and that everything public says what it is."""

import ast
from pathlib import Path

import house_figures
import pytest

from ddpm_jax.data import DATASETS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddpm_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
EVERYWHERE = {"errors", "streams"}

# The table; the default experiment, which is of one of them; what earlier versions wrote.
KNOW_DATA_SETS = (
    "ddpm_jax/data/datasets.py",
    "ddpm_jax/config/defaults.py",
    "ddpm_jax/config/earlier.py",
)
# What each room may import of the others: what docs/architecture.md says, and no more.
MATHEMATICS = {"diffusion", "samplers"}
PARTS = MATHEMATICS | {"models", "codecs", "data", "runtime"}
BUILT = PARTS | {"training", "config", "build"}
ALLOWED = {
    "errors": set(),
    "streams": set(),
    "runtime": set(),
    "diffusion": set(),
    "samplers": {"diffusion"},
    "models": {"diffusion"},
    "codecs": set(),
    "data": {"runtime"},
    "training": {"diffusion", "runtime"},
    "evaluation": PARTS,
    "interop": MATHEMATICS | {"models", "runtime", "codecs", "data"},
    "reporting": {"data", "runtime"},
    "command_words": set(),
    "config_words": set(),
    "cli": {"command_words", "config_words", "runtime"},
    "__main__": {"cli"},
    "sample_flags": set(),
    "config": {"cli", "runtime"},
    "default_config": {"config"},
    "build": PARTS | {"training", "config", "interop"},
    "trained": BUILT,
    "measures": BUILT | {"trained", "evaluation", "interop", "reporting"},
    "experiment": BUILT | {"cli", "trained", "measures", "reporting"},
    "sweeps": BUILT | {"cli", "trained", "measures", "reporting", "evaluation", "experiment"},
    "commands": None,  # all of the package
}
PEERS = ("peers.py", "clip_peer.py")
SCRIPTS_SEE = {"commands", "cli", "errors"}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, wherever in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # `from ddpm_jax import x` imports the module ddpm_jax.x.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        assert not list(imports(path))
        return
    assert part in ALLOWED, f"{part} has no place in the house plan: give it one here"
    allowed = ALLOWED[part]
    for name in imports(path):
        if name.split(".")[0] == "ddpm_jax" and allowed is not None:
            other = name.split(".")[1]
            assert other in {part} | allowed | EVERYWHERE, f"{named(path)} imports {name}"
        assert name.split(".")[0] not in ("configs", "scripts", "tests")


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_libraries_stay_where_they_belong(path):
    part = part_of(path)
    for name in imports(path):
        library = name.split(".")[0]
        if path.name not in PEERS:  # the benchmark beside them, asked for by name
            assert library not in ("torch", "tensorflow", "diffusers", "transformers"), named(path)
        if library == "flax":
            assert part == "models", f"{named(path)} imports {name}"
        if library == "diffrax":
            assert part == "samplers", f"{named(path)} imports {name}"
        if library == "ml_collections":
            known = ("config", "build", "trained", "measures", "experiment", "sweeps", "commands")
            assert part in known, f"{named(path)} imports {name}"
        if library == "absl" and name.split(".")[1] == "flags":
            defines = part in ("cli", "sample_flags") or path.name == "command.py"
            assert defines, f"{named(path)} imports {name}"
        if part in ("diffusion", "samplers") and library != "ddpm_jax":
            known = (
                "jax",
                "numpy",
                "collections",
                "contextlib",
                "dataclasses",
                "functools",
                "inspect",
                "itertools",
                "operator",
                "typing",
            )
            assert library in (*known, "math", "diffrax"), f"{named(path)} imports {name}"
            assert "sharding" not in name, "the mathematics knows of no devices"


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=named)
def test_a_script_parses_and_calls(path):
    for name in imports(path):
        if name.split(".")[0] == "ddpm_jax":
            assert name.split(".")[1] in SCRIPTS_SEE, f"{named(path)} imports {name}"
    assert len(path.read_text().splitlines()) <= 70
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=named)
def test_a_config_is_the_default_plus_its_difference(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    libraries = {name.split(".")[0] for name in imports(path)}
    # The fields themselves are the package's, which reads older runs by them.
    known = {"ddpm_jax"} if path.stem == "default" else {"ml_collections", "configs"}
    assert libraries <= known
    if path.stem != "default":
        body = ast.parse(path.read_text()).body
        get_config = next(n for n in body if isinstance(n, ast.FunctionDef))
        assert get_config.end_lineno - get_config.lineno < 40


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_whatever_is_public_says_what_it_is(path):
    module = ast.parse(path.read_text())
    assert ast.get_docstring(module), f"{named(path)} has no docstring"
    missing = list(undocumented(module.body))
    assert not missing, f"{named(path)}: no docstring in {', '.join(missing)}"


def names_of_data(tree):
    """The places that compare the name of a data set, or name one that is built in."""
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if any(ast.unparse(side).endswith("data.name") for side in sides):
            yield ast.unparse(node)
        if isinstance(node, ast.Constant) and node.value in DATASETS:
            yield node.value


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_only_the_table_knows_data_sets_by_name(path):
    if named(path) not in KNOW_DATA_SETS:
        names = set(names_of_data(ast.parse(path.read_text())))
        # The names that `from ddpm_jax.data import *` would bring, which are functions.
        allowed = {*DATASETS} if named(path) == "ddpm_jax/data/__init__.py" else set()
        assert not names - allowed, f"{named(path)}: {names}"


def undocumented(body, prefix="", protocol=False):
    """The public functions, classes and methods without a docstring."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        # A protocol's attribute is told by the class.
        if not ast.get_docstring(node) and not protocol:
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).split("[")[0] for base in node.bases}
            yield from undocumented(node.body, f"{prefix}{node.name}.", "Protocol" in bases)


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_nothing_asks_what_kind_a_run_is(path):
    """What must be known of one stands in its record, build/kinds.py."""
    if named(path) != "ddpm_jax/config/earlier.py":  # which reads what earlier versions wrote
        switches = list(house_figures.switches(ast.parse(path.read_text())))
        assert not switches, f"{named(path)}: {switches}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_long_file_says_why(path):
    """In a comment at its beginning, right after its docstring."""
    lines = path.read_text().splitlines()
    if len(lines) > 300:
        body = ast.parse(path.read_text()).body
        after = [line for line in lines[body[0].end_lineno : body[0].end_lineno + 3] if line]
        assert after, named(path)
        assert after[0].startswith("# Over 300 lines:"), f"{named(path)} has {len(lines)} lines"


def test_switches_are_seen():
    seen = house_figures.switches(
        ast.parse("c.kind == 'classifier'; c.model.name in ('unet',); isinstance(m, Classifier)")
    )
    assert len(list(seen)) == 3
