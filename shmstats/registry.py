"""The public calls of a registry: the operations that user code calls, and nothing else.

The core implements some of them, and leaves the cases that it cannot finish to Python (`shmstats.misses`). Where
operations go is decided in `shmstats.configured`. One class, however large: each form of a call is a method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, overload

from .attachment.own_metrics import OWN
from .attachment.slow_path import SharedProvider
from .block.declarations import Definition
from .block.keys import check_text
from .checks import (
    Buckets,
    check_category,
    check_choice,
    check_duration,
    check_integer,
    check_label_names,
    check_labels,
    check_moment,
    check_no_names,
    check_number,
    make_bounds,
    make_declaration,
)
from .core import Counter, Gauge, Histogram, Series
from .handles import Labelled
from .layout import CELL
from .misses import EPOCH, MISSING, behind_the_core, moment_at
from .series import Snapshot, Value, by_category
from .sinks import Provider, check_provider
from .sinks.fanout import FanOut
from .states import States
from .timer import Timer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@behind_the_core
class Registry(States):
    """Statistics, shared by all processes with the same data directory.

    The first use finds the configuration and attaches the block; `init` does both at once.
    """

    def __reduce__(self) -> str:
        if self is not stats:
            raise TypeError("only the default registry can be pickled: it is found by its name, shmstats.stats")
        return "stats"

    def declare(
        self,
        category: str,
        metric: str,
        *,
        kind: str,
        help: str = "",  # noqa: A002 - the field's word
        unit: str = "",
        buckets: Buckets | None = None,
        error: float | None = None,
        range: tuple[float, float] | None = None,  # noqa: A002 - likewise
        mode: str | None = None,
        labelnames: Iterable[str] | None = None,
        states: Iterable[str] | None = None,
    ) -> None:
        """Declare a metric, for all workers; repeating a declaration does nothing.

        The newest declaration wins, whichever process makes it: series that only fit the previous one are no longer
        shown, and the change is logged. Processes that still use the previous one count into separate series.

        Args:
            category: of the metric.
            metric: of the category.
            kind: ``"counter"``, ``"gauge"``, ``"histogram"``, ``"info"`` or ``"state"``.
            help: a sentence for people.
            unit: of the values, in the plural (``"bytes"``); a histogram without a unit has times in ms.
            buckets: of a histogram: 1 to 250 upper bounds, ascending, finite, in ms for times; or ``"exponential"``:
                as many as needed to keep percentiles within an error over a range.
            error: of exponential buckets: the largest relative error of a percentile (0.05, the default, is
                5 %).
            range: of exponential buckets: the smallest and the largest value for which the error holds, in ms for times
                (default: 0.1 ms to 60 s; 1 to 2^30 of other units). Values outside are counted too.
            mode: of a gauge: ``"last"`` (the last write of any worker wins); or each worker has its own value and a
                reader combines them by ``"all"``, ``"sum"``, ``"min"``, ``"max"``, ``"mostrecent"``, or by one of
                these with ``live`` before it, which leaves out the values of dead workers.
            labelnames: that each series must have; None for any.
            states: the states that `state` takes, for a metric of that kind.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: an argument is not allowed.
        """
        category, metric = check_category(category), check_text("metric", metric)
        names = None if labelnames is None else check_label_names("labelnames", labelnames)
        bounds = make_bounds(kind, unit, buckets, error, range)
        declared = make_declaration(kind, help, unit, bounds, mode, names)
        self._note_states(category, metric, kind, states)
        shared = self.shared
        if shared is not None:
            shared.declare(category, metric, declared)
        else:
            self._declared[category, metric] = Definition.now(declared)
        self._drop(category, metric)

    def absolute(self, category: str, metric: str, value: int, *, labels: Mapping[str, object] | None = None) -> None:
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
        self._deliver(FanOut.set_total, series, value)
        self._keep_bound(series)

    @overload
    def counter(
        self, category: str, metric: str, *, labels: Mapping[str, object] | None = None, labelnames: None = None
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
        labels: Mapping[str, object] | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> Counter | Labelled[Counter]:
        """Return a handle of a counter, for code that counts often.

        Args:
            category: of the statistic.
            metric: of the statistic.
            labels: label names and values of one series.
            labelnames: instead: label names of the metric, for a parent that returns handles of its series.

        Raises:
            TypeError: an argument is of the wrong type, or both labels and label names are given.
            ValueError: a name or label is not allowed.
            DeclarationError: this process has declared the metric with other label names.
        """
        return self._handle_of(category, metric, Counter, labels, labelnames)

    @overload
    def histogram(
        self, category: str, metric: str, *, labels: Mapping[str, object] | None = None, labelnames: None = None
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
        labels: Mapping[str, object] | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> Histogram | Labelled[Histogram]:
        """Return a handle of a histogram: of times in ms, or in the declared unit.

        Args:
            category: of the statistic.
            metric: of the statistic.
            labels: as for `counter`.
            labelnames: as for `counter`.

        Raises:
            DeclarationError: and other errors, as `counter` does.
        """
        return self._handle_of(category, metric, Histogram, labels, labelnames)

    @overload
    def gauge(
        self, category: str, metric: str, value: int | float, *, labels: Mapping[str, object] | None = None
    ) -> None: ...

    @overload
    def gauge(
        self,
        category: str,
        metric: str,
        *,
        labels: Mapping[str, object] | None = None,
        labelnames: None = None,
    ) -> Gauge: ...

    @overload
    def gauge(
        self, category: str, metric: str, *, labels: None = None, labelnames: Iterable[str]
    ) -> Labelled[Gauge]: ...

    def gauge(
        self,
        category: str,
        metric: str,
        value: int | float = MISSING,
        *,
        labels: Mapping[str, object] | None = None,
        labelnames: Iterable[str] | None = None,
    ) -> Gauge | Labelled[Gauge] | None:
        """Set a gauge; without a value, return a handle of it, or of a metric with labels.

        Args:
            category: of the gauge.
            metric: of the gauge.
            value: a finite float or a signed 64-bit integer, in the declared unit.
            labels: label names and values.
            labelnames: as for `counter`.

        Raises:
            TypeError: an argument is of the wrong type, or label names are given with labels or a value.
            ValueError: a name or label is not allowed, or the value is NaN or infinite.
            OverflowError: the value is an integer that does not fit 64 bits.
            KindError: the name is a histogram or a timestamp, or a declared counter and the value is not an integer.
            DeclarationError: the metric is declared with other label names.
        """
        if value is MISSING:
            return self._handle_of(category, metric, Gauge, labels, labelnames)
        check_no_names(labelnames)
        value = check_number("value", value)
        series = self._made(category, metric, Gauge, labels)
        series.set(value)
        return None

    @overload
    def timing(
        self,
        category: str,
        metric: str,
        milliseconds: int | float,
        *,
        labels: Mapping[str, object] | None = None,
        exemplar: Mapping[str, object] | None = None,
    ) -> None: ...

    @overload
    def timing(
        self,
        category: str,
        metric: str,
        *,
        labels: Mapping[str, object] | None = None,
        labelnames: None = None,
    ) -> Histogram: ...

    @overload
    def timing(
        self, category: str, metric: str, *, labels: None = None, labelnames: Iterable[str]
    ) -> Labelled[Histogram]: ...

    def timing(
        self,
        category: str,
        metric: str,
        milliseconds: int | float = MISSING,
        *,
        labels: Mapping[str, object] | None = None,
        labelnames: Iterable[str] | None = None,
        exemplar: Mapping[str, object] | None = None,
    ) -> Histogram | Labelled[Histogram] | None:
        """Add one duration to a histogram; without one, return a handle of it, or of a metric with labels.

        Args:
            category: of the histogram.
            metric: of the histogram.
            milliseconds: the duration in ms, finite and not negative. A histogram that is declared with a unit
                takes its values in that unit.
            labels: label names and values.
            labelnames: as for `counter`.
            exemplar: labels that identify this observation, such as a trace ID; 128 characters at most.

        Raises:
            TypeError: an argument is of the wrong type, or label names are given with labels or a value.
            ValueError: a name or label is not allowed, or the duration is NaN, infinite or negative.
            OverflowError: the duration is an integer that does not fit 64 bits.
            KindError: the name is not a histogram.
            DeclarationError: the metric is declared with other label names.
        """
        if milliseconds is MISSING:
            return self._handle_of(category, metric, Histogram, labels, labelnames)
        check_no_names(labelnames)
        milliseconds = check_duration("milliseconds", milliseconds)
        series = self._made(category, metric, Histogram, labels)
        if exemplar is None:
            series.observe(milliseconds)
        else:
            self._observe_with_exemplar(series, milliseconds, exemplar=exemplar)
        return None

    def timer(self, category: str, metric: str, *, labels: Mapping[str, object] | None = None) -> Timer:
        """Return a context manager and decorator that times the code inside it.

        Args:
            category: of the histogram.
            metric: of the histogram.
            labels: label names and values.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
        """
        return Timer(self._made(category, metric, Histogram, labels))

    def get(self, category: str, metric: str, *, labels: Mapping[str, object] | None = None) -> Value:
        """Return the value over all workers; 0 if it was never written.

        Args:
            category: of the statistic; reserved ones can be read.
            metric: of the statistic.
            labels: label names and values.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
            BlockError: the block is damaged.
        """
        category, metric, pairs = check_text("category", category), check_text("metric", metric), check_labels(labels)
        return SharedProvider.value(self.shared, category, metric, pairs)

    def timestamp(
        self,
        category: str,
        metric: str,
        moment: datetime | None = None,
        *,
        labels: Mapping[str, object] | None = None,
    ) -> None:
        """Record a point in time; it is not saved with the other statistics.

        Args:
            category: of the timestamp.
            metric: of the timestamp.
            moment: the point in time, aware of its time zone; None for now.
            labels: label names and values.

        Raises:
            TypeError: ``moment`` is not a datetime, or another argument is of the wrong type.
            ValueError: it has no time zone, or a name or label is not allowed.
            KindError: the name is not a timestamp.
            DeclarationError: the metric is declared with other label names.
        """
        series = self._made(category, metric, Series, labels)
        moment = datetime.now(UTC) if moment is None else check_moment("moment", moment)
        self._deliver(FanOut.note, series, moment, moment - EPOCH)
        self._keep_bound(series)

    def get_timestamp(
        self, category: str, metric: str, *, labels: Mapping[str, object] | None = None
    ) -> datetime | None:
        """Return the last recorded moment, in UTC; None if there is none, or it is not a date of the calendar.

        Args:
            category: of the timestamp.
            metric: of the timestamp.
            labels: label names and values.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name or label is not allowed.
            BlockError: the block is damaged.
        """
        category, metric, pairs = check_text("category", category), check_text("metric", metric), check_labels(labels)
        noted = SharedProvider.moment(self.shared, category, metric, pairs)
        return None if noted is None else moment_at(noted)

    def snapshot(self) -> dict[str, dict[str, Value]]:
        """Return every value: ``{category: {metric: value}}``.

        A series with labels is shown as its metric and labels: ``requests{method="GET"}``. The package's own
        metrics are left out as long as they are 0.

        Raises:
            BlockError: the block is damaged.
        """
        read = self.read()
        shown = zip(read.names, read.values, strict=True)
        return by_category((name.key, value) for name, value in shown if name.category != OWN or value)

    def read(self) -> Snapshot:
        """Return every name and value, column-wise, as the exporters need them.

        Raises:
            BlockError: the block is damaged.
        """
        return SharedProvider.read(self.shared)

    def array(self) -> npt.NDArray[np.void]:
        """Return the shared memory of the values as a read-only numpy array: all processes count into it.

        Its shape is (rows, columns): row 0 is shared, each other row is a worker's; its type is `shmstats.layout.CELL`.
        Looking at a page of 4096 bytes that nobody has used yet allocates it. The array keeps the block
        mapped, also after `close`. If statistics are disabled it is empty.

        Raises:
            BlockError: the block is damaged.
        """
        found = SharedProvider.array(self.shared)
        if found is not None:
            return found
        import numpy as np  # only here: counting, scraping and saving do without it

        return np.empty((0, 0), CELL.dtype)

    def remove(self, category: str, metric: str | None = None, *, labels: Mapping[str, object] | None = None) -> int:
        """Remove a category, a metric with all its label sets, or one label set, for all workers.

        A handle of a removed name stays usable: the next use registers the name again, at 0. Declarations
        stay.

        Args:
            category: of the statistics.
            metric: one of its metrics; None for all.
            labels: one of the metric's label sets; None for all.

        Returns:
            The number of removed series.

        Raises:
            TypeError: an argument is of the wrong type, or labels are given without a metric.
            ValueError: a name or label is not allowed, or the category is reserved.
            BlockError: the block is damaged.
        """
        category, metric, pairs = check_choice(category, metric, labels)
        removed = SharedProvider.remove(self.shared, category, metric, pairs)
        if pairs is None:
            self._drop(category, metric)
        self._drop_sets()
        return removed or 0

    def reset(self, category: str, metric: str | None = None, *, labels: Mapping[str, object] | None = None) -> int:
        """Set a category, a metric with all its label sets, or one label set to 0, for all workers.

        Args:
            category: of the statistics.
            metric: one of its metrics; None for all.
            labels: one of the metric's label sets; None for all.

        Returns:
            The number of series that were set.

        Raises:
            TypeError: an argument is of the wrong type, or labels are given without a metric.
            ValueError: a name or label is not allowed, or the category is reserved.
            BlockError: the block is damaged.
        """
        category, metric, pairs = check_choice(category, metric, labels)
        return SharedProvider.reset(self.shared, category, metric, pairs) or 0

    def register(self, provider: Provider) -> None:
        """Send every operation to a further provider from now on.

        Args:
            provider: an object with the methods of `shmstats.sinks.Provider`.

        Raises:
            TypeError: it lacks one of these methods.
        """
        check_provider(provider)
        self._add(provider)


stats = Registry()
"""The default registry."""
