"""The configuration: `rules` declares every key and its allowed values, `loading` finds a file and checks it."""

from __future__ import annotations

from shmstats.config.loading import load as load
from shmstats.config.rules import ApiSettings as ApiSettings
from shmstats.config.rules import ConfigError as ConfigError
from shmstats.config.rules import PathSettings as PathSettings
from shmstats.config.rules import PushSettings as PushSettings
from shmstats.config.rules import Settings as Settings
from shmstats.config.rules import SettingsSection as SettingsSection
from shmstats.config.rules import StatsdSettings as StatsdSettings
from shmstats.config.rules import StatsSettings as StatsSettings
