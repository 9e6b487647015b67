"""The operations that user code calls, fanned out to the providers.

With the shared block as its only provider, ``incr``, ``decr``, ``gauge``, ``timing`` and the handles go
straight to the block in C: they are calls of the base class, and only their *misses* arrive here, in the
methods whose names begin with an underscore. Here the arguments are checked, the handle is made, and every
provider gets the operation. Further providers know no labels: they get a metric's operations under its name.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import config
from .attachment.slow_path import OWN, SharedProvider, close_all
from .block import DeclarationError
from .block.lock import Guard
from .block.names import check_text
from .checks import (
    check_category,
    check_duration,
    check_handle,
    check_integer,
    check_moment,
    check_no_names,
    check_number,
)
from .core import Counter, Gauge, Histogram, Recorder, Series
from .declarations import Buckets, make_declaration
from .handles import Labelled, check_label_names, check_labels
from .series import Declaration, Labels, Snapshot, Value, by_category
from .sinks import Provider
from .sinks.guarded import GuardedProvider
from .timer import Timer

log = logging.getLogger("shmstats")

_Handle = TypeVar("_Handle", bound=Series)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The configuration in the place of one with an error. It needs no current directory, and its data directory can
#: never be one.
_DISABLED = {"path": {"data": os.devnull}, "stats": {"enabled": False}}

#: Stands for a value that was not given.
_MISSING: Any = object()

#: Handles of label sets that a registry keeps; where there are more, all are dropped and made again.
_KEPT_SETS = 10_000


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
        self._declared: dict[tuple[str, str], Declaration] = {}
        self._sets: dict[tuple[Any, ...], Series] = {}
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
                    self._settings = config.load(_DISABLED)
                log.error("nothing is counted: %s", error)
        return self._shared

    @property
    def _interrupted(self) -> bool:
        """Whether this is a signal handler in the middle of this very thread's configuring."""
        return self._configuring and self._guard.held

    def declare(
        self,
        category: str,
        metric: str,
        *,
        kind: str,
        help: str = "",  # noqa: A002 - the field's word
        unit: str = "",
        buckets: Buckets | None = None,
        mode: str | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> None:
        """Declare what a metric is, for all workers; to declare it the same again does nothing.

        Args:
            category: of the metric.
            metric: of the category.
            kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
            help: a sentence for people.
            unit: of the values, in the plural (``"bytes"``); a histogram without one is of times in ms.
            buckets: of a histogram: 1 to 250 upper bounds, ascending, finite; in ms for times.
            mode: of a gauge: ``"last"`` (the last write of any worker wins), or each worker has its own and they
                become one by ``"all"``, ``"sum"``, ``"min"``, ``"max"``, ``"mostrecent"``, or by one of these with
                ``live`` before it, which leaves out what dead workers have left.
            labelnames: that each series must have; None for any.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: an argument is not allowed.
            DeclarationError: it is declared, or used, otherwise by a process that uses the block.
        """
        category, metric = check_category(category), check_text("metric", metric)
        names = None if labelnames is None else check_label_names("labelnames", labelnames)
        declared = make_declaration(kind, help, unit, buckets, mode, names)
        shared = self.shared
        if shared is not None:
            shared.declare(category, metric, declared)
        self._declared[category, metric] = declared
        self._drop(category, metric)

    def absolute(self, category: str, metric: str, value: int, *, labels: Mapping[str, str] | None = None) -> None:
        """Set a gauge, or the total of a counter, to an integer.

        Args:
            category: of the statistic.
            metric: of the statistic.
            value: a signed 64-bit integer.
            labels: label names and values.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
            OverflowError: the value does not fit 64 bits.
            KindError: the name is neither a gauge nor a counter.
            DeclarationError: the metric is declared with other label names.
        """
        value = check_integer("value", value)
        series = self._made(category, metric, Gauge, labels)
        self._deliver(
            SharedProvider.set,
            series,
            value,
            to_other=lambda other: other.absolute(series.category, series.metric, value),
        )
        self._keep_bound(series)

    @overload
    def counter(
        self, category: str, metric: str, *, labels: Mapping[str, str] | None = None, labelnames: None = None
    ) -> Counter: ...

    @overload
    def counter(
        self, category: str, metric: str, *, labels: None = None, labelnames: Iterable[str]
    ) -> Labelled[Counter]: ...

    def counter(
        self,
        category: str,
        metric: str,
        *,
        labels: Mapping[str, str] | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> Counter | Labelled[Counter]:
        """Return a handle of a counter, for code that counts often.

        Args:
            category: of the statistic.
            metric: of the statistic.
            labels: label names and values of one series.
            labelnames: instead: label names of the metric, for a handle that gives those of its series.

        Raises:
            TypeError: an argument is of the wrong type, or both labels and label names are given.
            ValueError: a name or label is not allowed.
            DeclarationError: this process has declared the metric with other label names.
        """
        return self._handle_of(category, metric, Counter, labels, labelnames)

    @overload
    def histogram(
        self, category: str, metric: str, *, labels: Mapping[str, str] | None = None, labelnames: None = None
    ) -> Histogram: ...

    @overload
    def histogram(
        self, category: str, metric: str, *, labels: None = None, labelnames: Iterable[str]
    ) -> Labelled[Histogram]: ...

    def histogram(
        self,
        category: str,
        metric: str,
        *,
        labels: Mapping[str, str] | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> Histogram | Labelled[Histogram]:
        """Return a handle of a histogram: of times in ms, or in the unit that is declared.

        Args:
            category: of the statistic.
            metric: of the statistic.
            labels: as for `counter`.
            labelnames: as for `counter`.

        Raises:
            TypeError: as `counter` does.
            ValueError: as `counter` does.
            DeclarationError: as `counter` does.
        """
        return self._handle_of(category, metric, Histogram, labels, labelnames)

    if TYPE_CHECKING:  # what the calls of the base class are here

        @overload
        def gauge(
            self, category: str, metric: str, value: int | float, *, labels: Mapping[str, str] | None = None
        ) -> None: ...

        @overload
        def gauge(
            self,
            category: str,
            metric: str,
            *,
            labels: Mapping[str, str] | None = None,
            labelnames: None = None,
        ) -> Gauge: ...

        @overload
        def gauge(
            self, category: str, metric: str, *, labels: None = None, labelnames: Iterable[str]
        ) -> Labelled[Gauge]: ...

        def gauge(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D417 - the overloads have them
            """Set a gauge; without a value, return a handle of it, or of a metric with labels.

            Args:
                category: of the gauge.
                metric: of the gauge.
                value: a finite float or a signed 64-bit integer, in the unit that is declared.
                labels: label names and values.
                labelnames: as for `counter`.

            Raises:
                TypeError: an argument is of the wrong type, or label names are given with labels or a value.
                ValueError: a name or label is not allowed, or the value is NaN or infinite.
                OverflowError: the value is an integer that does not fit 64 bits.
                KindError: the name is a histogram or a timestamp, or declared as a counter and the value no integer.
                DeclarationError: the metric is declared with other label names.
            """

        @overload
        def timing(
            self,
            category: str,
            metric: str,
            milliseconds: int | float,
            *,
            labels: Mapping[str, str] | None = None,
        ) -> None: ...

        @overload
        def timing(
            self,
            category: str,
            metric: str,
            *,
            labels: Mapping[str, str] | None = None,
            labelnames: None = None,
        ) -> Histogram: ...

        @overload
        def timing(
            self, category: str, metric: str, *, labels: None = None, labelnames: Iterable[str]
        ) -> Labelled[Histogram]: ...

        def timing(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D417 - the overloads have them
            """Take up one duration; without one, return a handle of the histogram, or of a metric with labels.

            Args:
                category: of the histogram.
                metric: of the histogram.
                milliseconds: the duration in ms, finite and not negative. A histogram that is declared with a unit
                    takes its values in that.
                labels: label names and values.
                labelnames: as for `counter`.

            Raises:
                TypeError: an argument is of the wrong type, or label names are given with labels or a value.
                ValueError: a name or label is not allowed, or the duration is NaN, infinite or negative.
                OverflowError: the duration is an integer that does not fit 64 bits.
                KindError: the name is something else than a histogram.
                DeclarationError: the metric is declared with other label names.
            """

    def timer(self, category: str, metric: str, *, labels: Mapping[str, str] | None = None) -> Timer:
        """Return a context manager and decorator that times what it is around.

        Args:
            category: of the histogram.
            metric: of the histogram.
            labels: label names and values.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
        """
        return Timer(self._made(category, metric, Histogram, labels).observe)

    def timestamp(
        self,
        category: str,
        metric: str,
        moment: datetime | None = None,
        *,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Note a moment; it is not saved with the other statistics.

        Args:
            category: of the timestamp.
            metric: of the timestamp.
            moment: what to note, aware of its time zone; None for now.
            labels: label names and values.

        Raises:
            TypeError: ``moment`` is no datetime, or another argument is of the wrong type.
            ValueError: it has no time zone, or a name or label is not allowed.
            KindError: the name is something else than a timestamp.
            DeclarationError: the metric is declared with other label names.
        """
        series = self._made(category, metric, Series, labels)
        moment = datetime.now(UTC) if moment is None else check_moment("moment", moment)
        self._deliver(
            SharedProvider.note,
            series,
            (moment - _EPOCH) // timedelta(microseconds=1),
            to_other=lambda other: other.timestamp(series.category, series.metric, moment),
        )

    def get_timestamp(self, category: str, metric: str, *, labels: Mapping[str, str] | None = None) -> datetime | None:
        """Return the moment that was noted last, in UTC; None where there is none, or no timestamp.

        Args:
            category: of the timestamp.
            metric: of the timestamp.
            labels: label names and values.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
            BlockError: the block is damaged.
        """
        category, metric = check_text("category", category), check_text("metric", metric)
        pairs = check_labels(labels)
        shared = self.shared
        noted = None if shared is None else shared.moment(category, metric, pairs)
        return None if noted is None else _EPOCH + timedelta(microseconds=noted)

    def get(self, category: str, metric: str, *, labels: Mapping[str, str] | None = None) -> Value:
        """Return the value over all workers; 0 where it was never written.

        Args:
            category: of the statistic; reserved ones can be read.
            metric: of the statistic.
            labels: label names and values.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
            BlockError: the block is damaged.
        """
        category, metric = check_text("category", category), check_text("metric", metric)
        pairs = check_labels(labels)
        shared = self.shared
        return 0 if shared is None else shared.value(category, metric, pairs)

    def snapshot(self) -> dict[str, dict[str, Value]]:
        """Return every value: ``{category: {metric: value}}``.

        A series with labels has them behind its metric: ``requests{method="GET"}``. What the library counts about
        itself is left out as long as it is 0.

        Raises:
            BlockError: the block is damaged.
        """
        read = self.read()
        shown = zip(read.names, read.values, strict=True)
        return by_category((name, value) for name, value in shown if name.category != OWN or value)

    def read(self) -> Snapshot:
        """Return every name and value, column-wise, as the exporters take them.

        Raises:
            BlockError: the block is damaged.
        """
        shared = self.shared
        return Snapshot((), ()) if shared is None else shared.read()

    def remove(self, category: str, metric: str | None = None, *, labels: Mapping[str, str] | None = None) -> int:
        """Remove a category, a metric with all its label sets, or one label set, for all workers.

        A handle of a removed name stays usable: the next use registers the name anew, at 0. What was declared
        stays declared.

        Args:
            category: of the statistics.
            metric: one of its metrics; None for all.
            labels: one of the metric's label sets; None for all.

        Returns:
            How many series were removed.

        Raises:
            TypeError: an argument is of the wrong type, or labels are given without a metric.
            ValueError: a name or label is not allowed, or the category is reserved.
            BlockError: the block is damaged.
        """
        category, metric, pairs = self._chosen(category, metric, labels)
        shared = self.shared
        removed = 0 if shared is None else shared.remove(category, metric, pairs)
        if pairs is None:
            self._drop(category, metric)
        self._sets.clear()
        return removed

    def reset(self, category: str, metric: str | None = None, *, labels: Mapping[str, str] | None = None) -> int:
        """Set a category, a metric with all its label sets, or one label set to 0, for all workers.

        Args:
            category: of the statistics.
            metric: one of its metrics; None for all.
            labels: one of the metric's label sets; None for all.

        Returns:
            How many series were set.

        Raises:
            TypeError: an argument is of the wrong type, or labels are given without a metric.
            ValueError: a name or label is not allowed, or the category is reserved.
            BlockError: the block is damaged.
        """
        category, metric, pairs = self._chosen(category, metric, labels)
        shared = self.shared
        return 0 if shared is None else shared.reset(category, metric, pairs)

    def register(self, provider: Provider) -> None:
        """Have a further provider get every operation from now on.

        Args:
            provider: an object with the methods of `shmstats.sinks.Provider`.

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
        """Push what this process has buffered: to the block, and to further providers that buffer.

        Raises:
            BlockError: the block is damaged.
        """
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
            self._shared = SharedProvider(settings, self._declared)
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
            # Only here: few want it, and it takes its time to import.
            from .sinks.statsd import StatsdProvider

            self._statsd = GuardedProvider(StatsdProvider(settings.statsd, self._report), self._report)
            self._others = (*self._others, self._statsd)

    # Misses of the quick path ------------------------------------------------------------------

    def _incr(self, category: str, metric: str, n: int = 1, *, labels: Mapping[str, str] | None = None) -> None:
        kept = None if labels is None else self._kept_of_set(category, metric, Counter, labels)
        if kept is not None:
            kept.incr(n)
        else:
            self._count(1, category, metric, n, labels)

    def _decr(self, category: str, metric: str, n: int = 1, *, labels: Mapping[str, str] | None = None) -> None:
        kept = None if labels is None else self._kept_of_set(category, metric, Counter, labels)
        if kept is not None:
            kept.decr(n)
        else:
            self._count(-1, category, metric, n, labels)

    def _count(self, sign: int, category: str, metric: str, n: int, labels: Mapping[str, str] | None) -> None:
        n = check_integer("n", n)
        series = self._made(category, metric, Counter, labels)
        self._deliver_count(sign, series, n)
        self._keep_bound(series)

    def _count_series(self, sign: int, series: Series, n: int | float) -> None:
        if isinstance(series, Gauge) and not hasattr(n, "__index__"):
            self._move_series(series, sign * check_number("n", n))
            return
        whole = check_integer("n", n)
        check_handle(series)
        self._deliver_count(sign, series, whole)

    def _deliver_count(self, sign: int, series: Series, n: int) -> None:
        self._deliver(
            SharedProvider.count,
            series,
            sign * n,
            to_other=lambda other: (other.incr if sign > 0 else other.decr)(series.category, series.metric, n),
        )

    def _move_series(self, series: Gauge, n: int | float) -> None:
        """Add what is no integer to a gauge; further providers get what that makes."""
        check_handle(series)
        self._deliver(
            SharedProvider.count,
            series,
            n,
            to_other=lambda other: other.gauge(series.category, series.metric, self._value(series)),  # type: ignore[arg-type]
        )

    def _gauge(
        self,
        category: str,
        metric: str,
        value: int | float = _MISSING,
        *,
        labels: Mapping[str, str] | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> Gauge | Labelled[Gauge] | None:
        if value is _MISSING:
            return self._handle_of(category, metric, Gauge, labels, labelnames)
        check_no_names(labelnames)
        value = check_number("value", value)
        series = self._made(category, metric, Gauge, labels)
        series.set(value)
        self._keep_bound(series)
        return None

    def _set_series(self, series: Series, value: int | float) -> None:
        value = check_number("value", value)
        check_handle(series)
        self._deliver(
            SharedProvider.set,
            series,
            value,
            to_other=lambda other: other.gauge(series.category, series.metric, value),
        )

    def _timing(
        self,
        category: str,
        metric: str,
        milliseconds: int | float = _MISSING,
        *,
        labels: Mapping[str, str] | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> Histogram | Labelled[Histogram] | None:
        if milliseconds is _MISSING:
            return self._handle_of(category, metric, Histogram, labels, labelnames)
        check_no_names(labelnames)
        milliseconds = check_duration("milliseconds", milliseconds)
        series = self._made(category, metric, Histogram, labels)
        series.observe(milliseconds)
        self._keep_bound(series)
        return None

    def _observe_series(self, series: Series, value: int | float) -> None:
        value = check_duration("value", value)
        check_handle(series)
        self._deliver(
            SharedProvider.observe,
            series,
            value,
            to_other=lambda other: other.timing(series.category, series.metric, value),
        )

    def _value(self, series: Series) -> Value:
        shared = self.shared
        return 0 if shared is None else shared.value(series.category, series.metric, series.labels)

    def _handle_of(
        self,
        category: str,
        metric: str,
        kind: type[_Handle],
        labels: Mapping[str, str] | None,
        labelnames: Iterable[str] | None,
    ) -> _Handle | Labelled[_Handle]:
        """Return the handle of a series, or of a metric with labels."""
        if labelnames is None:
            return self._made(category, metric, kind, labels)
        if labels is not None:
            raise TypeError("labels and labelnames cannot be given both")
        names = check_label_names("labelnames", labelnames)
        category, metric = check_category(category), check_text("metric", metric)
        declared = self._declared.get((category, metric))
        if declared is not None and declared.labelnames not in (None, tuple(sorted(names))):
            raise DeclarationError(
                f"metric {metric!r} of category {category!r} is declared with the label names"
                f" {declared.labelnames}, not {names}"
            )
        return Labelled(
            category,
            metric,
            names,
            lambda pairs: kind(self, category, metric, pairs),
            lambda pairs: self.remove(category, metric, labels=None if pairs is None else dict(pairs)),
        )

    def _made(
        self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, str] | None = None
    ) -> _Handle:
        """Return the handle of a name, of the type asked for: the kept one or a new one."""
        if labels is not None:
            return self._made_of_set(category, metric, kind, labels)
        series = self._handle(category, metric)
        if isinstance(series, kind):
            return series
        category, metric = check_category(category), check_text("metric", metric)
        series = self._handle(category, metric)
        return series if isinstance(series, kind) else kind(self, category, metric)

    def _made_of_set(self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, str]) -> _Handle:
        """Return the handle of a label set: the kept one or a new one."""
        kept = self._kept_of_set(category, metric, kind, labels)
        if kept is not None:
            return kept
        pairs = check_labels(labels)
        series = kind(self, check_category(category), check_text("metric", metric), pairs)
        if len(self._sets) >= _KEPT_SETS:
            self._sets.clear()
        items = tuple((str.__str__(name), str.__str__(value)) for name, value in labels.items())
        self._sets[series.category, series.metric, kind, *items] = series
        return series

    def _kept_of_set(
        self, category: str, metric: str, kind: type[_Handle], labels: Mapping[str, str]
    ) -> _Handle | None:
        """Return the handle of a label set that was kept; None where there is none, or an argument is wrong."""
        try:
            kept = self._sets.get((category, metric, kind, *labels.items()))
        except (AttributeError, TypeError):
            return None
        return kept if isinstance(kept, kind) else None

    def _keep_bound(self, series: Series) -> None:
        """Keep a handle for the next time, unless it leads nowhere: those could be without number."""
        if series._bound and not series.labels and self._handle(series.category, series.metric) is not series:
            self._keep(series)

    def _chosen(
        self, category: str, metric: str | None, labels: Mapping[str, str] | None
    ) -> tuple[str, str | None, Labels | None]:
        category = check_category(category)
        if metric is None:
            if labels is not None:
                raise TypeError("labels are those of a metric: metric must not be None")
            return category, None, None
        return category, check_text("metric", metric), None if labels is None else check_labels(labels)

    def _deliver(
        self, operation: Callable[..., None], *arguments: Any, to_other: Callable[[GuardedProvider], None]
    ) -> None:
        """Have every provider do an operation; none where statistics are disabled.

        Args:
            operation: of the shared block's provider, called with it and the arguments.
            arguments: of the operation.
            to_other: called with each further provider.
        """
        if self._configuring and self._interrupted:
            self._guard.defer(lambda: self._deliver(operation, *arguments, to_other=to_other))
            return
        shared = self._shared or self.shared
        if shared is None:
            return
        if not self._exit_arranged:
            self._arrange_exit()
        operation(shared, *arguments)
        for provider in self._others:
            to_other(provider)
        if self._exiting:
            shared.close()  # again at once, for the interpreter had begun to exit

    def _report(self, metric: str) -> None:
        """Count what happened to a further provider."""
        if self._shared is not None:
            self._shared.count_own(metric)

    def _arrange_exit(self) -> None:
        """Have a process of multiprocessing leave at its end, which comes without the atexit functions."""
        self._exit_arranged = True
        if multiprocessing.parent_process() is not None:
            multiprocessing.util.Finalize(None, self._exit, exitpriority=0)

    def _exit(self) -> None:
        self._exiting = True
        if self._shared is not None:
            self._shared.ending = True
        for provider in self._others:
            provider.close()
        self.close()


def _nothing() -> None:
    """What is to be done for a registry without a block."""


# What Python says of a wrong call names the public call, not the method that takes it.
for _method in (Registry._incr, Registry._decr, Registry._gauge, Registry._timing):
    _method.__qualname__ = _method.__name__.removeprefix("_")

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
