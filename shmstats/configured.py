"""What a registry counts into: determined at the first use or by `init`, and replaced by a later `init`."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from . import lifecycle
from .attachment.slow_path import SharedProvider
from .block import BlockError
from .block.lock import Guard, late
from .config import ConfigError, Settings, load
from .handles import HandleKeeper
from .sinks.fanout import FanOut

if TYPE_CHECKING:
    from .sinks import Provider
    from .sinks.guarded import GuardedProvider

log = logging.getLogger("shmstats")

#: The settings used after an error in the configuration. They need no current directory, and their data directory can
#: never be a real one.
_DISABLED = {"path": {"data": os.devnull}, "stats": {"enabled": False}}


class Configured(HandleKeeper):
    """The configuration of a registry, and what it counts into.

    Attributes:
        config_error: the error of the configuration that was found; empty if there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config_error = ""
        self._guard = Guard()
        self._settings: Settings | None = None
        self._fan_out = FanOut(None)
        self._statsd: GuardedProvider | None = None
        self._leave_when_dropped: weakref.finalize[..., Any] | None = None
        self._exiting = False
        lifecycle.take_part(lifecycle.Stage.REGISTRIES, self)

    def init(self, config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> None:
        """Configure the registry and attach the block.

        Calls of other threads meanwhile count into the new block, too. If the configuration has an error,
        nothing changes.

        Args:
            config: path of a YAML file, or a mapping like its content; None to find it:
                ``$SHMSTATS_CONFIG``, else ``./shmstats.yml``, else the defaults.

        Raises:
            ConfigError: the configuration has an error.
            BlockError: the data directory has a block that must not be used.
            OSError: shared memory is full or not usable.
        """
        with self._guard:
            former = self._use(load(config))
        former.close()
        shared = self._fan_out.shared
        if shared is not None:
            try:
                shared.attach()
            except BlockError:
                if not shared.retired:  # else another thread has configured it again since
                    raise

    @contextmanager
    def configured_as(self, given: Mapping[str, Any]) -> Iterator[None]:
        """Use another configuration inside the context; afterwards the previous one, or none.

        Args:
            given: as for `init`.

        Raises:
            ConfigError: it has an error.
            BlockError: as for `init`.
            OSError: as for `init`.
        """
        before = self._settings
        self.init(given)
        try:
            yield
        finally:
            with self._guard:
                former = self._use(before or load(_DISABLED))
                self._settings = before
            former.close()

    @property
    def configured(self) -> bool:
        """Whether there are settings already."""
        return self._settings is not None

    @property
    def settings(self) -> Settings:
        """The current settings; they are looked for if there are none yet.

        Raises:
            ConfigError: the configuration has an error.
        """
        settings = self._settings
        if settings is not None:
            return settings
        with self._guard:
            if self._settings is None:
                self._use(load(None))
            assert self._settings is not None
            return self._settings

    @property
    def shared(self) -> SharedProvider | None:
        """The shared block's provider; None if statistics are disabled or the configuration has an error."""
        if self._settings is None and not self._guard.is_held():  # else this is a signal handler
            with self._guard:
                try:
                    _ = self.settings
                except ConfigError as error:
                    self._settings = load(_DISABLED)
                    self.config_error = str(error)
                    self._guard.defer(self._tell_config_error)
        return self._fan_out.shared

    def flush(self) -> None:
        """Flush what this process has buffered: to the block, and to further providers that buffer.

        Raises:
            BlockError: the block is damaged.
        """
        self._fan_out.flush()

    def close(self) -> None:
        """Leave the block; the last process to leave saves it. The next use attaches it again."""
        self._fan_out.close()

    def forget(self) -> None:
        """Reset in the child of a fork: no thread can hold the guard any more, and leaving is the parent's task."""
        self._guard = Guard()

    def leave(self) -> None:
        """Leave the block at exit."""
        self._exiting = True
        fan_out = self._fan_out
        if fan_out.shared is not None:
            fan_out.shared.ending = True
        for provider in fan_out.others:
            provider.close()
        self.close()

    def _use(self, settings: Settings) -> FanOut:
        """Replace what was counted into before, in one step; returns that, for the caller to close.

        The guard is held: a signal handler's operations are deferred.
        """
        former = self._fan_out
        others = tuple(provider for provider in former.others if provider is not self._statsd)
        statsd = None
        if settings.statsd.enabled and settings.stats.enabled:
            try:
                statsd = self._guarded(late("shmstats.sinks.statsd").StatsdProvider(settings.statsd, self._report))
                others = (*others, statsd)
            except BlockError as error:
                self._guard.defer(partial(log.error, "StatsD gets no operations: %s", error))
        shared = None
        if self._leave_when_dropped is not None:
            self._leave_when_dropped.detach()
        if settings.stats.enabled:
            shared = SharedProvider(settings, self._registrar, self._declared, former.shared)
            shared.count_directly(not others)
            self._leave_when_dropped = weakref.finalize(self, shared.close)
            self._leave_when_dropped.atexit = False
        if former.shared is not None:
            former.shared.retire(shared)
        if self._statsd is not None:
            self._guard.defer(self._statsd.close)
        self._statsd = statsd
        self._fan_out = FanOut(shared, others)
        self._settings = settings
        self.config_error = ""
        return former

    def _guarded(self, provider: Provider) -> GuardedProvider:
        """Return a guard around a further provider, which then can neither raise nor hang. Imported only if used.

        Raises:
            BlockError: this user cannot import it.
        """
        guarded: GuardedProvider = late("shmstats.sinks.guarded").GuardedProvider(provider, self._report)
        return guarded

    def _add(self, provider: Provider) -> None:
        """Send every operation to a further provider from now on."""
        guarded = self._guarded(provider)
        with self._guard:
            shared, others = self._fan_out.shared, (*self._fan_out.others, guarded)
            self._fan_out = FanOut(shared, others)
            if shared is not None:
                shared.count_directly(False)

    def _report(self, metric: str) -> None:
        """Count an event of a further provider."""
        SharedProvider.count_own(self._fan_out.shared, metric)

    def _tell_config_error(self) -> None:
        """Log that nothing is counted, or print it on stderr if the log would not show it."""
        text = f"nothing is counted: {self.config_error}"
        if _is_shown():
            log.error("%s", text)
        elif sys.stderr is not None:
            print(f"shmstats: {text}", file=sys.stderr, flush=True)


def _is_shown() -> bool:
    """Tell whether the log shows errors: `logging.config` disables loggers that were made before it."""
    return not log.disabled and log.isEnabledFor(logging.ERROR)
