import numpy as np
import pytest
import tiny_runs
from PIL import Image

from ddpm_jax import experiment
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.reporting import figures
from ddpm_jax.trained import drawing


@pytest.fixture
def draw(finished_run, tmp_path):
    """Draws with the command into an .npz and returns what it holds."""
    number = iter(range(100))

    def of(num_samples, **options):
        out = tmp_path / f"drawn_{next(number)}.npz"
        sample.to_files(str(finished_run.workdir), str(out), num_samples=num_samples, **options)
        with np.load(out) as held:
            return dict(held)

    return of


def grey_levels(a, b):
    """The largest difference, in grey levels."""
    return int(np.abs(a.astype(int) - b).max())


def test_the_file_holds_images_and_labels_and_a_grid_lies_beside_it(finished_run, tmp_path, capsys):
    out = tmp_path / "new" / "a.npz"
    sample.to_files(str(finished_run.workdir), str(out), num_samples=12)
    with np.load(out) as held:
        assert set(held) == {"samples", "labels"}
        images, labels = held["samples"], held["labels"]
    assert (images.shape, images.dtype) == ((12, 8, 8, 1), np.uint8)
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert len(np.unique(images)) > 20
    with Image.open(out.with_suffix(".png")) as picture:
        np.testing.assert_array_equal(np.asarray(picture), figures.grid(images, 10)[..., 0])
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.npz", "a.png"]
    assert capsys.readouterr().out == f"12 samples in {out}, a grid in {out.with_suffix('.png')}\n"


def test_a_png_gets_the_grid_alone(finished_run, tmp_path):
    sample.to_files(str(finished_run.workdir), str(tmp_path / "a.npz"), num_samples=12)
    sample.to_files(str(finished_run.workdir), str(tmp_path / "b.png"), num_samples=12)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.wide(3)
def test_an_image_depends_on_its_seed_and_number_alone(draw):
    whole = draw(20, batch_size=24)["samples"]
    assert grey_levels(draw(20, batch_size=8)["samples"], whole) <= 1
    assert grey_levels(draw(5, batch_size=8)["samples"], whole[:5]) <= 1
    other = draw(20, batch_size=24, seed=1)["samples"]
    assert grey_levels(other, whole) > 50
    # No two are the same noise.
    assert len(np.unique(whole.reshape(20, -1), axis=0)) == 20


@pytest.mark.parametrize("target", ["a.npz", "a.png", "folder"])
@pytest.mark.wide(6)
def test_what_was_interrupted_goes_on_and_ends_alike(
    finished_run, tmp_path, capsys, monkeypatch, target
):
    def to(folder, num=150, **options):
        out = tmp_path / folder / target
        sample.to_files(str(finished_run.workdir), str(out), num_samples=num, **options)
        return tiny_runs.snapshot(out.parent)

    straight = to("straight")
    drawn = []

    def draw(*args, **options):
        drawn.append(options["first"])
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_images(*args, **options)

    draw_images = drawing.draw_images
    monkeypatch.setattr(drawing, "draw_images", draw)
    with pytest.raises(KeyboardInterrupt):
        to("cut")
    assert not (tmp_path / "cut" / "a.npz").exists()
    capsys.readouterr()
    assert to("cut") == straight
    assert drawn == [0, 64, 128, 128]
    said = capsys.readouterr()
    assert said.err == "128 of 150 samples are drawn; going on from there\n"
    assert "150 samples in " in said.out


def test_given_labels_cycle_and_count(draw, finished_run):
    default = draw(8)
    labelled = draw(8, labels=["3", "1"])
    assert labelled["labels"].tolist() == [3, 1, 3, 1, 3, 1, 3, 1]
    # Image 1 has class 1 either way, image 0 has not.
    assert grey_levels(labelled["samples"][1], default["samples"][1]) <= 1
    assert grey_levels(labelled["samples"][0], default["samples"][0]) > 1


@pytest.mark.wide(6)
def test_guidance_leans_on_the_label_and_scale_0_ignores_it(draw):
    ignored = [draw(8, labels=[label], guidance_scale=0.0)["samples"] for label in "27"]
    np.testing.assert_array_equal(*ignored)
    guided = [draw(8, labels=[label], guidance_scale=4.0)["samples"] for label in "27"]
    assert grey_levels(*guided) > 1


@pytest.mark.wide(3)
def test_the_average_is_drawn_unless_the_raw_parameters_are_asked_for(draw, finished_run):
    average, raw = draw(8), draw(8, raw_params=True)
    assert grey_levels(average["samples"], raw["samples"]) > 1
    loaded = experiment.load(finished_run.workdir, raw_params=True)
    np.testing.assert_array_equal(loaded.sample(8), raw["samples"])


@pytest.mark.wide(3)
def test_an_older_checkpoint_can_be_asked_for(draw):
    latest, last, older = (draw(8, step=step)["samples"] for step in (None, 800, 700))
    np.testing.assert_array_equal(latest, last)
    assert grey_levels(latest, older) > 1


@pytest.mark.wide(3)
def test_the_best_checkpoint_can_be_asked_for(tmp_path):
    config = tiny_runs.brief_config(train={"validate_every": 2, "keep_checkpoints": 3})
    assert train.train(config, tmp_path) == 0
    losses = {m["step"]: m["validation_loss"] for m in tiny_runs.metrics(tmp_path) if len(m) > 1}
    best = min(losses, key=losses.get)
    assert experiment.load(tmp_path, step="best").step == best
    assert train.train(tiny_runs.brief_config(), tmp_path / "plain") == 0
    with pytest.raises(UserError, match=r"step=best: .*has a validation loss"):
        experiment.load(tmp_path / "plain", step="best")


def test_a_folder_gets_a_png_an_image(finished_run, draw, tmp_path):
    folder = tmp_path / "new" / "images"
    sample.to_files(str(finished_run.workdir), str(folder), num_samples=3, labels=["4", "0"])
    names = ["000000_class_4.png", "000001_class_0.png", "000002_class_4.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    drawn = draw(3, labels=["4", "0"])["samples"]
    for name, image in zip(names, drawn, strict=True):
        with Image.open(folder / name) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image[..., 0])


@pytest.mark.wide(3)
def test_a_folder_that_holds_other_samples_is_refused(finished_run, tmp_path):
    """Whoever measures the folder would take all of them for one set."""
    folder, workdir = tmp_path / "images", str(finished_run.workdir)
    sample.to_files(workdir, str(folder), num_samples=6, labels=["1"])
    (folder / "notes.png").write_bytes(b"mine")
    before = tiny_runs.snapshot(tmp_path)
    for labels in (["2"], ["1"]):
        with pytest.raises(
            UserError, match=r"holds 6 samples already, 000000_class_1\.png .*delete"
        ):
            sample.to_files(workdir, str(folder), num_samples=3, labels=labels)
    assert tiny_runs.snapshot(tmp_path) == before
    # Files that are no samples may lie there.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.png").write_bytes(b"mine")
    sample.to_files(workdir, str(tmp_path / "mine"), num_samples=2, labels=["1"])


@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.wide(6)
def test_what_was_interrupted_while_it_was_written_goes_on(
    finished_run, tmp_path, monkeypatch, fewer
):
    """Its own files are there; a shorter set would leave some of them over."""

    def to(folder, num):
        sample.to_files(str(finished_run.workdir), str(tmp_path / folder), num_samples=num)

    save, saved = figures.save_png, []

    def cut(path, image):
        saved.append(path)
        if len(saved) == 5:
            raise KeyboardInterrupt
        save(path, image)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(figures, "save_png", cut)
        with pytest.raises(KeyboardInterrupt):
            to("cut", 8)
    assert len(list((tmp_path / "cut").iterdir())) == 4
    if fewer:
        with pytest.raises(UserError, match="holds 4 samples already"):
            to("cut", 3)
        return
    to("cut", 8)
    to("straight", 8)
    assert tiny_runs.snapshot(tmp_path / "cut") == tiny_runs.snapshot(tmp_path / "straight")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "straight"]


@pytest.mark.parametrize("out", [".", "..", "./", "inner/.."])
@pytest.mark.wide(4)
def test_the_current_folder_can_be_written_to(finished_run, tmp_path, monkeypatch, out):
    (tmp_path / "here" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    sample.to_files(str(finished_run.workdir), out, num_samples=2, labels=["4"])
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    folder = "" if out == ".." else "here/"
    assert written == [f"{folder}00000{k}_class_4.png" for k in range(2)]
    assert not list(tmp_path.rglob("*.parts"))


def test_a_trajectory_in_the_place_of_the_grid_is_refused(finished_run, tmp_path):
    with pytest.raises(UserError, match=r"--trajectory=.*a\.png: that is where the grid of --out"):
        sample.to_files(
            str(finished_run.workdir), str(tmp_path / "a.npz"), num_samples=1,
            trajectory=str(tmp_path / "a.png"),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_model_without_classes_gives_the_label_minus_1(unconditional_run, tmp_path):
    sample.to_files(str(unconditional_run.workdir), str(tmp_path / "a.npz"), num_samples=3)
    with np.load(tmp_path / "a.npz") as held:
        assert held["labels"].tolist() == [-1, -1, -1]
        assert held["samples"].shape == (3, 8, 12, 3)
    sample.to_files(str(unconditional_run.workdir), str(tmp_path / "b"), num_samples=1)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["000000.png"]


def test_the_script_draws_what_the_package_does(finished_run, tmp_path):
    # One device and a padded last batch there, eight devices and one batch here.
    flags = ["--num_samples=7", "--seed=3", "--labels=2,5,9", "--sampler=ancestral",
             "--num_steps=10", "--guidance_scale=1.5", "--batch_size=4"]  # fmt: skip
    out = tmp_path / "a.npz"
    done = tiny_runs.script("sample", f"--workdir={finished_run.workdir}", f"--out={out}", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7 samples in ")
    with np.load(out) as held:
        assert held["labels"].tolist() == [2, 5, 9, 2, 5, 9, 2]
        theirs = held["samples"]
    ours = experiment.load(finished_run.workdir).sample(
        7, seed=3, labels=[2, 5, 9], sampler="ancestral", num_steps=10, guidance_scale=1.5
    )
    assert grey_levels(ours, theirs) <= 1


@pytest.mark.wide(6)
def test_an_ode_that_is_not_solved_is_one_line(finished_run):
    loaded = experiment.load(finished_run.workdir)
    with pytest.raises(UserError, match=r"2 of 2 samples are not a number.*sample\.max_steps"):
        loaded.sample(2, sampler="probability_flow", max_steps=1, clip_x0=False)


@pytest.mark.wide(3)
def test_images_without_a_label_are_not_called_by_one(finished_run, tmp_path, capsys):
    """At guidance_scale=0 the network is told nothing, so no image is of the class asked for."""
    workdir, out = str(finished_run.workdir), tmp_path / "a.npz"
    options = {"num_samples": 3, "guidance_scale": 0.0}
    sample.to_files(workdir, str(out), labels=["3"], **options)
    with np.load(out) as held:
        assert held["labels"].tolist() == [-1] * 3
        unlabelled = held["samples"]
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "guidance_scale=0" in line and "--labels=3" in line]
    sample.to_files(workdir, str(tmp_path / "folder"), labels=["3"], **options)
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    # Nobody asked for labels: they are as little there, and nothing is to be said.
    capsys.readouterr()
    sample.to_files(workdir, str(out), **options)
    with np.load(out) as held:
        assert held["labels"].tolist() == [-1] * 3
        np.testing.assert_array_equal(held["samples"], unlabelled)
    assert "guidance_scale" not in capsys.readouterr().err
