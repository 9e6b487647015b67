"""What a registry counts into: found out on first use, or by `init`, and put in the place of what was before."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import config, lifecycle
from .attachment.slow_path import SharedProvider
from .block import BlockError
from .block.lock import Guard
from .handles import HandleKeeper
from .sinks.fanout import FanOut

if TYPE_CHECKING:
    from .sinks import Provider
    from .sinks.guarded import GuardedProvider

log = logging.getLogger("shmstats")

#: The configuration in the place of one with an error. It needs no current directory, and its data directory can
#: never be one.
_DISABLED = {"path": {"data": os.devnull}, "stats": {"enabled": False}}


class Configured(HandleKeeper):
    """The configuration of a registry, and what it counts into.

    Attributes:
        config_error: what is wrong with the configuration that was found; empty where nothing is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config_error = ""
        self._guard = Guard()
        self._configuring = False
        self._settings: config.Settings | None = None
        self._fan_out = FanOut(None)
        self._statsd: GuardedProvider | None = None
        self._leave_when_dropped = weakref.finalize(self, _nothing)
        self._exiting = False
        lifecycle.tell_of_forks(lifecycle.Stage.REGISTRIES, self)
        lifecycle.tell_of_exit(lifecycle.Stage.REGISTRIES, self)

    def init(self, config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> None:
        """Configure the registry and attach the block.

        What other threads count meanwhile goes to the new block, too. Where the configuration has an error
        everything stays as it was.

        Args:
            config: path of a YAML file, or a mapping like its content; None to find it:
                ``$SHMSTATS_CONFIG``, else ``./shmstats.yml``, else the defaults.

        Raises:
            ConfigError: the configuration has an error.
            BlockError: there is a block for the data directory that must not be used.
            OSError: shared memory is full or not usable.
        """
        former = self._configure(config)
        former.close()
        shared = self._fan_out.shared
        if shared is not None:
            try:
                shared.attach()
            except BlockError:
                if not shared.retired:  # else another thread has configured it anew since
                    raise

    @contextmanager
    def configured_as(self, given: Mapping[str, Any]) -> Iterator[None]:
        """Have another configuration for a while; afterwards there is the one of before, or none.

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
                former = self._fan_out
                if before is None:
                    self._use(config.load(_DISABLED), former)
                else:
                    self._use(before, former)
                self._settings = before
            former.close()

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
        settings = self._settings
        if settings is not None:
            return settings
        with self._guard:
            if self._settings is None:
                self._configure(None)
            assert self._settings is not None
            return self._settings

    @property
    def shared(self) -> SharedProvider | None:
        """The shared block's provider; None where statistics are disabled, or wrongly configured."""
        if self._settings is None and not self.is_configuring:
            with self._guard:
                try:
                    _ = self.settings
                except config.ConfigError as error:
                    self._settings = config.load(_DISABLED)
                    self.config_error = str(error)
                    self._guard.defer(self._tell_config_error)
        return self._fan_out.shared

    @property
    def is_configuring(self) -> bool:
        """Whether a signal handler has interrupted this thread while it configures."""
        return self._configuring and self._guard.held

    def flush(self) -> None:
        """Push what this process has buffered: to the block, and to further providers that buffer.

        Raises:
            BlockError: the block is damaged.
        """
        self._fan_out.flush()

    def close(self) -> None:
        """Leave the block; the last process to leave saves it. The next use attaches it again."""
        self._fan_out.close()

    def forget(self) -> None:
        """Start anew in the child of a fork: no thread is left that could have held the guard; its end is another's."""
        self._guard = Guard()
        self._configuring = False

    def leave(self) -> None:
        """Leave at the end of the process."""
        self._exiting = True
        fan_out = self._fan_out
        if fan_out.shared is not None:
            fan_out.shared.ending = True
        for provider in fan_out.others:
            provider.close()
        self.close()

    def _ready(self) -> FanOut:
        """Return what is counted into, which is found out if need be."""
        if self._settings is None:
            _ = self.shared
        lifecycle.arrange_exit()
        return self._fan_out

    def _configure(self, given: str | os.PathLike[str] | Mapping[str, Any] | None) -> FanOut:
        """Take a configuration, and return what was counted into before, to be closed."""
        with self._guard:
            self._configuring = True
            try:
                settings = config.load(given)
                former = self._fan_out
                self._use(settings, former)
                self._settings = settings
                self.config_error = ""
            finally:
                self._configuring = False
        return former

    def _use(self, settings: config.Settings, former: FanOut) -> None:
        """Put what these settings say in the place of what was before, in one step."""
        others = tuple(provider for provider in former.others if provider is not self._statsd)
        statsd = None
        if settings.statsd.enabled and settings.stats.enabled:
            # Only here: few want it, and it takes its time to import.
            with lifecycle.no_fork():
                from .sinks.statsd import StatsdProvider

            statsd = self._guarded(StatsdProvider(settings.statsd, self._report))
            others = (*others, statsd)
        shared = None
        self._leave_when_dropped.detach()
        if settings.stats.enabled:
            shared = SharedProvider(settings, self._registrar, self._declared, former.shared)
            shared.direct = not others
            self._leave_when_dropped = weakref.finalize(self, shared.close)
            self._leave_when_dropped.atexit = False
        if former.shared is not None:
            former.shared.retire(shared)
        if self._statsd is not None:
            self._guard.defer(self._statsd.close)
        self._statsd = statsd
        self._fan_out = FanOut(shared, others)

    def _guarded(self, provider: Provider) -> GuardedProvider:
        """Return a further provider that can neither raise nor hang; few want one, and it takes its time to import."""
        with lifecycle.no_fork():
            from .sinks.guarded import GuardedProvider
        return GuardedProvider(provider, self._report)

    def _add(self, provider: Provider) -> None:
        """Have a further provider get every operation from now on."""
        guarded = self._guarded(provider)
        with self._guard:
            shared, others = self._fan_out.shared, (*self._fan_out.others, guarded)
            self._fan_out = FanOut(shared, others)
            if shared is not None:
                shared.direct = False

    def _report(self, metric: str) -> None:
        """Count what happened to a further provider."""
        shared = self._fan_out.shared
        if shared is not None:
            shared.count_own(metric)

    def _tell_config_error(self) -> None:
        """Say that nothing is counted: in the log, or on stderr where that does not show it."""
        text = f"nothing is counted: {self.config_error}"
        if _is_shown():
            log.error("%s", text)
        elif sys.stderr is not None:
            print(f"shmstats: {text}", file=sys.stderr, flush=True)


def _nothing() -> None:
    """What is to be done for a registry without a block."""


def _is_shown() -> bool:
    """Tell whether an error in the log is seen: `logging.config` disables loggers that were made before it."""
    return not log.disabled and log.isEnabledFor(logging.ERROR)
