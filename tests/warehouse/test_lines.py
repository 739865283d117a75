from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from include.contracts import BadInputError
from include.local.shop import EVENT_HEADER
from include.warehouse.lines import Block, Position, ahead, read_blocks
from include.warehouse.loading import find_source
from include.warehouse.sources import SourceFile
from tests.shops import event, write_source


def browsing(folder: Path, rows: Any, name: str = "browsing.csv") -> SourceFile:
    return find_source(write_source(folder, rows, name=name)).browsing


def rows_of(blocks: list[Block]) -> dict[int, list[str]]:
    """Line number to fields of every row that has all columns."""
    found = {}
    for block in blocks:
        for row in block.table.to_pylist():
            number = row.pop("line_number")
            found[number] = list(row.values())
    return found


def many(end: str = "\n") -> tuple[bytes, dict[int, list[str]]]:
    """A file with blank lines, and what it holds."""
    lines = [event(session=f"s{number}") for number in range(30)]
    lines[7] = ""
    lines[12] = "   "
    expected = {n + 2: line.split(",") for n, line in enumerate(lines) if line.strip()}
    return end.join([EVENT_HEADER, *lines]).encode(), expected


@pytest.mark.parametrize("block", [40, 200, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_keep_their_numbers_whatever_the_block(
    tmp_path: Path, block: int, packed: bool, end: str
) -> None:
    content, expected = many(end)
    name = "browsing.csv.gz" if packed else "browsing.csv"
    file = browsing(tmp_path, gzip.compress(content) if packed else content, name)
    blocks = list(read_blocks(file, block_bytes=block))
    assert rows_of(blocks) == expected
    assert sum(block.lines for block in blocks) == 28
    assert not any(block.spoiled for block in blocks)


@pytest.mark.parametrize("packed", [False, True])
def test_reading_goes_on_behind_any_block_as_if_it_had_not_stopped(tmp_path: Path, packed: bool) -> None:
    content, expected = many()
    name = "browsing.csv.gz" if packed else "browsing.csv"
    file = browsing(tmp_path, gzip.compress(content) if packed else content, name)
    blocks = list(read_blocks(file, block_bytes=100))
    assert len(blocks) > 5
    for stop in range(len(blocks)):
        rest = list(read_blocks(file, blocks[stop].end, block_bytes=100))
        assert rows_of(blocks[: stop + 1] + rest) == expected
        assert [block.end for block in rest] == [block.end for block in blocks[stop + 1 :]]


def test_going_on_reads_nothing_of_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = browsing(tmp_path, [event(session=f"s{number}") for number in range(1000)])
    seeks: list[int] = []
    opened = file.stored.open()
    real = opened.seek
    stream = type("Spy", (), {"__getattr__": lambda self, name: getattr(opened, name)})()
    stream.seek = lambda offset: (seeks.append(offset), real(offset))[1]
    stream.__class__.__enter__ = lambda self: self
    stream.__class__.__exit__ = lambda self, *_: opened.close()
    monkeypatch.setattr(type(file.stored), "open", lambda self: stream)
    [block] = read_blocks(file, Position(20_000, 500))
    assert seeks[-1] == 20_000
    assert len(block.text) == Path(tmp_path, "browsing.csv").stat().st_size - 20_000


def test_quotes_are_read_per_line_and_an_open_one_spoils_its_own_line_only(tmp_path: Path) -> None:
    lines = [
        'a,"b,c",d,1,2,3',
        'a,"b',
        'a,"b"c,,,,',
        "plain,line,1,2,3,4",
        '"a""b",,,,,"x,y"',
        'a,"",b",,,',
        "e,,,,,",
    ]
    [block] = read_blocks(browsing(tmp_path, lines))
    assert rows_of([block]) == {
        2: ["a", "b,c", "d", "1", "2", "3"],
        5: ["plain", "line", "1", "2", "3", "4"],
        6: ['a"b', "", "", "", "", "x,y"],
        7: ["a", "", 'b"', "", "", ""],
        8: ["e", "", "", "", "", ""],
    }
    assert block.spoiled == dict.fromkeys((3, 4), "wrong_column_count")
    assert block.line(4) == 'a,"b"c,,,,'


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ('s,pageview,"","",1,u', ["s", "pageview", "", "", "1", "u"]),
        ('s,"","","","",""', ["s", "", "", "", "", ""]),
        ('"","","","","",""', [""] * 6),
        ('s,"","a,"",b",1,2,""', ["s", "", 'a,",b', "1", "2", ""]),
        ('s,"""","",1,2,3', ["s", '"', "", "1", "2", "3"]),
        ('s,"a,""",x,1,2,3', ["s", 'a,"', "x", "1", "2", "3"]),
        ('"s","pageview","","","1","u"', ["s", "pageview", "", "", "1", "u"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_empty_quotes_are_empty_fields_wherever_they_stand(
    tmp_path: Path, line: str, fields: list[str], end: str
) -> None:
    content = f"{EVENT_HEADER}\n{event()}\n{line}{end}".encode()
    blocks = list(read_blocks(browsing(tmp_path, content)))
    assert rows_of(blocks)[3] == fields
    assert blocks[-1].line(3) == line


def test_lines_with_too_few_or_too_many_fields_are_spoiled_and_counted(tmp_path: Path) -> None:
    [block] = read_blocks(browsing(tmp_path, ["a", event(), event() + ",x", "", "-"]))
    assert block.spoiled == dict.fromkeys((2, 4, 6), "wrong_column_count")
    assert list(rows_of([block])) == [3]
    assert block.lines == 4


def test_bytes_that_are_no_text_spoil_their_lines_only(tmp_path: Path) -> None:
    good = event(sku="\u00e9\U0001f600").encode()
    content = b"\n".join([EVENT_HEADER.encode(), b"a\xff,,,,,", good, b"b\x00,,,,,", b"c,,,,,", b""])
    [block] = read_blocks(browsing(tmp_path, content))
    assert block.spoiled == {2: "binary_rubbish", 4: "binary_rubbish"}
    assert rows_of([block])[3][3] == "\u00e9\U0001f600"
    assert list(rows_of([block])) == [3, 5]


def test_an_endless_line_is_cut_off_and_spoiled_and_the_next_one_is_whole(tmp_path: Path) -> None:
    content = EVENT_HEADER.encode() + b"\n" + b"x" * (5 << 20) + b"\n" + event().encode()
    file = browsing(tmp_path, content)
    blocks = list(read_blocks(file, block_bytes=1 << 18))
    assert blocks[0].spoiled == {2: "binary_rubbish"} and len(blocks[0].text) < 2 << 20
    assert rows_of(blocks) == {3: event().split(",")}
    assert rows_of(list(read_blocks(file, blocks[0].end))) == {3: event().split(",")} or len(blocks) == 1
    assert blocks[-1].end.offset == len(content)


def test_truncation_far_into_the_file_is_noticed(tmp_path: Path) -> None:
    content = "\n".join([EVENT_HEADER, *(event(session=f"{n * 7919:064x}") for n in range(40_000))]).encode()
    packed = gzip.compress(content)
    file = browsing(tmp_path, packed[: len(packed) - 20], "browsing.csv.gz")
    with pytest.raises(BadInputError, match="truncated"):
        list(read_blocks(file))


def test_reading_ahead_keeps_order_and_hands_on_errors() -> None:
    def items() -> Any:
        yield from range(5)
        raise BadInputError("damaged")

    found = []
    with pytest.raises(BadInputError, match="damaged"):
        for item in ahead(items()):
            found.append(item)
    assert found == [0, 1, 2, 3, 4]
