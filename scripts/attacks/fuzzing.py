"""Readers and parsers against invalid bytes: each answers, or refuses as documented.

python -m attacks.fuzzing TARGET SECONDS [DIR]   with atheris, until something is wrong, or the time is up
python -m attacks.fuzzing --mutate N             without it: each target with its corpus, and N mutated inputs
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from .damage import directory
from .targets import TARGETS

CORPUS = Path(__file__).parents[2] / "tests" / "attacks" / "corpus"

_LONGEST = 4096


def corpus(name: str) -> Path:
    """Return the directory with the inputs of a target, including every one that was once handled wrongly."""
    return CORPUS / ("block" if name == "counting" else name)


def mutated(inputs: list[bytes], chance: random.Random) -> bytes:
    """Return an input made from one or two others."""
    content = bytearray(chance.choice(inputs))
    for _ in range(chance.randrange(1, 5)):
        at, other = chance.randrange(len(content) + 1), chance.choice(inputs)
        way = chance.randrange(5)
        if way == 0 and content:
            content[at % len(content)] ^= 1 << chance.randrange(8)
        elif way == 1:
            content[at : at + chance.randrange(8)] = chance.randbytes(chance.randrange(8))
        elif way == 2:
            content[at:at] = other[chance.randrange(len(other) + 1) :][:64]
        elif way == 3:
            content[at : at + 8] = chance.choice((0, 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)).to_bytes(8, "little")
        else:
            del content[at : at + chance.randrange(64)]
    return bytes(content[:_LONGEST])


def mutate(number: int, seed: int) -> int:
    """Give each target its corpus, and so many mutated inputs; return the number of inputs."""
    done = 0
    for name, make in TARGETS.items():
        chance, target, inputs = (
            random.Random(f"{seed} {name}"),
            make(),
            [file.read_bytes() for file in sorted(corpus(name).iterdir())],
        )
        for content in [*inputs, *(mutated(inputs, chance) for _ in range(number))]:
            try:
                target(content)
            except Exception as error:
                error.add_note(f"{name} was given {content!r}")
                raise
            done += 1
    return done


def fuzz(name: str, seconds: int, kept: Path | None) -> None:
    """Fuzz a target with atheris, and keep inputs with new coverage in a directory; this process ends with it.

    Inputs that are handled wrongly are kept there too, as ``crash-...``, ``timeout-...`` or ``oom-...``.
    """
    import atheris

    # atheris never frees an array that a comparison makes, of which that module has many.
    with atheris.instrument_imports(include=["shmstats"], exclude=["shmstats.history.past"]):
        target = TARGETS[name]()
        for file in corpus(name).iterdir():  # much is imported only when it is needed
            target(file.read_bytes())
    kept = kept or directory()
    kept.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-timeout=60", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={kept}/", str(kept), str(corpus(name))], target)
    atheris.Fuzz()


class Fuzzed(NamedTuple):
    """The result of fuzzing a target.

    Attributes:
        name: of the target.
        inputs: number of its inputs.
        seconds: of processor time.
        wrong: the fault; empty if there was none.
    """

    name: str
    inputs: int
    seconds: float
    wrong: str


def run(name: str, seconds: int) -> Fuzzed:
    """Fuzz a target in a separate process."""
    command = [sys.executable, "-m", "attacks.fuzzing", name, str(seconds)]
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, stdout=said, stderr=said, text=True) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.readlines()
    inputs = [int(number) for number in re.findall(r"^#(\d+)\t", "".join(lines), re.M)]
    wrong = "".join(line for line in lines if not line.startswith(("INFO", "#")))
    return Fuzzed(
        name, max(inputs, default=0), usage.ru_utime + usage.ru_stime, wrong[-4000:] if process.returncode else ""
    )


def run_all(seconds: int) -> Iterator[Fuzzed]:
    """Fuzz every target for so long, as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(run, TARGETS, repeat(seconds))


def main() -> None:
    """Run as the module says. A warning of numpy about its input is wrong, too: an application would print it."""
    warnings.simplefilter("error", RuntimeWarning)
    if sys.argv[1] == "--mutate":
        print(mutate(int(sys.argv[2]), 1))
    else:
        fuzz(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)


if __name__ == "__main__":
    main()
