"""The calls that the fast path of the core could not finish: check the arguments, find a handle, and use it.

The core calls these methods by name. If the shared block is the only provider, ``incr``, ``decr``, ``gauge``,
``timing`` and the handles work on the block in C, and only their misses arrive here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, TypeVar

from .attachment.slow_path import SharedProvider
from .checks import (
    check_duration,
    check_exemplar,
    check_handle,
    check_integer,
    check_number,
)
from .configured import Configured
from .core import Counter, Gauge, Recorder, Series
from .exemplars import add_exemplar
from .series import Exemplar, Labels, Value
from .sinks.fanout import FanOut

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The default of a value that was not given.
MISSING: Any = object()


def moment_at(microseconds: int) -> datetime | None:
    """Return the moment so many microseconds after 1970; None beyond the calendar, as a damaged block may have."""
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None


_Parameters = ParamSpec("_Parameters")

_Registry = TypeVar("_Registry", bound=Configured)


def behind_the_core(registry: type[_Registry]) -> type[_Registry]:
    """Give calls that the core has as well an underscore before their names, by which the core calls them.

    Error messages of Python about wrong arguments still have the name of the call, and a call of the core that is
    written in Python has its description and signature.
    """
    for name, call in list(vars(registry).items()):
        if not name.startswith("_") and hasattr(Recorder, name):
            call.__qualname__ = name
            if isinstance(getattr(Recorder, name), FunctionType):
                functools.update_wrapper(getattr(Recorder, name), call)
            setattr(registry, f"_{name}", call)
            delattr(registry, name)
    return registry


@behind_the_core
class Misses(Configured):
    """The misses of the fast path."""

    def incr(  # type: ignore[override]  # the core's own takes any further arguments
        self,
        category: str,
        metric: str,
        n: int = 1,
        *,
        labels: Mapping[str, object] | None = None,
        exemplar: Mapping[str, object] | None = None,
    ) -> None:
        """Add to a counter, or change a gauge.

        Args:
            category: of the statistic.
            metric: of the statistic.
            n: a signed 64-bit integer.
            labels: label names and values.
            exemplar: labels that identify an example, such as the number of a trace; 128 characters at most.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
            OverflowError: ``n`` does not fit 64 bits.
            KindError: the name is neither a counter nor a gauge.
            DeclarationError: the metric is declared with other label names.
        """
        if exemplar is None:
            self._count(1, category, metric, n, labels)
        else:
            self._count_with_exemplar(self._made(category, metric, Counter, labels), n, exemplar=exemplar)

    def decr(self, category: str, metric: str, n: int = 1, *, labels: Mapping[str, object] | None = None) -> None:
        """Subtract from a counter, which is exported as a gauge from then on, or change a gauge; raises as `incr`."""
        self._count(-1, category, metric, n, labels)

    def _count(self, sign: int, category: str, metric: str, n: int, labels: Mapping[str, object] | None) -> None:
        n = check_integer("n", n)
        series = self._made(category, metric, Counter, labels)
        if sign > 0:
            series.incr(n)
        else:
            series.decr(n)

    def _count_with_exemplar(self, series: Series, n: int = 1, *, exemplar: Mapping[str, object] | None = None) -> None:
        """Do the ``incr`` of a counter's handle, with an exemplar."""
        pairs = None if exemplar is None else check_exemplar(exemplar)
        n = check_integer("n", n)
        series.incr(n)  # type: ignore[attr-defined]
        self._keep_exemplar(series, pairs, n)

    def _observe_with_exemplar(
        self, series: Series, value: int | float, /, *, exemplar: Mapping[str, object] | None = None
    ) -> None:
        """Do as the ``observe`` of a handle of a histogram, with an exemplar."""
        pairs = None if exemplar is None else check_exemplar(exemplar)
        observed = check_duration("value", value)
        series.observe(observed)  # type: ignore[attr-defined]
        self._keep_exemplar(series, pairs, observed)

    def _keep_exemplar(self, series: Series, pairs: Labels | None, value: float) -> None:
        if pairs is not None:
            self._deliver(FanOut.annotate, series, functools.partial(add_exemplar, Exemplar(pairs, value, time.time())))

    def _count_series(self, sign: int, series: Series, n: int | float) -> None:
        if isinstance(series, Gauge) and not hasattr(n, "__index__"):
            amount = sign * check_number("n", n)
            check_handle(series)
            self._deliver(FanOut.move, series, amount)
        else:
            whole = check_integer("n", n)
            check_handle(series)
            self._deliver(FanOut.count, sign, series, whole)
        self._keep_bound(series)

    def _deliver(
        self,
        operation: Callable[Concatenate[FanOut, _Parameters], None],
        *arguments: _Parameters.args,
        **named: _Parameters.kwargs,
    ) -> None:
        """Do an operation on what the registry counts into; later if this thread is just configuring that."""
        if self._guard.is_held():
            self._guard.defer(functools.partial(self._deliver, operation, *arguments, **named))
            return
        if self._settings is None:
            _ = self.shared  # configures
        fan_out = self._fan_out
        if fan_out.shared is None:
            return  # nothing is counted, and further providers get nothing either
        operation(fan_out, *arguments, **named)
        if self._exiting:
            fan_out.shared.close()  # close again at once, because the interpreter is exiting

    def _set_series(self, series: Series, value: int | float) -> None:
        value = check_number("value", value)
        check_handle(series)
        self._deliver(FanOut.set, series, value)
        self._keep_bound(series)

    def _observe_series(self, series: Series, value: int | float) -> None:
        value = check_duration("value", value)
        check_handle(series)
        self._deliver(FanOut.observe, series, value)
        self._keep_bound(series)

    def _value(self, series: Series) -> Value:
        return SharedProvider.value(self.shared, series.category, series.metric, series.labels)


Misses._count_with_exemplar.__qualname__, Misses._observe_with_exemplar.__qualname__ = "incr", "observe"
