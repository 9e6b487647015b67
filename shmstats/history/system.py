"""What the workers of a block use together, as series for the ring."""

from __future__ import annotations

from collections.abc import Iterable

from ..proc import uses_of
from ..series import Kind, Name, Value

_CPU = Name("system", "cpu_ms", Kind.COUNTER, monotonic=True, help="Processor time of all workers.")
_MEMORY = Name("system", "memory_bytes", Kind.GAUGE, help="Resident memory of all workers.", unit="bytes")
_WORKERS = Name("system", "workers", Kind.GAUGE, help="Live workers.")
_BUSY = Name("system", "busy_workers", Kind.GAUGE, help="Workers that serve a request.")

#: The names of what `SystemFigures.values` returns, in its order.
NAMES = (_CPU, _MEMORY, _WORKERS, _BUSY)


class SystemFigures:
    """Figures of all workers; processor time is a total that does not go back when a worker ends."""

    def __init__(self) -> None:
        self._cpu: dict[int, float] = {}
        self._total = 0.0

    def values(self, pids: Iterable[int], busy: int) -> list[Value]:
        """Return the values of `NAMES`.

        Args:
            pids: of the live workers.
            busy: of these, those that serve a request.
        """
        uses = dict(uses_of(pids))
        for pid, use in uses.items():
            self._total += max(use.cpu - self._cpu.get(pid, use.cpu), 0.0)
        self._cpu = {pid: use.cpu for pid, use in uses.items()}
        memory = sum(use.resident for use in uses.values())
        return [round(self._total * 1000), memory, len(uses), busy]
