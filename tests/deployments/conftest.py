"""What the tests of a deployment's life share with others: programs with prometheus_client, and real servers."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("integrations", "real")]
