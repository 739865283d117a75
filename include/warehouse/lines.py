"""Reads CSV text a block at a time, in bounded memory, and from any line on.

A row is a line: a quote that is never closed spoils its own line and no other.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, TYPE_CHECKING, TypeVar, cast

from include.contracts import BadInputError
from include.warehouse.sources import SourceFile, Stored

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 1 << 20

_GZIP_MAGIC = b"\x1f\x8b"
DAMAGE_MARK = "\ufffd"
"""Stands where a byte was no UTF-8; a line that holds it, or NUL, is rejected."""
_DAMAGE = DAMAGE_MARK.encode()
_FILLER = b"-"
"""Takes the place of a line that is judged apart: one column, which no file has."""
csv.field_size_limit(MAX_LINE_BYTES)

T = TypeVar("T")


@dataclass(frozen=True)
class Position:
    """A place between two lines.

    Attributes:
        offset: Bytes of text before it, unpacked.
        line: Number of the line behind it; the header is line 1.
    """

    offset: int = 0
    line: int = 1


@dataclass(frozen=True)
class Block:
    """Some whole lines of a file.

    Attributes:
        table: The rows that have every column: `line_number` int64 and `c0`, `c1`, … string.
        spoiled: Reasons of the other lines, by line number; blank lines have none.
        lines: Number of lines that are not blank.
        end: Where the next block begins.
    """

    table: pa.Table = field(repr=False)
    spoiled: dict[int, str] = field(repr=False)
    lines: int
    end: Position
    first_line: int
    text: bytes = field(repr=False)

    @cached_property
    def _lines(self) -> list[bytes]:
        return self.text.split(b"\n")

    def line(self, number: int) -> str:
        """Returns a line as it stands in the file."""
        return self._lines[number - self.first_line].decode("utf-8", errors="replace").removesuffix("\r")


def open_text(stored: Stored) -> IO[bytes]:
    """Opens a file for reading its text; what it holds, not its name, decides whether it is gzip."""
    stream = stored.open()
    packed = stream.read(2) == _GZIP_MAGIC
    stream.seek(0)
    return cast("IO[bytes]", _Unpacked(stream)) if packed else stream


class _Unpacked(gzip.GzipFile):
    """A gzip stream that closes the file below it too."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._below = stream
        super().__init__(fileobj=stream, mode="rb")

    def close(self) -> None:
        super().close()
        self._below.close()


def guarded_read(name: str, file: IO[bytes], size: int) -> bytes:
    """Reads from a file that may be damaged.

    Raises:
        BadInputError: The gzip stream is truncated or damaged.
    """
    try:
        return file.read(size)
    except EOFError as error:
        raise BadInputError(
            f"{name} is truncated: the gzip stream ends early. Nothing was landed; fetch the file again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInputError(f"{name} is damaged: {error}. Nothing was landed.") from error


def read_blocks(
    file: SourceFile, start: Position | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[Block]:
    """Reads the lines after the header, or those behind a position, a block at a time.

    Args:
        file: The checked file.
        start: Where an earlier reader stopped; gzip has to be unpacked up to there.
        block_bytes: Bytes of text per block, which bounds the memory.

    Yields:
        Blocks in file order; blank lines are skipped and still counted by the line numbers.

    Raises:
        BadInputError: The gzip stream is truncated or damaged.
    """
    position = start or Position()
    with open_text(file.stored) as stream:
        _skip(file.name, stream, position.offset)
        for text, offset in _whole_lines(file.name, stream, position.offset, block_bytes):
            rows, first = text, position.line
            if first == 1:
                _, _, rows = text.partition(b"\n")
                first = 2
            position = Position(offset, position.line + text.count(b"\n"))
            if rows:
                yield _block(rows, first, len(file.columns), position)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Makes the next item in a thread while the caller is busy with the one before it."""
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield cast(T, item)


def _skip(name: str, stream: IO[bytes], count: int) -> None:
    if not isinstance(stream, gzip.GzipFile):
        stream.seek(count)
        return
    while count:
        skipped = len(guarded_read(name, stream, min(count, MAX_LINE_BYTES)))
        if not skipped:
            raise BadInputError(f"{name} is shorter than when it was read before: load it again.")
        count -= skipped


def _whole_lines(name: str, stream: IO[bytes], offset: int, block_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Cuts a stream behind line ends, and says at which offset each cut is.

    A line without end is cut off, and marked as damaged, at a megabyte.
    """
    rest = b""
    endless = False
    # Whoever goes on behind a block cuts where the first reader would have: chunks have the same names.
    end = (-(-offset // block_bytes) + 1) * block_bytes
    while block := guarded_read(name, stream, end - offset):
        offset += len(block)
        end = offset + block_bytes
        if endless:
            _, newline, block = block.partition(b"\n")
            endless = not newline
            if endless:
                continue
            rest += newline
        head, newline, tail = (rest + block).rpartition(b"\n")
        if newline:
            yield head + newline, offset - len(tail)
        rest = tail
        if len(rest) > MAX_LINE_BYTES:
            rest = rest[:MAX_LINE_BYTES] + b"\xff"
            endless = True
    if rest:
        yield rest, offset


@dataclass
class _Apart:
    """Lines that a plain split at commas would get wrong, by line number."""

    quoted: dict[int, list[str]] = field(default_factory=dict)
    spoiled: dict[int, str] = field(default_factory=dict)
    blank: set[int] = field(default_factory=set)

    def __contains__(self, number: int) -> bool:
        return number in self.quoted or number in self.spoiled or number in self.blank


def _block(text: bytes, first_line: int, columns: int, end: Position) -> Block:
    clean, apart = _set_apart(text, first_line, columns)
    table, short = _parse(clean, first_line, columns, apart.quoted)
    spoiled = apart.spoiled | {
        number: "wrong_column_count" for number, line in short if number not in apart and line.strip()
    }
    return Block(table, spoiled, table.num_rows + len(spoiled), end, first_line, text)


def _set_apart(text: bytes, first_line: int, columns: int) -> tuple[bytes, _Apart]:
    """Returns the lines that can be split at commas, a filler in the place of the others, and those."""
    clean, apart = _normalised(text), _Apart()
    if not _has_odd_lines(clean):
        return clean, apart
    lines = clean.split(b"\n")
    quoted: list[int] = []
    for index, line in enumerate(lines):
        if b'"' in line or b"\r" in line:
            quoted.append(index)
        elif not line:
            apart.blank.add(first_line + index)
        elif b"\0" in line or _DAMAGE in line:
            apart.spoiled[first_line + index] = "binary_rubbish"
        else:
            continue
        lines[index] = _FILLER
    if quoted:
        # As they were: the normalisation may have taken quotes of theirs that meant something.
        originals = _decoded(text).decode().replace("\r\n", "\n").split("\n")
        kept = [originals[index] for index in quoted]
        for index, line_text, fields in zip(quoted, kept, _split(kept), strict=True):
            if "\0" in line_text or DAMAGE_MARK in line_text:
                apart.spoiled[first_line + index] = "binary_rubbish"
            elif len(fields) != columns:
                apart.spoiled[first_line + index] = "wrong_column_count"
            else:
                apart.quoted[first_line + index] = fields
    return b"\n".join(lines), apart


def _decoded(text: bytes) -> bytes:
    """Returns text whose bytes are all UTF-8, with a mark where they were not."""
    if text.isascii():
        return text
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode(errors="replace").encode()
    return text


def _normalised(text: bytes) -> bytes:
    """Returns the lines with plain ends and with nothing where a field was an empty pair of quotes.

    A line that holds quotes only as empty fields is one without quotes; every other keeps some.
    """
    text = _decoded(text)
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    text = text.removesuffix(b"\n")
    if b'""' in text:
        # Twice: in `,"","",` the middle comma belongs to both.
        text = text.replace(b',"",', b",,").replace(b',"",', b",,").replace(b',""\n', b",\n")
    return text


def _has_odd_lines(text: bytes) -> bool:
    if not text or text.startswith(b"\n") or text.endswith(b"\n"):
        return True
    marks = (b'"', b"\r", b"\0", b"\n\n")
    return any(mark in text for mark in marks) or (not text.isascii() and _DAMAGE in text)


def _parse(
    text: bytes, first_line: int, columns: int, quoted: dict[int, list[str]]
) -> tuple[pa.Table, list[tuple[int, str]]]:
    # Imported here: half a second that only a load should pay.
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv

    names = [f"c{number}" for number in range(columns)]
    short: list[tuple[int, str]] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        short.append((first_line + row.number - 1, row.text))
        return "skip"

    table = pyarrow.csv.read_csv(
        pa.BufferReader(text),
        # One thread and one block: only then rows have numbers.
        read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
        parse_options=pyarrow.csv.ParseOptions(
            quote_char=False, ignore_empty_lines=False, invalid_row_handler=skip
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in names}),
    )
    numbers = pa.array(range(first_line, first_line + table.num_rows + len(short)), pa.int64())
    if short:
        skipped = pa.array([number for number, _ in short], pa.int64())
        numbers = numbers.filter(pc.invert(pc.is_in(numbers, value_set=skipped)))
    table = table.append_column("line_number", numbers)
    if quoted:
        fields = [pa.array(column, pa.string()) for column in zip(*quoted.values(), strict=True)]
        apart = pa.table([*fields, pa.array(quoted.keys(), pa.int64())], names=[*names, "line_number"])
        table = pa.concat_tables([table, apart]).sort_by("line_number")
    return table.combine_chunks(), short


def _split(lines: list[str]) -> list[list[str]]:
    """Splits lines with quotes; one that is no CSV has no fields, so its column count is wrong."""
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error:
        rows = []
    # As many rows as lines: no quote stayed open beyond its line.
    return rows if len(rows) == len(lines) else [_fields(line) for line in lines]


def _fields(line: str) -> list[str]:
    """Splits one line on its own."""
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration):
        return []
