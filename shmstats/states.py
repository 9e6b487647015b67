"""Infos and states: text about a thing; the last text that any process has set holds.

In the block they are gauges of value 1 or 0: an info is one gauge with its texts as labels; a state is one gauge for
each possible state, with the label `STATE`. Both change under the table lock, so no two processes leave two infos or
states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .block import KindError
from .block.keys import check_text
from .checks import check_category, check_labels, check_states
from .misses import Misses
from .series import INFO, STATE
from .sinks.fanout import FanOut


class States(Misses):
    """The calls for infos and states."""

    def __init__(self) -> None:
        super().__init__()
        self._states: dict[tuple[str, str], tuple[str, ...]] = {}

    def info(
        self,
        category: str,
        metric: str,
        texts: Mapping[str, object],
        *,
        labels: Mapping[str, object] | None = None,
    ) -> None:
        """Set an info, such as the version of an application; it replaces the previous one.

        Args:
            category: of the info.
            metric: of the info; its sample is ``<metric>_info``.
            texts: the texts of the info, by label name.
            labels: label names and values of the thing that the info is about.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name is not allowed, there is no text, or one has the name of a label.
            KindError: the metric is not an info.
        """
        category, metric = check_category(category), check_text("metric", metric)
        if not isinstance(texts, Mapping):
            raise TypeError(f"texts must be a mapping of label name to text, not {texts!r:.80}")
        said, base = check_labels(texts), check_labels(labels)
        twice = {name for name, _ in said} & {name for name, _ in base}
        if not said or twice:
            raise ValueError(f"texts must not be empty, nor repeat a name of labels: {dict(texts)!r:.200}")
        definition = self._declared.get((category, metric))
        if definition is None:
            self.declare(category, metric, kind=INFO)
        elif definition.declared.shown != INFO:
            raise KindError(f"metric {metric!r} of category {category!r} is not declared as an info")
        self._deliver(FanOut.show, category, metric, base, {tuple(sorted((*base, *said))): 1})

    def state(self, category: str, metric: str, state: str, *, labels: Mapping[str, object] | None = None) -> None:
        """Set the current state of a thing.

        Args:
            category: of the metric.
            metric: a metric that this process has declared with ``kind="state"`` and its states.
            state: one of these states.
            labels: label names and values of the thing.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a name is not allowed, the metric has no states, or there is no such state.
            KindError: the metric is not a state.
        """
        category, metric = check_category(category), check_text("metric", metric)
        states, base = self._states.get((category, metric)), check_labels(labels)
        if states is None:
            raise ValueError(
                f'metric {metric!r} of category {category!r} has no states: declare it with kind="state" and states'
            )
        if state not in states:
            raise ValueError(f"state must be one of {', '.join(states)}, not {state!r:.80}")
        if any(name in (STATE, metric) for name, _ in base):
            raise ValueError(f"labels of a state must have neither {STATE!r} nor {metric!r}: {dict(base)!r:.200}")
        wanted = {tuple(sorted((*base, (STATE, each)))): int(each == state) for each in states}
        self._deliver(FanOut.show, category, metric, base, wanted)

    def declare(self, category: str, metric: str, *, kind: str) -> None:
        """Declare a metric."""
        raise NotImplementedError

    def _note_states(self, category: str, metric: str, kind: str, states: Iterable[str] | None) -> None:
        """Check the states of a metric that is being declared, and keep them.

        Raises:
            TypeError: they are not an iterable of str.
            ValueError: they are not allowed, or missing.
        """
        if kind == "state":
            self._states[category, metric] = check_states(states)
            return
        if states is not None:
            raise ValueError(f'states are for kind="state"; a {kind} has none')
        self._states.pop((category, metric), None)
