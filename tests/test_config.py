import json

import pytest
from ml_collections import ConfigDict

from configs import default
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files


def test_a_config_survives_its_file(tmp_path):
    config = default.get_config()
    config_files.write(tmp_path, config)
    back = config_files.read(tmp_path)
    assert back.to_dict() == config.to_dict()
    assert isinstance(back.data.image_size, tuple)
    assert isinstance(back.model.channel_multipliers, tuple)
    assert config_files.differences(config, back) == []
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_no_file_is_no_config(tmp_path):
    assert config_files.read(tmp_path) is None
    assert config_files.read(tmp_path / "none") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is not a config"):
        config_files.read(tmp_path)


def test_a_field_that_an_older_run_does_not_know_has_its_default(tmp_path):
    config = config_files.override(default.get_config(), {"optim": {"learning_rate": 1.0}})
    older = config.to_dict()
    del older["optim"]["spike_sigma"], older["train"]["max_skipped"], older["ema"]["warmup"]
    files.write_json(tmp_path / "config.json", older)
    assert config_files.differences(config_files.read(tmp_path), config) == []
    assert config_files.read(tmp_path).optim.learning_rate == 1.0


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_an_override_changes_a_copy():
    config = default.get_config()
    changed = config_files.override(config, {"optim": {"learning_rate": 1.0}, "mesh": {"data": 2}})
    assert (changed.optim.learning_rate, changed.mesh.data) == (1.0, 2)
    assert config == default.get_config()
    assert config_files.differences(config, changed) == [
        ("mesh.data", -1, 2),
        ("optim.learning_rate", 2e-4, 1.0),
    ]


def test_an_override_of_nothing_or_of_another_type_is_refused():
    config = default.get_config()
    with pytest.raises(UserError, match=r"sample\.num_step; did you mean sample\.num_steps"):
        config_files.override(config, {"sample": {"num_step": 3}})
    with pytest.raises(UserError, match=r"config\.sample\.num_steps='few'"):
        config_files.override(config, {"sample": {"num_steps": "few"}})


def test_differences_see_fields_that_only_one_has():
    old, new = ConfigDict({"a": {"b": 1}}), ConfigDict({"a": {"c": (2,)}, "d": 0})
    assert config_files.differences(old, new) == [
        ("a.b", 1, None), ("a.c", None, (2,)), ("d", None, 0)
    ]  # fmt: skip


def test_a_misspelt_field_in_a_config_file_is_refused():
    with pytest.raises(KeyError, match="batch_sise"):
        default.get_config().data.update(batch_sise=3)


def test_a_run_keeps_its_folders_absolute_and_its_size_as_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_files.override(
        default.get_config(), {"data": {"data_dir": "images", "image_size": (8,)}}
    )
    data = config_files.resolve(config).data
    assert data.data_dir == str(tmp_path / "images")
    assert data.image_size == (8, 8)
    named = {"data": {"codec": "codec", "latent_shape": (4, 4, 2)}, "sample": {"clip_x0": False}}
    latent = config_files.resolve(config_files.override(config, named))
    assert latent.data.codec == str(tmp_path / "codec")
    judged = {"objective": {"perceptual": "lpips.safetensors"}}
    of_looks = config_files.override(default.get_config("autoencoder"), judged)
    seen = config_files.resolve(of_looks).objective.perceptual
    assert seen == str(tmp_path / "lpips.safetensors")
    once = config_files.resolve(config)
    assert config_files.differences(once, config_files.resolve(once)) == []
