"""BLAKE2b (RFC 7693), for checksums, digests, and names of segments.

`hashlib` has it too, but loads OpenSSL first, which takes longer than most of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["blake2b"]

if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
