"""How open the house is, in figures: `python tests/house_figures.py`.

Files that a traced `build` and a traced training step run through, switches on the kind of a run,
fields of the default config, compilations of a second `run.sample`, lines of README, long files.
"""

import ast
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddpm_jax"
# Names of kinds and of built-in networks, and their classes.
NAMES = {"denoiser", "classifier", "language", "unet", "dit", "transformer"}
CLASSES = {"Classifier", "UNet", "DiT", "LanguageModel", "WithSchedule"}


def switches(tree: ast.AST) -> Iterator[str]:
    """Comparisons with a kind's or a network's name, and isinstance of a network's class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = {
                n.value for side in sides for n in ast.walk(side) if isinstance(n, ast.Constant)
            }
            asked = " ".join(ast.unparse(side) for side in sides)
            if words & NAMES and ("kind" in asked or "name" in asked):
                yield ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            if names & CLASSES:
                yield ast.unparse(node)


def files_of(act: Callable[[], object]) -> set[str]:
    """The package's files of which a function runs while `act` does."""
    seen: set[str] = set()

    def profile(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            seen.add(os.path.relpath(frame.f_code.co_filename, PACKAGE))

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    return seen


def figures() -> dict[str, object]:
    """All of them, by name."""
    import jax
    import tiny_runs

    from ddpm_jax import experiment
    from ddpm_jax.config import config_files
    from ddpm_jax.default_config import get_config

    config = tiny_runs.tiny_config()
    built = experiment.build(config)  # what is imported late is there before it is counted
    build = files_of(lambda: experiment.build(config))
    step, shapes, batch = built.train_step(), built.state_shapes(), built.batch_shapes()
    train_step = files_of(lambda: step.lower(shapes, batch))
    params = built.init_params(jax.random.key(0))
    model = experiment.Loaded(built, params, 0)
    model.sample(8, labels=[3])
    compiled = []

    def listen(event, duration, **metadata):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(metadata)

    jax.monitoring.register_event_duration_secs_listener(listen)
    model.sample(8, labels=[3], seed=1)
    files = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    return {
        "files that a traced build runs through": len(build),
        "files that a traced training step runs through": len(train_step),
        "of build": sorted(build),
        "of a training step": sorted(train_step),
        "switches on the kind": sum(
            len(list(switches(ast.parse(text))))
            for path, text in files.items()
            if path.name != "earlier.py"
        ),
        "fields of the default config": len(config_files.fields(get_config())),
        "compilations of a second run.sample": len(compiled),
        "lines of README": len((ROOT / "README.md").read_text().splitlines()),
        "files over 300 lines": {
            os.path.relpath(path, PACKAGE): len(text.splitlines())
            for path, text in files.items()
            if len(text.splitlines()) > 300
        },
    }


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    with tempfile.TemporaryDirectory():
        print(json.dumps(figures(), indent=2))
