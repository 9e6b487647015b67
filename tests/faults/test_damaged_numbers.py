"""Numbers that no call accepts, but a damaged block may have: every format shows them or leaves them out."""

from __future__ import annotations

import json
import struct
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from shmstats.export.people import duration, number, size

VALUES: tuple[int | float, ...] = (nan, inf, -inf, 1e300, -1.0, -1, 2**62, -(2**63))


@pytest.fixture
def damaged(stats: Any) -> Any:
    """A block with these values in gauges and timestamps, and the latest moments in its header."""
    from shmstats.block.layout import HEADER
    from shmstats.layout import NAME

    stats.declare("g", "size", kind="gauge", unit="bytes")
    for value in VALUES:
        stats.timestamp("t", str(value))
        stats.gauge("g", str(value), 0)
        stats.gauge("g", "size", 0, labels={"of": str(value)})
    block = stats.shared.attach()
    for record in block.names.records():
        created = block.layout.names + record.number * NAME.size + NAME.offset("created")
        block._buf[created : created + 8] = b"\xff" * 8
        key = block.names.key(record.number).decode()
        value = next((value for value in VALUES if key.endswith(f"\0{value}")), None)
        if value is not None:
            cells = struct.pack("<Iqd", *((1, 7, value) if isinstance(value, float) else (0, value, nan)))
            place = block.layout.cells + 8 * record.cell + 4  # after the lock
            block._buf[place : place + len(cells)] = cells
    for field in ("saved", "pushed", "saver_heartbeat", "started"):
        block._buf[HEADER.offset(field) : HEADER.offset(field) + 8] = b"\xff" * 8
    return block


def test_any_number_in_a_cell_is_shown_in_every_format(stats: Any, damaged: Any, data: Path) -> None:
    """Also when saved: an impossible moment counts as unknown."""
    from shmstats.export import FORMATS, View
    from shmstats.sinks.push.encoder import Stale
    from shmstats.sinks.push.otlp import Otlp
    from shmstats.sinks.push.remote_write import RemoteWrite
    from shmstats.sinks.push.text import TextImport
    from shmstats.terminal.panes import metrics_pane
    from shmstats.terminal.top import Looker
    from shmstats.terminal.watch import Repaint
    from shmstats.web import create_app

    for value in VALUES:
        whole = 7 if isinstance(value, float) else value
        assert stats.snapshot()["t"][str(value)] == whole
        noted = stats.get_timestamp("t", str(value))
        assert noted is None if abs(whole) > 2**60 else noted.timestamp() == whole / 1e6
    snapshot = damaged.reader.read(by_worker=True)
    for form in FORMATS.values():
        assert form.render(snapshot, View())
    for raw in (False, True):
        assert b"t.nan" in Repaint(raw).content(snapshot, "title")
    assert metrics_pane(Looker(data).look()[0], None, 80)
    view = View(labels=(("instance", "one"), ("job", "shop")))
    for encoder in (RemoteWrite(view, {}), TextImport(view, {}), Otlp(view, {}, 5)):
        assert encoder.encode(damaged.reader.read(), 1_700_000_000_000, Stale.NONE)
    client = create_app().test_client()
    for path in ("/stats", "/stats?format=v2", "/stats?format=csv", "/stats/prometheus", "/stats/live/data"):
        assert client.get(path).status_code == 200, path
    stats.close()
    assert stats.get("g", "1e+300") == 1e300


@pytest.mark.parametrize(
    ("value", "of_number", "of_size", "of_duration"),
    [
        (nan, "nan", "nan TiB", "nan d"),
        (inf, "inf", "inf TiB", "inf d"),
        (-inf, "-inf", "-inf TiB", "-inf d"),
        (1e300, "1e+300", "9.09e+287 TiB", "1.16e+295 d"),
        (-2048.0, "-2,048", "-2 KiB", "-2048.0 s"),
        (2**62, "4,611,686,018,427,387,904", "4.19e+06 TiB", "5.34e+13 d"),
    ],
)
def test_a_number_of_any_size_is_formatted(value: float, of_number: str, of_size: str, of_duration: str) -> None:
    assert (number(value), size(value), duration(value)) == (of_number, of_size, of_duration)


@pytest.mark.parametrize("said", ["NaN", "Infinity", "1e999", "1" + "0" * 400, '"x"', "null"])
def test_an_exemplar_without_a_valid_number_is_left_out(said: str) -> None:
    from shmstats.exemplars import read_exemplars

    right = '[[["trace","7"]],1.5,2.5]'
    for exemplar in (f'[[["a","b"]],{said},1]', f'[[["a","b"]],1,{said}]'):
        kept = read_exemplars(f'{{"exemplars":[{exemplar},{right}]}}'.encode())
        assert [each.value for each in kept] in ([1.5], [])
    assert read_exemplars(json.dumps({"exemplars": [[[["trace", "7"]], 1.5, 2.5]]}).encode())[0].moment == 2.5


@pytest.mark.parametrize("said", ["Infinity", "NaN", '"x"'])
def test_a_declaration_with_impossible_numbers_is_refused(said: str) -> None:
    from shmstats.block.declarations import decode_definition

    with pytest.raises(ValueError, match=r"."):
        decode_definition(f'[1,"","",[],1,null,"",{said},[]]'.encode())


def test_counts_of_the_header_wrap_to_0(stats: Any) -> None:
    stats.incr("c", "m", 2)
    stats.incr("c", "gone")
    block = stats.shared.attach()
    block.header.revision = block.header.save_ticket = block.header.saver_term = 2**64 - 1
    block.names.broken_off = 1
    stats.remove("c", "gone")
    stats.incr("c", "new")
    block.names.raise_revision()
    assert block.header.revision < 10
    assert stats.snapshot()["c"] == {"m": 2, "new": 1}
    stats.close()
    assert stats.get("c", "m") == 2


def test_a_header_with_fewer_cells_in_use_than_series_have_is_damage_of_which_reads_tell(stats: Any) -> None:
    from shmstats.block.errors import DamagedBlockError

    stats.gauge("g", "v", 1.5)
    stats.incr("c", "m")
    assert stats.snapshot()["c"]["m"] == 1
    records = stats.shared.attach().names
    used = records.cells_used
    for fewer in range(1, 5):
        records.set_used(used - fewer, records.heap_used)
        with pytest.raises(DamagedBlockError):
            stats.snapshot()
    records.set_used(used, records.heap_used)
    assert stats.snapshot()["c"]["m"] == 1


def test_records_that_use_more_cells_than_exist_are_damage(stats: Any) -> None:
    from shmstats.block.errors import DamagedBlockError
    from shmstats.block.repairing import repair

    stats.incr("c", "m")
    block = stats.shared.attach()
    record = block.names.find(b"c\0m")
    for field, most in (("cell", 4), ("key", 8)):
        place = block.names._field(record.number, field)
        before = bytes(block._buf[place : place + most])
        block._buf[place : place + most] = b"\xff" * most
        block.names.broken_off = 1
        with pytest.raises(DamagedBlockError, match="records use"):
            repair(block.names)
        block._buf[place : place + most] = before
    assert repair(block.names)


@pytest.mark.parametrize("kind", [1, 2, 4])
def test_a_name_with_a_damaged_kind_is_not_counted_and_reported(stats: Any, kind: int) -> None:
    """It lacks the cells of that kind: no call reports this as a mistake of the caller."""
    from shmstats.block import BlockError

    stats.timing("c", "t", 5)
    block = stats.shared.attach()
    place = block.names._field(block.names.find(b"c\0t").number, "kind")
    right, block._buf[place] = block._buf[place], kind
    block.names.raise_revision()
    block.cells.raise_generation()
    stats.timing("c", "t", 5)
    stats.timing("c", "other", 5)
    with pytest.raises(BlockError, match=r"damaged: record \d+ has (kind|cells)"):
        stats.get("c", "t")
    block._buf[place] = right
    assert stats.get("c", "t").count == 1
    assert stats.get("shmstats", "operations_dropped") == 1


def test_a_mode_that_does_not_fit_the_cells_is_damage_of_which_pages_tell(stats: Any) -> None:
    """A page is not made of a value of another kind."""
    from shmstats.block import BlockError

    stats.incr("c", "m")
    stats.timing("c", "t", 5)
    stats.timestamp("c", "moment")
    stats.gauge("c", "g", 5)
    block = stats.shared.attach()
    for name in ("m", "t", "moment", "g"):
        place = block.names._field(block.names.find(f"c\0{name}".encode()).number, "mode")
        for mode in (1, 13):
            block._buf[place] = mode
            block.names.raise_revision()
            with pytest.raises(BlockError, match=r"damaged: record \d+ has cells for its kind and mode"):
                stats.snapshot()
        block._buf[place] = 0
    assert stats.snapshot()["c"]["m"] == 1


RECORDS = "c\0labelled\0", "c\0other\0", "c\0labelled\0a\0x", "c\0m"


@pytest.mark.parametrize("of", ["c\0labelled\0a\0x", "c\0labelled\0"])
def test_a_record_that_leads_to_no_family_of_its_metric_is_damage(stats: Any, of: str) -> None:
    """A declaration does not follow it: the call raises nothing."""
    from shmstats.block.validate import find_damage

    stats.incr("c", "m")
    for metric in ("labelled", "other"):
        stats.incr("c", metric, labels={"a": "x"})
    block = stats.shared.attach()
    numbers = {key: block.names.find(key.encode()).number for key in (of, *RECORDS)}
    number, right = numbers[of], block.names.record(numbers[of]).family + 1
    assert not find_damage(block._buf, block.layout)
    for leads_to in (numbers[key] + 1 for key in RECORDS):
        if leads_to != right:
            block.names._store(number, "family", leads_to)
            block.names.raise_revision()
            assert find_damage(block._buf, block.layout) == f"record {number} has a family that is not its metric's"
            stats.declare("c", "labelled", kind="gauge", mode="sum")
    block.names._store(number, "family", right)
