"""setup.cfg and requirements.lock agree: what the one asks for, the other pins, above its floor."""

import configparser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")


def _asked() -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for text in lists for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def _pinned() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("asked", _asked(), ids=str)
def test_every_requirement_is_pinned_once_above_its_floor(asked, python):
    environment = {
        "python_full_version": python,
        "python_version": python[:4],
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }
    pins = [
        pin
        for pin in _pinned()
        if canonicalize_name(pin.name) == canonicalize_name(asked.name)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]
    assert len(pins) == 1
    (specifier,) = pins[0].specifier
    assert specifier.operator == "=="
    assert asked.specifier.contains(specifier.version)


def test_the_lock_names_no_host_and_no_path():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--" not in text.replace("# --", "")
