"""Nothing that is read from a workdir, or given as weights or data, is executed."""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.data import folder, tfds_source
from ddpm_jax.errors import UserError
from ddpm_jax.interop.diffusers import unet_from_diffusers
from ddpm_jax.interop.dit import dit_from_diffusers

# What executes what it reads, by the name it is called by; and the modules that are only for that.
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "import_module", "unsafe_load"}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
EXECUTES = {
    "config_words.py": "runpy.run_path",  # --config=FILE.py, which the user names as code
    "sweeps/sweep_file.py": "runpy.run_path",  # --sweep=FILE.py, the same
    "config/own_code.py": "importlib.import_module",  # package.module:name, named at launch
    "__main__.py": "importlib.import_module",  # a command of a literal table
    "commands/benchmark/worker.py": "importlib.import_module",  # a side of a literal table
}


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def trap_code(marker):
    return f"open({str(marker)!r}, 'w').close()\n"


def test_a_trap_shuts(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "marker"))).close()
    assert (tmp_path / "marker").exists()


def calls(path):
    """Each call in a file as (dotted name, keywords)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {key.arg: ast.unparse(key.value) for key in node.keywords}
            yield ast.unparse(node.func), keywords


def test_the_package_calls_nothing_that_executes_what_it_reads():
    """Read from its source; a call of jitted.compile() or re.compile() is none of these."""
    modules = sorted((tiny_runs.ROOT / "ddpm_jax").rglob("*.py"))
    assert len(modules) > 50
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_MODULES, path
        for name, keywords in calls(path):
            assert name not in FORBIDDEN_CALLS, (path, name)
            assert name not in ("torch.load", "np.loadtxt", "np.genfromtxt", "os.system"), path
            if name in ("np.load", "numpy.load", "jnp.load"):
                assert keywords.get("allow_pickle") == "False", (path, name)
            if name.startswith("runpy.") or name.endswith(".import_module"):
                relative = path.relative_to(tiny_runs.ROOT / "ddpm_jax").as_posix()
                assert EXECUTES.get(relative) == name, (path, name)


def planted(directory, marker):
    """Every name that Python, jax or a reader of configs might import or run, as a trap."""
    code = trap_code(marker)
    names = ("config", "sitecustomize", "usercustomize", "ddpm_jax", "jax", "numpy", "orbax",
             "__init__", "__main__", "conftest", "setup")  # fmt: skip
    for name in names:
        (directory / f"{name}.py").write_text(code)
    for package in ("configs", "tests"):
        (directory / package).mkdir()
        for name in ("__init__", "default", "digits"):
            (directory / package / f"{name}.py").write_text(code)
    for name in ("config.pkl", "model.pt", "model.ckpt", "checkpoint.pkl", "state.npy"):
        (directory / name).write_bytes(pickle.dumps(Trap(marker)))
    (directory / "matplotlibrc").write_text("backend: module://config\n")
    (directory / "config.yaml").write_text(f"!!python/object/apply:os.mknod [{str(marker)!r}]\n")


@pytest.fixture
def trapped(finished_run, tmp_path):
    """(workdir, marker): a run's own files beside traps, in it and in its checkpoints."""
    workdir, marker = tmp_path / "run", tmp_path / "marker"
    shutil.copytree(finished_run.workdir, workdir)
    planted(workdir, marker)
    planted(workdir / "checkpoints" / "800", marker)
    return workdir, marker


SCRIPT = [str(tiny_runs.ROOT / "scripts" / "sample.py")]
MODULE = ["-m", "ddpm_jax", "sample"]


@pytest.mark.wide(6)
@pytest.mark.slow
@pytest.mark.parametrize("started", [SCRIPT, MODULE, ["-P", *MODULE]], ids=["script", "-m", "-P"])
def test_a_command_started_in_a_workdir_imports_nothing_of_it(trapped, started):
    workdir, marker = trapped
    if started == MODULE:
        # Python itself runs what is called so there before this package can say anything.
        (workdir / "ddpm_jax.py").unlink()
    environment = tiny_runs.environment() | {"PYTHONPATH": str(tiny_runs.ROOT)}
    done = subprocess.run(
        [sys.executable, *started, "--workdir=.", "--num_samples=2", "--num_steps=2",
         "--out=drawn.npz"],
        cwd=workdir, env=environment, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.load(workdir / "drawn.npz", allow_pickle=False)["samples"].shape == (2, 8, 8, 1)
    assert not marker.exists()


@pytest.mark.wide(3)
def test_training_on_and_evaluating_execute_nothing_of_a_workdir(trapped, monkeypatch):
    workdir, marker = trapped
    monkeypatch.chdir(workdir)
    quiet = {"num_steps": 801, "sample_every": 0, "validate_every": 0}
    assert train.train(tiny_runs.tiny_config(train=quiet), workdir) == 0
    assert tiny_runs.final(workdir)["step"] == 801
    report = evaluate.evaluate(".", metrics=["spread"], num_samples=10)
    assert report["run"]["checkpoint_step"] == 801
    assert not marker.exists()


def test_a_pickle_in_the_place_of_a_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(pickle.dumps(Trap(tmp_path / "marker"), 0))
    with pytest.raises(UserError, match=r"config\.json is not a config"):
        experiment.load(tmp_path)
    assert not (tmp_path / "marker").exists()


def test_pickles_in_the_place_of_a_checkpoints_files_are_refused(finished_run, tmp_path):
    workdir, marker = tmp_path / "run", tmp_path / "marker"
    shutil.copytree(finished_run.workdir, workdir)
    step = workdir / "checkpoints" / "800"
    for path in [path for path in step.rglob("*") if path.is_file()]:
        path.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(UserError):
        experiment.load(workdir, step=800)
    assert not marker.exists()


def zipped(marker):
    """As torch.save writes: a zip file with a pickle in it."""
    import io

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Trap(marker)))
    return stream.getvalue()


DIT = {"_class_name": "DiTTransformer2DModel"}
UNET = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "add_attention": False,
}


@pytest.mark.parametrize(
    ("read", "config", "protocol"),
    [(unet_from_diffusers, UNET, "zip"), (unet_from_diffusers, UNET, 4)]
    + [(dit_from_diffusers, DIT, protocol) for protocol in (0, 2, 3, 4, 5, "zip")],
)
def test_weights_that_are_a_pickle_are_refused_by_content_too(tmp_path, read, config, protocol):
    marker = tmp_path / "marker"
    trap = zipped(marker) if protocol == "zip" else pickle.dumps(Trap(marker), protocol)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(trap)
    # Protocol 0 is text without a mark: it is no safetensors file, and that is all.
    reason = "is not a whole safetensors file" if protocol == 0 else "is a pickle.*save it again"
    with pytest.raises(ValueError, match=reason) as caught:
        read(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    weights.unlink()
    for name in ("model.pt", "model.pth", "model.ckpt", "model.bin", "model.pkl"):
        (tmp_path / name).write_bytes(trap)
        for given in (tmp_path / name, tmp_path):
            with pytest.raises(ValueError, match=r"is a pickle.*save it again"):
                read(given)
        (tmp_path / name).unlink()
    assert not marker.exists()


@pytest.mark.wide(3)
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pt", "x.pkl", "x.png"])
def test_a_pickle_as_data_is_refused(tmp_path, finished_run, name):
    marker, path = tmp_path / "marker", tmp_path / name
    trap = np.array([Trap(marker)], dtype=object)
    if name == "x.npy":
        np.save(path, trap, allow_pickle=True)
    elif name == "x.npz":
        np.savez(path, samples=trap)
    else:
        path.write_bytes(zipped(marker) if name == "x.pt" else pickle.dumps(Trap(marker)))
    with pytest.raises(UserError, match=f"--init_image={path}: .*neither PNG nor JPEG"):
        sample.to_files(
            str(finished_run.workdir), str(tmp_path / "out.npz"), num_samples=1,
            task={"init_image": [str(path)]},
        )  # fmt: skip
    with pytest.raises(UserError, match="--labels="):
        sample.to_files(
            str(finished_run.workdir), str(tmp_path / "out.npz"), num_samples=1, labels=[str(path)]
        )
    if name == "x.png":
        with pytest.raises(UserError, match="neither PNG nor JPEG"):
            list(folder(tmp_path, "train", (4, 4), 1, holdout=0))
    assert not marker.exists()


def test_a_prepared_data_set_imports_no_module_that_it_names(tmp_path, monkeypatch):
    """TFDS imports the module of every class that a data set's files name."""
    from ddpm_jax.data.prepare import prepare

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "data"))
    import test_tfds  # its builder of a tiny data set

    prepare("ddpm_tiny_images", tmp_path)
    prepared = tmp_path / "ddpm_tiny_images" / "1.0.0"
    marker, modules = tmp_path / "marker", tmp_path / "modules"
    modules.mkdir()
    for name in ("evil_feature", "evil_module"):
        (modules / f"{name}.py").write_text(trap_code(marker))
    monkeypatch.syspath_prepend(str(modules))
    info, features = prepared / "dataset_info.json", prepared / "features.json"
    info.write_text(info.read_text().replace('"test_tfds"', '"evil_module.builder"'))
    assert "evil_module" in info.read_text()
    source = tfds_source("ddpm_tiny_images", "train", tmp_path, (6, 8), 3)
    assert source[0]["image"].shape == (6, 8, 3)
    assert not marker.exists()

    text = "tensorflow_datasets.core.features.text_feature.Text"
    features.write_text(features.read_text().replace(text, "evil_feature.Text"))
    with pytest.raises(UserError, match=r"has a feature of evil_feature\.Text") as caught:
        tfds_source("ddpm_tiny_images", "train", tmp_path, (6, 8), 3)
    assert len(str(caught.value).splitlines()) == 1
    assert not marker.exists()
    assert len(test_tfds.PIXELS) == 12

    for content in ("[" * 100_000, "{}", '{"pythonClassName": 3}', "\x80\x04"):
        features.write_text(content)
        with pytest.raises(UserError) as caught:
            tfds_source("ddpm_tiny_images", "train", tmp_path, (6, 8), 3)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["../x", "/etc/x", "x/../../y", "a:b:c", "x\0y", "hugging:face"])
def test_a_data_sets_name_is_no_path(tmp_path, name):
    """A config that is read from a workdir names the data set."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "features.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        tfds_source(name, "train", tmp_path / "inner", (6, 8), 3)
    assert len(str(caught.value).splitlines()) == 1
    assert os.listdir(tmp_path / "inner") == []


def test_a_plot_runs_nothing_that_settings_of_the_current_directory_ask_for(tmp_path, monkeypatch):
    import matplotlib

    from ddpm_jax.reporting import plots

    def refuse(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    rows = [{"scale": k, "recall": 0.5, "label_accuracy": k / 3} for k in range(3)]
    with matplotlib.rc_context({"text.usetex": True}):  # what a matplotlibrc sets
        plots.trade_off(tmp_path / "a.png", "scale", rows, {"recall": 0.5, "label_accuracy": 1.0})
        assert matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "a.png").stat().st_size > 1000
