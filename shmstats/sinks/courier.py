"""A queue and the thread, started on demand, that works it off: for destinations that may be slow."""

from __future__ import annotations

import _thread
import queue
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Courier(Generic[_Item]):
    """The base of couriers.

    The thread is not one of `threading`: starting one takes a lock that the thread which a signal handler
    interrupts may hold.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._one = _thread.allocate_lock()  # held by the only thread

    @property
    def running(self) -> bool:
        """Whether the thread is running."""
        return self._one.locked()

    def take(self, item: _Item) -> bool:
        """Queue an item; False if there is no thread for it, and none can be started."""
        if not self.start():
            return False
        self._queue.put(item)
        return self._queue.empty() or self.start()  # it may have ended just before

    def start(self) -> bool:
        """Start the thread if it is not running; False if that is not possible."""
        if not self._one.acquire(blocking=False):
            return True
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            self._one.release()
            return False
        return True

    def _run(self) -> None:
        while True:
            self._work()
            self._one.release()
            # A caller that came just now saw this thread still running, and started none.
            if not self._is_needed() or not self._one.acquire(blocking=False):
                return

    def _work(self) -> None:
        """Work the queue off until the thread is to end."""
        raise NotImplementedError

    def _is_needed(self) -> bool:
        """Tell whether there is something to do."""
        return not self._queue.empty()
