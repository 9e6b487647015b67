"""The header of a block: its numbers, and whether a block with such a header can be used here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..layout import HEADER, LAYOUT_VERSION, MAGIC, PAGE, Layout, struct_of
from .segment import BlockError

_HEADER = struct_of(HEADER)
_FIELDS = HEADER.names or ()


def read_header(buf: memoryview) -> dict[str, int]:
    """Return the numbers in a block's header by name.

    Raises:
        BlockError: there is no room for a header.
    """
    if len(buf) < PAGE:
        raise BlockError(f"the block is {len(buf)} bytes long; its header alone is {PAGE}")
    return dict(zip(_FIELDS, _HEADER.unpack_from(buf, 0), strict=True))


def write_header(buf: memoryview, values: Mapping[str, Any]) -> None:
    """Write the header of a block that is being made; fields that are not given become 0."""
    _HEADER.pack_into(buf, 0, *(values.get(field, 0) for field in _FIELDS))


def check_layout(name: str, header: dict[str, int], size: int) -> Layout:
    """Check that a block is laid out as this version lays it out, and return its layout.

    Raises:
        BlockError: naming both sides of what differs.
    """
    if header["magic"] != MAGIC:
        raise BlockError(f"block {name} does not begin like a block of shmstats; it is damaged or not ours")
    if header["layout_version"] != LAYOUT_VERSION:
        raise BlockError(
            f"block {name} has layout version {header['layout_version']}, this shmstats has version"
            f" {LAYOUT_VERSION}: stop the processes that use the other version first"
        )
    layout = Layout(header["capacity"], header["max_workers"])
    if not (layout.capacity and layout.max_workers and layout.size == size):
        raise BlockError(
            f"block {name} is {size} bytes long, but by its header (capacity {layout.capacity},"
            f" max_workers {layout.max_workers}) it has {layout.size}; it is damaged"
        )
    return layout
