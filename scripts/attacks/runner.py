"""Runs attacks, each in separate processes, and scores them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path

from tortures.storm import Tally, remove_block

from .programs import PRELUDE, PROGRAMS

ROOT = Path(__file__).parents[2]

#: Seconds that a program may take beyond its time.
_PATIENCE = 60.0


@dataclass
class Score:
    """The result of attacks; the last five numbers must be 0.

    Attributes:
        attacks: number of attacks.
        kills: number of killed processes.
        operations: number of operations counted meanwhile.
        lost: number of operations that are missing.
        doubled: number of operations that were counted twice.
        hung: number of attacks that did not end.
        crashed: number of attacks that ended in an error, or left one behind.
        let_in: number of attacks by somebody who got access.
        said: problems, in words; also if nothing was attacked.
    """

    attacks: int = 0
    kills: int = 0
    operations: int = 0
    lost: int = 0
    doubled: int = 0
    hung: int = 0
    crashed: int = 0
    let_in: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        """The numbers, in this order."""
        return [getattr(self, each.name) for each in fields(self) if each.name != "said"]

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong, and there were some attacks of each kind."""
        return not any(self.numbers[3:]) and not self.said

    def __add__(self, other: Score) -> Score:
        sums = (mine + theirs for mine, theirs in zip(self.numbers, other.numbers, strict=True))
        return Score(*sums, self.said + other.said)  # type: ignore[arg-type]


def run_program(name: str, seconds: float, seed: int, pure: bool = False) -> Score:
    """Run one of the programs; with ``pure`` on the pure Python core."""
    with tempfile.TemporaryDirectory(prefix="attack-") as top:
        Path(top).chmod(0o755)
        code = Path(top, "attack.py")
        code.write_text(PRELUDE + PROGRAMS[name])
        environment = os.environ | {"PYTHONPATH": str(ROOT), "SHMSTATS_PURE": "1" if pure else ""}
        command = [sys.executable, "-X", "faulthandler", str(code), top, str(seconds), str(seed)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        hung = False
        try:
            out, err = process.communicate(timeout=seconds + _PATIENCE)
        except subprocess.TimeoutExpired:
            hung = True
            os.killpg(process.pid, signal.SIGABRT)  # prints where its threads are
            out, err = process.communicate()
        finally:
            for number in range(3):
                remove_block(Path(top, f"data {number}"))
        if hung:
            return Score(hung=1, said=[f"{name}, seed {seed}, hung: {err[-4000:]}"])
        if process.returncode or "Traceback" in err:
            return Score(crashed=1, said=[f"{name}, seed {seed}, status {process.returncode}: {err[-4000:]}"])
        score = Score(**json.loads(out.splitlines()[-1]))
        if not score.clean:
            score.said.append(f"{name}, seed {seed}: {out}{err[-2000:]}")
        return score


def run_tests(column: str, *arguments: str, bound: float = 900.0) -> Score:
    """Run tests that are attacks: each failure counts in a column of the score."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=bound)
    except subprocess.TimeoutExpired:
        return Score(hung=1, said=[f"{' '.join(arguments)}: no end within {bound} s"])
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    score = Score(attacks=counts.get("passed", 0) + failed)
    setattr(score, column, failed)
    if failed or done.returncode not in (0, 5):
        score.said.append(done.stdout[-6000:])
    if done.returncode not in (0, 1, 5):
        score.crashed += 1
    return score


def score_of(tally: Tally) -> Score:
    """Return the result of storms as a score."""
    score = Score(sum(tally.faults.values()), tally.killed, tally.operations, tally.lost, tally.doubled)
    score.crashed = len(tally.problems)
    score.said = list(tally.problems)
    return score
