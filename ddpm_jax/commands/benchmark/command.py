"""Measure speed and memory on this machine, quiet or the figures mean nothing.

  python scripts/benchmark.py --out=benchmark.json
  python scripts/benchmark.py --quick --peer=diffusers --only=train_step,sampling --out=ratios.json

Figures are written as JSON and printed as tables, section by section:

train_step: a whole training step of four networks. sampling: 50 steps of DDIM at batch 1, 16 and
128. With --peer=diffusers both run on its same networks too. clip: a training step of CLIP's
ViT-B/32, with --peer=transformers beside theirs. A peer runs eagerly and (not --quick) by
torch.compile, with equal weights, batch and precision, each in a process of its own, in turns; the
ratios are our time over theirs. guided_sampling: images/s of the experiment's own sampler.
latent_unet: a forward pass of Stable Diffusion 1's U-Net on random weights, on CPUs at 32x32
latents, on accelerators at 64x64 in bfloat16. loading: reading those weights, 3.4 GB, and the
memory that it takes beside the parameters; on Linux.
loop: a step inside the training loop over the bare compiled step (1 is no cost). input: images/s of
the data pipeline alone by number of threads, of the experiment's data, of a folder of 256-pixel
JPEGs, and of the same as array_record. startup: seconds of a whole process that trains one step,
from an empty (cold) and from a filled (warm) compile cache, and MB of a short run. checkpoint: save
and restore of 36 million parameters with their moments. scaling: a step over 1, 2, 4 and 8 devices.
memory: what a training step keeps, with and without config.model.remat and config.mesh.fsdp, of the
experiment's network and of DiT-B/2; traced, so any machine will do. forecast: actual over forecast,
of a short run's time and of the memory of training. group: 8 steps of 8 runs in turn over one step
of all of them in one program. strict: a step with config.mesh.strict over the plain one, on one
device and on all that there are (JAX_NUM_CPU_DEVICES=8 makes eight of CPUs). deterministic: of
GPUs, what deterministic kernels cost, and that a resumed run has the same bits.
feature_statistics: 50,000 features of 2048 dimensions, streamed.
prdc: of 10,000 samples and 10,000 references in 64 dimensions.

Times are seconds. --quick leaves out slow sections and what takes a CPU minutes: bfloat16,
torch.compile, some turns. --networks=digits_unet leaves out the other networks of train_step.
--append=docs/benchmarks adds the run to that folder, with its date and machine.
"""

import importlib.util
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import flags

from ddpm_jax import cli, config_words
from ddpm_jax.commands.benchmark import journal
from ddpm_jax.commands.benchmark.options import CONFIGS
from ddpm_jax.errors import UserError, suggest

# Beside whom, and in which ways: eagerly first, since --quick has no other.
PEERS = {"diffusers": ("eager", "compile"), "transformers": ("eager", "compile")}
NEEDS = {"diffusers": ("torch", "diffusers"), "transformers": ("torch", "transformers")}
# What stands in the page of the command: the others name places of this machine.
SHOWN = ("--quick", "--peer=", "--only=", "--networks=")


def define() -> None:
    """Define the command's flags."""
    digits = CONFIGS / "digits.py"
    usual = str(digits) if digits.exists() else None
    flags.DEFINE_string("config_file", usual, "the experiment to measure")
    flags.DEFINE_string("out", None, "the JSON file to write")
    flags.DEFINE_list("only", [], "sections to measure; all of them by default")
    flags.DEFINE_list("networks", [], "of train_step, those to measure; all of them by default")
    flags.DEFINE_bool("quick", False, "leave out what takes a CPU minutes")
    flags.DEFINE_string(
        "peer", None, "measure the same beside it: diffusers, transformers (extra [parity])"
    )
    flags.DEFINE_string("append", None, "the folder whose page and files the run is added to")
    for name in ("compile_cache", "code_path"):
        flags.declare_key_flag(name)


def main() -> None:
    """Measure, print the figures and write them to --out."""
    f = flags.FLAGS
    cli.require("out", "name the JSON file to write")
    cli.require("config_file", "name the config file of what to measure")
    sides = _sides(f.peer, f.quick)
    if f.append:
        journal.check(Path(f.append))
    # Several processes share a GPU, and jax would take most of it for this one.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    cli.start_jax()
    chosen = _chosen(f.only, f.quick)
    networks = _networks(f.networks)
    out = Path(f.out)
    try:
        with out.open("a"):  # now, not after minutes of measuring
            pass
    except OSError as error:
        raise UserError(f"--out={out}: cannot write there ({error.strerror})") from error
    import jax

    from ddpm_jax.commands.benchmark import benchmark, tables
    from ddpm_jax.commands.benchmark.options import Options

    config = config_words.load_config_file(f.config_file)
    if cache := getattr(jax.config, "jax_compilation_cache_dir", None):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)  # of the other processes too
    platform = jax.devices()[0].platform
    options = Options(
        config=config,
        config_file=f.config_file,
        quick=f.quick,
        platform=platform,
        devices=jax.device_count(),
        sides=sides,
        networks=networks,
    )

    def keep(figures: dict[str, Any]) -> None:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    figures = benchmark.benchmark(options, chosen, keep)
    text = tables.text(figures, platform)
    print(text)
    if f.append:
        print(journal.append(Path(f.append), figures, _command(), text), file=sys.stderr)


def _sides(peer: str | None, quick: bool) -> tuple[tuple[str, str], ...]:
    """(peer, mode) for each way in which it is measured."""
    if peer is None:
        return ()
    if peer not in PEERS:
        raise UserError(f"--peer={peer}: no such peer{suggest(peer, [*PEERS])}")
    if missing := [name for name in NEEDS[peer] if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"--peer={peer}: {' and '.join(missing)} cannot be imported; pip install '.[parity]'"
        )
    return tuple((peer, mode) for mode in PEERS[peer][: 1 if quick else None])


def _chosen(only: list[str], quick: bool) -> dict[str, Any]:
    """The sections to measure, in the table's order."""
    from ddpm_jax.commands.benchmark.sections import SECTIONS, SLOW

    for name in only:
        if name not in SECTIONS:
            raise UserError(f"--only={name}: no such section{suggest(name, [*SECTIONS])}")
    names = only or [name for name in SECTIONS if not (quick and name in SLOW)]
    return {name: section for name, section in SECTIONS.items() if name in names}


def _networks(names: list[str]) -> tuple[str, ...]:
    """Those of train_step that were named."""
    from ddpm_jax.commands.benchmark.train_steps import NETWORKS

    for name in names:
        if name not in NETWORKS:
            raise UserError(f"--networks={name}: no such network{suggest(name, [*NETWORKS])}")
    return tuple(names)


def _command() -> str:
    """The command line without what is of this machine alone: the place of --out."""
    words = [word for word in sys.argv[1:] if word.startswith(SHOWN)]
    return shlex.join(["python", "scripts/benchmark.py", *words, "--out=benchmark.json"])
