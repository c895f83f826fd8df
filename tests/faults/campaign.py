"""The long form of the fault suite: sections that can be stopped and go on, and their record."""

import concurrent.futures
import dataclasses
import json
import shutil
import signal
import tempfile
import threading
from pathlib import Path

import jax
import numpy as np
import tiny_runs
from faults import damage
from faults import processes_killed as killed

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.data import Batches
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, files
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.step_files import Damaged

# The runs of a campaign are numbered, and each number has random numbers of its own.
KILLS, TERMS, FLIPS = 1, 2, 3


@dataclasses.dataclass
class Campaign:
    """What was done so far, kept in a file after each whole run.

    Attributes:
      out: the JSON file.
      say: where progress goes.
      jobs: runs at a time.
    """

    out: Path
    say: object
    jobs: int

    def __post_init__(self):
        self.record = files.read_json(self.out) if self.out.is_file() else {}
        self.scratch = Path(tempfile.mkdtemp(prefix="faults-"))
        self._lock = threading.Lock()
        self._reference = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # What failed stays, to be looked at.
        if not failures(self.record):
            shutil.rmtree(self.scratch, ignore_errors=True)

    def keep(self, section, **values):
        """Set values of a section and write the file."""
        with self._lock:
            self.record.setdefault(section, {}).update(values)
            files.write_json(self.out, self.record)

    def reference(self):
        """The workdir of a run that nothing disturbed."""
        with self._lock:
            if self._reference is None:
                workdir = self.scratch / "reference"
                code, said = killed.run(workdir)
                assert code == 0, said
                self._reference = workdir
        return self._reference

    def runs(self, section, wanted, one):
        """Call one(number) -> list of entries until there are `wanted`; each number once."""
        entries = self.record.get(section, {}).get("entries", [])
        numbers = iter(range(self.record.get(section, {}).get("runs", 0), 10**9))
        self.reference()

        def worker():
            while len(entries) < wanted:
                with self._lock:
                    number = next(numbers)
                found = one(number)
                with self._lock:
                    entries.extend(found)
                self.keep(section, entries=entries, runs=number + 1)
                self.say(f"{section}: {min(len(entries), wanted)} of {wanted}")

        with concurrent.futures.ThreadPoolExecutor(self.jobs) as threads:
            for done in [threads.submit(worker) for _ in range(self.jobs)]:
                done.result()
        return entries


def kills(campaign, wanted):
    """Runs killed several times each, then finished; equal to the reference or not."""
    expected = killed.digest(campaign.reference())

    def one(number):
        rng = killed.generator(KILLS, number)
        workdir = campaign.scratch / f"kill-{number}"
        entries = []
        for _ in range(rng.integers(4, 9)):
            reached = killed.steps_logged(workdir)
            how, code = killed.kill_at_random(workdir, rng, seconds=12)
            entries.append({"run": number, "how": how, "code": code, "from": reached})
        entries = [entry for entry in entries if entry["code"] == -signal.SIGKILL]
        code, said = killed.run(workdir)
        equal = code == 0 and killed.digest(workdir) == expected
        if equal:
            shutil.rmtree(workdir)
        return [entry | {"equal": equal, "said": "" if equal else said} for entry in entries]

    entries = campaign.runs("kills", wanted, one)
    by_how = {}
    for entry in entries:
        by_how.setdefault(entry["how"], []).append(entry["equal"])
    campaign.keep(
        "kills",
        kills=len(entries),
        equal=sum(entry["equal"] for entry in entries),
        by_place={how: f"{sum(found)}/{len(found)}" for how, found in sorted(by_how.items())},
    )


def terms(campaign, wanted):
    """Runs stopped by SIGTERM or SIGINT at random times of their training, then finished."""
    expected = killed.digest(campaign.reference())

    def one(number):
        rng = killed.generator(TERMS, number)
        workdir = campaign.scratch / f"term-{number}"
        signal_number = (signal.SIGTERM, signal.SIGINT)[rng.integers(2)]
        code, _ = killed.signalled(workdir, rng.uniform(0, 3), signal_number, from_first_step=True)
        if code != 75:  # it had finished before the signal came
            return []
        done = killed.steps_logged(workdir)
        with Checkpoints(workdir, read_only=True) as saved:
            lost = done - saved.latest()
        code, said = killed.run(workdir)
        equal = code == 0 and killed.digest(workdir) == expected
        return [{"run": number, "at": done, "lost": lost, "equal": equal, "said": said[-300:]}]

    entries = campaign.runs("terms", wanted, one)
    campaign.keep(
        "terms",
        stops=len(entries),
        equal=sum(entry["equal"] for entry in entries),
        most_steps_lost=max(entry["lost"] for entry in entries),
    )


def flips(campaign, wanted):
    """Single bits flipped anywhere in a step; each of its files cut and deleted. In one process."""
    steps = campaign.reference() / "checkpoints"
    newest = max(int(path.name) for path in steps.iterdir())
    workdir = campaign.scratch / "flips"
    shutil.copytree(steps, workdir / "checkpoints")
    folder = workdir / "checkpoints" / str(newest)
    rng = killed.generator(FLIPS)
    detected = whole = cut = 0
    with Checkpoints(workdir, read_only=True) as saved:

        def is_found():
            try:
                saved.verify(newest)
            except Damaged:
                return True
            return False

        for _ in range(wanted):
            place = damage.random_flip(folder, rng)
            damage.flip(*place)
            # What is used instead is the step before, one interval back.
            detected += is_found() and saved.newest_whole(lambda line: None) == newest - (
                killed.INTERVAL
            )
            damage.flip(*place)
            whole += not is_found()
        paths = damage.files_of(folder)
        for path in paths:
            content = path.read_bytes()
            for size in sorted({0, len(content) // 2, len(content) - 1}):
                path.write_bytes(content[:size])
                cut += is_found()
            path.unlink()
            cut += is_found()
            path.write_bytes(content)
        sizes = [len(path.read_bytes()) for path in paths]
    cuts = sum(1 + len({0, size // 2, size - 1}) for size in sizes)
    campaign.keep(
        "flips",
        flips=wanted,
        detected=detected,
        whole_again=whole,
        files=len(paths),
        cuts_and_deletions=cuts,
        cuts_and_deletions_detected=cut,
    )


def injections(campaign, wanted):
    """Batches with NaN, infinities or pixels of 1e30 in one run; every checkpoint of it read."""
    every = 4  # steps from one injection to the next
    last = every * wanted + 1
    values = (np.nan, np.inf, -np.inf, 1e30)
    workdir = campaign.scratch / "injections"
    config = tiny_runs.brief_config(
        train={"num_steps": last, "checkpoint_every": 5, "keep_checkpoints": last}
    )
    batch_at = Batches.batch_at

    def poisoned(self, step):
        batch = batch_at(self, step)
        number, place = divmod(step, every)
        if place == every - 1:
            images = batch["x0"].copy()
            images[number % len(images), 4, 4] = values[number % len(values)]
            batch["x0"] = images
        return batch

    Batches.batch_at = poisoned
    try:
        assert train.train(config, workdir) == 0
    finally:
        Batches.batch_at = batch_at
    shapes = experiment.build(config).state_shapes()
    bad = leaves = 0
    with Checkpoints(workdir, read_only=True) as saved:
        for step in saved.steps():
            for leaf in jax.tree.leaves(digests.on_host(saved.restore(step, shapes))):
                leaves += 1
                bad += not np.isfinite(leaf).all()
        skipped = int(saved.restore(last, shapes).extra["guard"]["skipped"])
    campaign.keep(
        "injections",
        injections=wanted,
        skipped=skipped,
        checkpoints=last // 5 + 1,
        leaves=leaves,
        leaves_not_finite=bad,
        clean=wanted if not bad and skipped == wanted else 0,
    )


def reruns(campaign, wanted):
    """configs/digits.py for 1,000 steps, again and again, one at a time: the same to the byte?"""
    finals = campaign.record.get("reruns", {}).get("finals", [])
    while len(finals) < wanted:
        workdir = campaign.scratch / f"rerun-{len(finals)}"
        done = tiny_runs.script(
            "train",
            "--config=configs/digits.py",
            f"--workdir={workdir}",
            "--config.train.num_steps=1000",
            timeout=3600,
        )
        if done.returncode:
            raise UserError(f"a rerun ended with {done.returncode}: {done.stderr[-500:]}")
        samples = sorted((workdir / "samples").iterdir())
        finals.append(tiny_runs.final(workdir) | damage.sums(samples))
        campaign.keep("reruns", finals=finals)
        campaign.say(f"reruns: {len(finals)} of {wanted}")
        shutil.rmtree(workdir)
    equal = sum(final == finals[0] for final in finals)
    campaign.keep("reruns", reruns=len(finals), equal=equal)


def failures(record):
    """What does not hold, a line each."""
    claims = {
        "kills": ("equal", "kills"),
        "terms": ("equal", "stops"),
        "flips": ("detected", "flips"),
        "reruns": ("equal", "reruns"),
        "injections": ("clean", "injections"),
    }
    found = [
        f"{section}: {record[section].get(good)} of {record[section].get(all_)} {good}"
        for section, (good, all_) in claims.items()
        if section in record and record[section].get(good) != record[section].get(all_)
    ]
    cuts = record.get("flips", {})
    if cuts.get("cuts_and_deletions") != cuts.get("cuts_and_deletions_detected"):
        found.append("flips: not every cut or deletion was detected")
    return found


def dumps(record):
    """The record without its long lists."""
    short = {
        section: {k: v for k, v in values.items() if k not in ("entries", "finals")}
        for section, values in record.items()
    }
    return json.dumps(short, indent=2, default=np.ndarray.tolist)
