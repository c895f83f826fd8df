"""Measure what samplers and likelihoods must show, and write it down.

  python scripts/conformance.py --out=DIR [--only=orders,laws,likelihood,identities,guidance,parity]

orders: orders of convergence, exact and published forms, on several paths. laws: the law of what
noisy samplers draw; exactness on a point mass and of the ODE. likelihood: three ways beside the
truth. identities: of parameterisations and losses; symmetries of samplers. guidance: what guided
sampling and inpainting draw, beside the laws one might take it for. parity: diffusers' schedules
and schedulers (needs the extra [parity]). Writes conformance.md, conformance.json, conformance.png
and docs/guidance.md's guided_density.png and inpainting_gap.png into DIR; figures need the extra
[test]. Takes minutes. Exit code 1 if a claim fails.
"""

import os
import sys
from pathlib import Path

from absl import flags

from ddpm_jax import cli
from ddpm_jax.errors import UserError

_OUT = flags.DEFINE_string("out", None, "the folder to write into")
_ONLY = flags.DEFINE_list("only", [], "sections to measure, separated by commas; all by default")
flags.declare_key_flag("compile_cache")


def main() -> int:
    known = ("orders", "laws", "likelihood", "identities", "guidance", "parity")
    for name in _ONLY.value:
        if name not in known:
            raise UserError(f"--only={name}: no such section{cli.suggest(name, list(known))}")
    if not _OUT.value:
        raise UserError("--out is missing: name the folder to write into")
    folder = Path(_OUT.value)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={folder}: cannot make it ({error.strerror})") from error
    # Read when jax is first used: samples must not depend on the number of devices, so there are 8.
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
    cli.start_jax()
    # The measurements are the tests' own, and stand beside them.
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from conformance import report, sections, texts

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    measured = {name: sections.SECTIONS[name](say) for name in _ONLY.value or known}
    report.write(folder, measured, texts.HEAD)
    print((folder / "conformance.md").read_text(encoding="utf-8"))
    failures = report.failures(measured)
    for failure in failures:
        print(f"FAILS: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    cli.run(main)
