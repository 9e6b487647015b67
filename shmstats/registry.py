"""The operations that user code calls, fanned out to the providers.

With the shared block as its only provider, `Registry.incr`, `Registry.decr`, `Registry.gauge` and the
handles go straight to the block in C: they are methods of the base class, and only their *misses* arrive
here, in the methods whose names begin with an underscore. Here the arguments are checked, the handle is
made, and every provider gets the operation.
"""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing.util
import operator
import os
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from . import config
from .block.cells import Counter, Gauge, Recorder, Series, Timing
from .block.lock import Guard
from .block.names import check_text
from .providers import Provider
from .providers.guarded import GuardedProvider
from .providers.shared import OWN, SharedProvider, close_all
from .providers.statsd import StatsdProvider
from .series import Snapshot, Value
from .timer import Timer

log = logging.getLogger("shmstats")

#: Categories that user code cannot count into.
RESERVED = ("system", OWN)

_Handle = TypeVar("_Handle", bound=Series)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_INT64_MAX = 2**63 - 1
_INT64_MIN = -(2**63)


class Registry(Recorder):
    """Statistics, shared by all processes that have the same data directory.

    It finds its configuration and attaches by itself on first use; `init` does both at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._guard = Guard()
        self._configuring = False
        self._settings: config.Settings | None = None
        self._shared: SharedProvider | None = None
        self._others: tuple[GuardedProvider, ...] = ()
        self._statsd: GuardedProvider | None = None
        self._leave_when_dropped = weakref.finalize(self, _nothing)
        self._exiting = False
        self._exit_arranged = False
        _registries.add(self)

    def init(self, config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> None:
        """Configure the registry and attach the block.

        Args:
            config: path of a YAML file, or a mapping like its content; None to find it:
                ``$SHMSTATS_CONFIG``, else ``./shmstats.yml``, else the defaults.

        Raises:
            ConfigError: the configuration has an error.
            BlockError: there is a block for the data directory that must not be used.
            OSError: shared memory is full or not usable.
        """
        with self._guard:
            self.close()
            self._configure(config)
            if self._shared is not None:
                self._shared.attach()

    @property
    def configured(self) -> bool:
        """Whether there are settings yet."""
        return self._settings is not None

    @property
    def settings(self) -> config.Settings:
        """The settings in force; they are looked for if there are none yet.

        Raises:
            ConfigError: the configuration has an error.
        """
        with self._guard:
            if self._settings is None:
                self._configure(None)
            assert self._settings is not None
            return self._settings

    @property
    def shared(self) -> SharedProvider | None:
        """The shared block's provider; None where statistics are disabled, or wrongly configured."""
        if self._settings is None and not self._interrupted:
            try:
                _ = self.settings
            except config.ConfigError as error:
                with self._guard:
                    self._settings = config.load({"stats": {"enabled": False}})
                log.error("nothing is counted: %s", error)
        return self._shared

    @property
    def _interrupted(self) -> bool:
        """Whether this is a signal handler in the middle of this very thread's configuring."""
        return self._configuring and self._guard.held

    def absolute(self, category: str, metric: str, value: int) -> None:
        """Set a gauge, or the total of a counter, to an integer.

        Args:
            category: of the statistic.
            metric: of the statistic.
            value: a signed 64-bit integer.
        """
        value = _integer("value", value)
        series = self._made(category, metric, Gauge)
        self._deliver(
            lambda shared: shared.set(series, value),
            lambda other: other.absolute(series.category, series.metric, value),
        )
        self._keep_bound(series)

    def counter(self, category: str, metric: str) -> Counter:
        """Return a handle of a counter, for code that counts often.

        Args:
            category: of the statistic.
            metric: of the statistic.
        """
        return self._made(category, metric, Counter)

    def timer(self, category: str, metric: str) -> Timer:
        """Return a context manager and decorator that times what it is around.

        Args:
            category: of the histogram.
            metric: of the histogram.
        """
        return Timer(self._made(category, metric, Timing).observe)

    def timestamp(self, category: str, metric: str, moment: datetime | None = None) -> None:
        """Note a moment; it is not saved with the other statistics.

        Args:
            category: of the timestamp.
            metric: of the timestamp.
            moment: what to note, aware of its time zone; None for now.

        Raises:
            TypeError: ``moment`` is no datetime.
            ValueError: it has no time zone.
        """
        series = self._made(category, metric, Series)
        moment = datetime.now(UTC) if moment is None else _moment("moment", moment)
        self._deliver(
            lambda shared: shared.note(series, (moment - _EPOCH) // timedelta(microseconds=1)),
            lambda other: other.timestamp(series.category, series.metric, moment),
        )

    def get_timestamp(self, category: str, metric: str) -> datetime | None:
        """Return the moment that was noted last, in UTC; None where there is none, or no timestamp.

        Args:
            category: of the timestamp.
            metric: of the timestamp.
        """
        category, metric = check_text("category", category), check_text("metric", metric)
        shared = self.shared
        noted = None if shared is None else shared.moment(category, metric)
        return None if noted is None else _EPOCH + timedelta(microseconds=noted)

    def get(self, category: str, metric: str) -> Value:
        """Return the value over all workers; 0 where it was never written.

        Args:
            category: of the statistic; reserved ones can be read.
            metric: of the statistic.
        """
        category, metric = check_text("category", category), check_text("metric", metric)
        shared = self.shared
        return 0 if shared is None else shared.value(category, metric)

    def snapshot(self) -> dict[str, dict[str, Value]]:
        """Return every value: ``{category: {metric: value}}``."""
        document: dict[str, dict[str, Value]] = {}
        read = self.read()
        for name, value in zip(read.names, read.values, strict=True):
            if name.category != OWN or value:
                document.setdefault(name.category, {})[name.metric] = value
        return document

    def read(self) -> Snapshot:
        """Return every name and value, column-wise, as the exporters take them."""
        shared = self.shared
        return Snapshot((), ()) if shared is None else shared.read()

    def remove(self, category: str, metric: str | None = None) -> int:
        """Remove a metric, or a whole category, for all workers.

        A handle of a removed name stays usable: the next use registers the name anew, at 0.

        Args:
            category: of the statistics.
            metric: one of its metrics; None for all.

        Returns:
            How many statistics were removed.
        """
        category, metric = self._chosen(category, metric)
        shared = self.shared
        removed = 0 if shared is None else shared.remove(category, metric)
        self._drop(category, metric)
        return removed

    def reset(self, category: str, metric: str | None = None) -> int:
        """Set a metric, or a whole category, to 0 for all workers.

        Args:
            category: of the statistics.
            metric: one of its metrics; None for all.

        Returns:
            How many statistics were set.
        """
        category, metric = self._chosen(category, metric)
        shared = self.shared
        return 0 if shared is None else shared.reset(category, metric)

    def register(self, provider: Provider) -> None:
        """Have a further provider get every operation from now on.

        Args:
            provider: an object with the methods of `shmstats.providers.Provider`.

        Raises:
            TypeError: it lacks one of them.
        """
        required = [name for name in vars(Provider) if not name.startswith("_")]
        missing = [name for name in required if not callable(getattr(provider, name, None))]
        if missing:
            raise TypeError(
                f"provider must have the methods {', '.join(required)};"
                f" {type(provider).__name__} lacks {', '.join(missing)}"
            )
        with self._guard:
            self._others = (*self._others, GuardedProvider(provider, self._report))
            if self._shared is not None:
                self._shared.direct = False

    def flush(self) -> None:
        """Push what this process has buffered: to the block, and to further providers that buffer."""
        if self._shared is not None:
            self._shared.flush()
        for provider in self._others:
            provider.flush()

    def close(self) -> None:
        """Leave the block; the last process to leave saves it. The next use attaches it again."""
        for provider in self._others:
            provider.flush()
        if self._shared is not None:
            self._shared.close()

    def _configure(self, given: str | os.PathLike[str] | Mapping[str, Any] | None) -> None:
        self._configuring = True
        try:
            settings = config.load(given)
            self._use_statsd(settings)
            self._use_shared(settings)
            self._settings = settings
        finally:
            self._configuring = False

    def _use_shared(self, settings: config.Settings) -> None:
        """Put the provider of these settings in the place of the one before, which was closed."""
        self._shared = None
        self._leave_when_dropped.detach()
        if settings.stats.enabled:
            self._shared = SharedProvider(settings)
            self._shared.direct = not self._others
            self._leave_when_dropped = weakref.finalize(self, self._shared.close)
            self._leave_when_dropped.atexit = False

    def _use_statsd(self, settings: config.Settings) -> None:
        """Put the StatsD provider of these settings in the place of the one before."""
        former, self._statsd = self._statsd, None
        if former is not None:
            former.close()
        self._others = tuple(provider for provider in self._others if provider is not former)
        if settings.statsd.enabled and settings.stats.enabled:
            self._statsd = GuardedProvider(StatsdProvider(settings.statsd, self._report), self._report)
            self._others = (*self._others, self._statsd)

    # Misses of the quick path ------------------------------------------------------------------

    def _count(self, sign: int, category: str, metric: str, n: int) -> None:
        n = _integer("n", n)
        series = self._made(category, metric, Counter)
        self._count_series(sign, series, n)
        self._keep_bound(series)

    def _count_series(self, sign: int, series: Series, n: int) -> None:
        n = _integer("n", n)
        _check_handle(series)
        self._deliver(
            lambda shared: shared.count(series, sign * n),
            lambda other: (other.incr if sign > 0 else other.decr)(series.category, series.metric, n),
        )

    def _set(self, category: str, metric: str, value: int | float) -> None:
        value = _number("value", value)
        series = self._made(category, metric, Gauge)
        self._set_series(series, value)
        self._keep_bound(series)

    def _set_series(self, series: Series, value: int | float) -> None:
        value = _number("value", value)
        _check_handle(series)
        self._deliver(
            lambda shared: shared.set(series, value),
            lambda other: other.gauge(series.category, series.metric, value),
        )

    def _observe(self, category: str, metric: str, milliseconds: int | float) -> None:
        milliseconds = _duration("milliseconds", milliseconds)
        series = self._made(category, metric, Timing)
        self._observe_series(series, milliseconds)
        self._keep_bound(series)

    def _observe_series(self, series: Series, milliseconds: int | float) -> None:
        milliseconds = _duration("milliseconds", milliseconds)
        _check_handle(series)
        self._deliver(
            lambda shared: shared.observe(series, milliseconds),
            lambda other: other.timing(series.category, series.metric, milliseconds),
        )

    def _value(self, series: Series) -> Value:
        shared = self.shared
        return 0 if shared is None else shared.value(series.category, series.metric, series.labels)

    def _made(self, category: str, metric: str, kind: type[_Handle]) -> _Handle:
        """Return the handle of a name, of the type asked for: the kept one or a new one."""
        series = self._handle(category, metric)
        if isinstance(series, kind):
            return series
        category, metric = _countable(category), check_text("metric", metric)
        series = self._handle(category, metric)
        return series if isinstance(series, kind) else kind(self, category, metric)

    def _keep_bound(self, series: Series) -> None:
        """Keep a handle for the next time, unless it leads nowhere: those could be without number."""
        if series._bound and self._handle(series.category, series.metric) is not series:
            self._keep(series)

    def _chosen(self, category: str, metric: str | None) -> tuple[str, str | None]:
        return _countable(category), None if metric is None else check_text("metric", metric)

    def _deliver(
        self, to_shared: Callable[[SharedProvider], None], to_other: Callable[[GuardedProvider], None]
    ) -> None:
        """Have every provider do an operation; none where statistics are disabled."""
        if self._interrupted:
            self._guard.defer(lambda: self._deliver(to_shared, to_other))
            return
        shared = self.shared
        if shared is None:
            return
        self._arrange_exit()
        to_shared(shared)
        for provider in self._others:
            to_other(provider)
        self._leave_if_exiting()

    def _report(self, metric: str) -> None:
        """Count what happened to a further provider."""
        if self._shared is not None:
            self._shared.count_own(metric)

    def _arrange_exit(self) -> None:
        """Have a process of multiprocessing leave at its end, which comes without the atexit functions."""
        if not self._exit_arranged:
            self._exit_arranged = True
            if multiprocessing.parent_process() is not None:
                multiprocessing.util.Finalize(None, self._exit, exitpriority=0)

    def _leave_if_exiting(self) -> None:
        """Leave again at once after an operation that came after the interpreter had begun to exit."""
        if self._exiting and self._shared is not None:
            self._shared.close()

    def _exit(self) -> None:
        self._exiting = True
        if self._shared is not None:
            self._shared.ending = True
        for provider in self._others:
            provider.close()
        self.close()


def _nothing() -> None:
    """What is to be done for a registry without a block."""


def _countable(category: str) -> str:
    category = check_text("category", category)
    if category in RESERVED:
        raise ValueError(f"category must not be {category!r}: {' and '.join(RESERVED)} are reserved")
    return category


def _check_handle(series: Series) -> None:
    """Check the name of a handle, which may have been made by hand: a bad one would spoil every reading."""
    _countable(series.category)
    check_text("metric", series.metric)


def _integer(what: str, value: object) -> int:
    """Check a signed 64-bit integer.

    Raises:
        TypeError: it is not an integer.
        OverflowError: it does not fit 64 bits.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} must be an integer, not {type(value).__name__} ({value!r:.80})") from None
    if not _INT64_MIN <= number <= _INT64_MAX:
        found = str(number) if number.bit_length() <= 256 else f"an integer of {number.bit_length()} bits"
        raise OverflowError(f"{what} must fit 64 bits ({_INT64_MIN} to {_INT64_MAX}), not {found}")
    return number


def _duration(what: str, value: object) -> float:
    """Check a duration: a finite number, not negative.

    Raises:
        TypeError: it is not a real number.
        ValueError: it is NaN, infinite or negative.
        OverflowError: it is an integer that does not fit 64 bits.
    """
    number = _number(what, value)
    if number < 0:
        raise ValueError(f"{what} must not be negative, not {number}")
    return float(number)


def _moment(what: str, value: object) -> datetime:
    """Check a datetime that is aware of its time zone.

    Raises:
        TypeError: it is no datetime.
        ValueError: it has no time zone.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{what} must be a datetime, not {type(value).__name__} ({value!r:.80})")
    if value.utcoffset() is None:
        raise ValueError(f"{what} must have a time zone (datetime.now(UTC) has one), not {value!r}")
    return value


def _number(what: str, value: object) -> int | float:
    """Check a signed 64-bit integer or a finite float.

    Raises:
        TypeError: it is neither an integer nor a real number.
        ValueError: it is NaN or infinite.
        OverflowError: it is an integer that does not fit 64 bits.
    """
    if hasattr(value, "__index__"):
        return _integer(what, value)
    if not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {type(value).__name__} ({value!r:.80})")
    try:
        number = float(value)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{what} must be a number that a float can hold: {error}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, not {number}")
    return number


_registries: weakref.WeakSet[Registry] = weakref.WeakSet()


@atexit.register
def _exit_all() -> None:
    for registry in list(_registries):
        registry._exit()
    close_all()


def _start_anew() -> None:
    """In the child of a fork no thread is left that could have held a guard, and its end is another's."""
    for registry in _registries:
        registry._guard = Guard()
        registry._exit_arranged = False


os.register_at_fork(after_in_child=_start_anew)

stats = Registry()
"""The default registry."""
