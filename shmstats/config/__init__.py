"""The configuration: `rules` declares every key and its allowed values, `loading` finds a file and checks it."""

from __future__ import annotations

from shmstats.config.loading import load
from shmstats.config.rules import (
    ApiSettings,
    ConfigError,
    PathSettings,
    PushSettings,
    Settings,
    SettingsSection,
    StatsdSettings,
    StatsSettings,
)

__all__ = [
    "ApiSettings",
    "ConfigError",
    "PathSettings",
    "PushSettings",
    "Settings",
    "SettingsSection",
    "StatsSettings",
    "StatsdSettings",
    "load",
]
