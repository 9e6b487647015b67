"""Info and Enum on the block: the last value that any process has set."""

from __future__ import annotations

import inspect
from typing import Any

from .family import CATEGORY
from .internals import metrics
from .on_block import begin, labels_of, put, put_beginning, put_on_block
from .values import StateValue


def patch_states() -> None:
    """Put infos and enums that will be made on the block."""
    info_class, enum_class = metrics.Info, metrics.Enum
    original_init = {cls._type: cls._metric_init for cls in (info_class, enum_class)}
    original_enum_init = enum_class.__init__
    original_info, original_state = info_class.info, enum_class.state
    signature = inspect.signature(original_enum_init)

    def enum_init(self: Any, *args: Any, **kwargs: Any) -> None:
        # The original stores the states only after it has registered the metric.
        self._states = signature.bind_partial(self, *args, **kwargs).arguments.get("states") or ()
        original_enum_init(self, *args, **kwargs)

    def state_init(self: Any) -> None:
        original_init[self._type](self)
        recorder = self._recorder
        self._kept = StateValue(recorder, CATEGORY, recorder.metric, labels_of(self))
        begin(self, self._kept)

    def info(self: Any, val: dict[str, str]) -> None:
        self._raise_if_not_observable()
        original_info(self, val)
        self._kept.set_labels(val)

    def state(self: Any, state: str) -> None:
        original_state(self, state)
        self._kept.set_state(str(state))

    put(enum_class, "__init__", enum_init)
    put_beginning(info_class, state_init)
    put_beginning(enum_class, state_init)
    put_on_block(info_class, "info", info)
    put_on_block(enum_class, "state", state)
