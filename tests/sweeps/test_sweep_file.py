"""Cells of a sweep file: their names, what shares a training, what is refused."""

import textwrap

import pytest

from ddpm_jax.config import defaults
from ddpm_jax.errors import UserError
from ddpm_jax.sweeps import cell_flags, plan, sweep_file, workdirs

HEAD = """
from configs import digits
from ddpm_jax.sweeps import grid, seeds
get_config = digits.get_config
"""


@pytest.fixture
def read(tmp_path):
    def read(text, head=HEAD, name="a_sweep"):
        path = tmp_path / f"{name}.py"
        path.write_text(head + textwrap.dedent(text))
        return sweep_file.read(path)

    return read


RATES = """
    def sweep():
        return grid({"optim.learning_rate": (1e-3, 3e-4)}, seeds(2))
"""


def test_cells_are_named_by_what_differs(read):
    sweep = read(RATES)
    names = [cell.name.rsplit("-", 1)[0] for cell in sweep.cells]
    # 1e-3 is what the base config has.
    assert names == [
        "seed=0",
        "seed=1",
        "learning_rate=0.0003,seed=0",
        "learning_rate=0.0003,seed=1",
    ]
    assert [cell.setting for cell in sweep.cells] == ["learning_rate=0.001"] * 2 + [
        "learning_rate=0.0003"
    ] * 2
    assert len({cell.name for cell in sweep.cells}) == 4
    assert all(cell.training == cell.name for cell in sweep.cells)


def test_more_cells_move_none(read):
    few = read(RATES)
    more = read(
        """
        def sweep():
            return grid(
                {
                    "diffusion.schedule": ("linear", "cosine"),
                    "optim.learning_rate": (3e-3, 1e-3, 3e-4),
                    "optim.weight_decay": (0.0,),
                },
                seeds(3),
            )
        """
    )
    # cosine and no decay are the base's: those cells are the same runs as before.
    assert {cell.name for cell in few.cells} <= {cell.name for cell in more.cells}
    assert len({cell.name for cell in more.cells}) == 18
    assert few.base_digest == more.base_digest


def test_a_field_of_a_later_version_moves_no_cell(read, monkeypatch):
    before = read(RATES)

    def later():
        config = defaults.denoiser()
        with config.unlocked():
            config.train.a_new_field = 7
        return config

    monkeypatch.setitem(defaults.CONFIGS, "denoiser", later)
    after = read(RATES)
    assert after.base.train.a_new_field == 7
    assert after.base_digest == before.base_digest
    assert [cell.name for cell in after.cells] == [cell.name for cell in before.cells]


def test_the_same_folder_elsewhere_is_the_same_cell(read):
    names = [
        read(
            f"""
            def sweep():
                return [{{"data.data_dir": "{folder}", "seed": 1}}]
            """
        )
        .cells[0]
        .name.rsplit("-", 1)[1]
        for folder in ("/one", "/two")
    ]
    assert names[0] == names[1]


def test_one_training_serves_cells_that_are_sampled_otherwise(read):
    sweep = read(
        """
        def sweep():
            return grid({"sample.num_steps": (5, 10)}, seeds(2))
        evaluate = dict(metrics=("kid",), samplers=(
            dict(sampler="ddim", options={"eta": 0.5}), dict(sampler="heun")))
        """
    )
    assert len(sweep.cells) == 8
    assert len({cell.name for cell in sweep.cells}) == 8
    assert len(sweep.trainings()) == 2
    for training in sweep.trainings().values():
        assert set(training.overrides) == {"seed"}
    cell = sweep.cells[0]
    assert cell.sampling == {
        "sample.num_steps": 5,
        "sample.sampler": "ddim",
        "sample.options.eta": 0.5,
    }
    assert cell.setting == "sample.num_steps=5,sampler=ddim,sample.options.eta=0.5"
    lines = cell_flags.measure_lines(workdirs.Path("/d"), sweep, cell)
    assert "--options=num_steps=5,sampler=ddim,eta=0.5" in lines
    assert "--guidance_scale=2.0" in lines  # the base's
    assert len({str(workdirs.result(workdirs.Path("/d"), c)) for c in sweep.cells}) == 8


def test_unguided_runs_are_measured_without_a_scale(read):
    """Which metrics of the model alone, such as a likelihood, would refuse."""
    sweep = read(
        """
        def sweep():
            return grid({"sample.guidance_scale": (1.0, 3.0)}, seeds(1))
        evaluate = dict(metrics=("bits",))
        """,
        HEAD.replace("digits", "digits_autoregressive"),
    )
    plain, guided = (cell_flags.measure_lines(workdirs.Path("/d"), sweep, c) for c in sweep.cells)
    assert not any("guidance" in line for line in plain)
    assert "--guidance_scale=3.0" in guided


def test_own_parts_that_the_file_names_may_be_used_where_it_is_measured(read):
    sweep = read(
        """
        def sweep():
            return grid({"diffusion.loss": ("simple", "mine.losses:huber")}, seeds(1))
        evaluate = dict(metrics=("kid",), samplers=(dict(sampler="yours:walk"),))
        """
    )
    plain, own = (cell_flags.measure_lines(workdirs.Path("/d"), sweep, c) for c in sweep.cells)
    assert "--code=yours" in plain
    assert "--code=mine.losses,yours" in own


def test_samples_that_choose_the_checkpoint_are_a_matter_of_training(read):
    sweep = read(
        """
        def sweep():
            return grid({"sample.num_steps": (5, 10), "train.evaluate_every": (0, 100)})
        evaluate = dict(metrics=("kid",))
        """
    )
    assert len(sweep.trainings()) == 3


def test_flags_are_those_of_the_train_command(read, tmp_path):
    sweep = read(
        """
        def sweep():
            return [{"model.channel_multipliers": (1, 2), "data.flip": True,
                     "diffusion.schedule_options": {"s": 0.01}, "seed": 3}]
        """
    )
    (cell,) = sweep.cells
    assert cell_flags.flag_lines(tmp_path / "d", sweep, cell) == [
        f"--config={tmp_path / 'a_sweep.py'}",
        "--config.model.channel_multipliers=(1, 2)",
        "--config.data.flip=true",
        "--config.diffusion.schedule_options.s=0.01",
        "--config.seed=3",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def sweep(): return [{'optim.learning_rat': 1.0}]",
            "optim.learning_rat; did you mean opt",
        ),
        ("def sweep(): return [{'optim.learning_rate': 'x'}]", "cell .*learning_rate='x'"),
        ("def sweep(): return [{'optim.learning_rate': float('nan')}]", "cell .*finite number"),
        ("def sweep(): return [{'train.num_steps': 0}]", "cell .*num_steps=0.*at least 1"),
        ("def sweep(): return [{'optim': 3}]", "config.optim is a group of fields"),
        ("def sweep(): return []", "the sweep is empty"),
        ("def sweep(): return seeds(0)", r"cannot load it in sweep\(\) \(ValueError: seeds\(0\)"),
        ("def sweep(): return 1 / 0", "ZeroDivisionError"),
        ("raise KeyError('k')", "cannot load it"),
        ("", r"has no function sweep\(\)"),
        ("def sweep(): return [{'seed': 1}, {'seed': 1}]", "two cells are the same: seed=1-"),
        ("def sweep(): return grid({'sample.num_steps': (2, 3)})", "which nothing measures"),
        ("evaluate = dict(metric='fid')\ndef sweep(): return seeds(1)", "did you mean metrics"),
        ("evaluate = dict(num_samples=3)\ndef sweep(): return seeds(1)", "must name metrics"),
        ("evaluate = 3\ndef sweep(): return seeds(1)", "evaluate must be a dict"),
        ("baseline = {'seed': 9}\ndef sweep(): return seeds(2)", "is no cell"),
        ("baseline = 'learning_rate=7'\ndef sweep(): return seeds(2)", "is no cell"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is no Python file"):
        sweep_file.read(tmp_path / "missing.py")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="is no Python file"):
        sweep_file.read(tmp_path / "a.json")


def test_a_baseline_is_a_setting(read):
    by_fields = read("baseline = {'optim.learning_rate': 1e-3}\n" + textwrap.dedent(RATES))
    by_name = read("baseline = 'learning_rate=0.001'\n" + textwrap.dedent(RATES))
    assert by_fields.baseline == by_name.baseline == "learning_rate=0.001"


def test_a_folder_of_another_sweep_is_refused(read, tmp_path):
    first, workdir = read(RATES), tmp_path / "d"
    plan.write(first, workdir)
    plan.check_workdir(read(RATES.replace("3e-4", "1e-4")), workdir)  # other cells, the same base
    with pytest.raises(UserError, match=r"is of another sweep \(a_sweep\)"):
        plan.check_workdir(read(RATES, name="b_sweep"), workdir)
    other = HEAD.replace(
        "get_config = digits.get_config",
        "from configs import shapes\nget_config = shapes.get_config",
    )
    with pytest.raises(UserError, match="its base config was another"):
        plan.check_workdir(read(RATES, head=other), workdir)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is a run, not a sweep"):
        plan.check_workdir(first, tmp_path / "run")
