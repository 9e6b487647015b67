"""The configuration: `rules` declares every key and what it allows, `loading` finds a file and checks it."""

from __future__ import annotations

from shmstats.config.loading import DEFAULT_FILE, ENVIRONMENT_VARIABLE, load
from shmstats.config.rules import (
    SECTIONS,
    ApiSettings,
    ConfigError,
    HistorySettings,
    PathSettings,
    PrometheusSettings,
    PushSettings,
    Rule,
    Settings,
    SettingsSection,
    StatsdSettings,
    StatsSettings,
)

__all__ = [
    "DEFAULT_FILE",
    "ENVIRONMENT_VARIABLE",
    "SECTIONS",
    "ApiSettings",
    "ConfigError",
    "HistorySettings",
    "PathSettings",
    "PrometheusSettings",
    "PushSettings",
    "Rule",
    "Settings",
    "SettingsSection",
    "StatsSettings",
    "StatsdSettings",
    "load",
]
