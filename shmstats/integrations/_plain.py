"""The plain case of a WSGI request: in C where the core is, else its pure Python twin."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ..core import CORE

__all__ = ["PlainExchange", "PlainMiddleware"]

if TYPE_CHECKING or CORE != "C" or importlib.util.find_spec("._exchange", __package__) is None:
    from ._exchange_py import PlainExchange, PlainMiddleware
else:
    from ._exchange import PlainExchange, PlainMiddleware
