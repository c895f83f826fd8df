"""torch-fidelity, an independent FID in torch, without the torchvision that it asks for."""

import importlib.util
import sys
import types

import pytest

COMMAND = "pip install --no-deps torch-fidelity==0.4.0"


def torch_fidelity():
    """The package; a test that asks for it is skipped where it is not installed.

    torchvision's wheels are compiled for torch's CUDA build: beside the CPU build they cannot be
    imported, and diffusers, which imports torchvision wherever it is installed, neither. So
    torch-fidelity is installed without it, and imported with an empty one in its place: what the
    tests call of it is torch alone.
    """
    pytest.importorskip("torch")
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip(f"torch-fidelity is not installed: {COMMAND}")
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms")
    stubs = {name: types.ModuleType(name) for name in (*names, f"{names[2]}.functional")}
    stubs = {name: stub for name, stub in stubs.items() if name not in sys.modules}
    for name, stub in stubs.items():
        parent, _, own = name.rpartition(".")
        if parent in stubs:
            setattr(stubs[parent], own, stub)
        for base in ("CIFAR10", "CIFAR100", "STL10"):  # of classes that the package derives
            setattr(stub, base, object)
    sys.modules.update(stubs)
    try:
        import torch_fidelity
    finally:
        for name in stubs:
            del sys.modules[name]
    return torch_fidelity
