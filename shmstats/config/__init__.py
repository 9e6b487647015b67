"""The configuration: `rules` declares every key and its allowed values, `loading` finds a file and checks it."""

from __future__ import annotations

from shmstats.config.loading import load
from shmstats.config.rules import (
    SECTIONS,
    ApiSettings,
    ConfigError,
    PathSettings,
    PrometheusSettings,
    PushSettings,
    Settings,
    SettingsSection,
    StatsdSettings,
    StatsSettings,
)

__all__ = [
    "SECTIONS",
    "ApiSettings",
    "ConfigError",
    "PathSettings",
    "PrometheusSettings",
    "PushSettings",
    "Settings",
    "SettingsSection",
    "StatsSettings",
    "StatsdSettings",
    "load",
]
