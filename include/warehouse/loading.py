"""Finds source files, names their content, and reads them line by line in bounded memory.

A row is a line: a quote that is never closed spoils its own line and no other.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from include.contracts import BadInputError

if TYPE_CHECKING:
    import pyarrow as pa

BROWSING_NAMES = ("browsing.csv", "browsing.csv.gz", "browsing_train.csv", "browsing_train.csv.gz")
CATALOGUE_NAMES = ("sku_to_content.csv", "sku_to_content.csv.gz")
EVENT_COLUMNS = (
    "session_id_hash",
    "event_type",
    "product_action",
    "product_sku_hash",
    "server_timestamp_epoch_ms",
    "hashed_url",
)
PRODUCT_COLUMNS = (
    "product_sku_hash",
    "description_vector",
    "category_hash",
    "image_vector",
    "price_bucket",
)
DAMAGE_MARK = "\ufffd"
"""Stands where a byte was no UTF-8, or NUL; a line that holds it is rejected."""

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 16 << 20
_MAX_LINE_BYTES = 1 << 20
_MAX_COLUMNS = 200
csv.field_size_limit(_MAX_LINE_BYTES)


@dataclass(frozen=True)
class SourceFile:
    """One CSV file whose header has been checked.

    Attributes:
        columns: Names in the file's own order; more than the required ones are allowed.
        sha256: Hex digest of the bytes as they are stored.
    """

    path: Path
    columns: tuple[str, ...]
    sha256: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name


@dataclass(frozen=True)
class SourceFiles:
    """What a load reads: the browsing events and, if there is one, the catalogue."""

    name: str
    browsing: SourceFile
    catalogue: SourceFile | None = None


@dataclass
class LineBatch:
    """Some lines of a file as an Arrow table.

    Attributes:
        table: Columns `line_number` int64 (the header is line 1), `line` string, `fields` list<string>.
    """

    table: pa.Table = field(repr=False)

    @property
    def rows(self) -> int:
        """Number of lines."""
        return cast(int, self.table.num_rows)


def etl_id_of(tenant: str, source: SourceFiles, max_sessions: int | None) -> str:
    """Returns the load's id, a function of tenant, content and limit.

    The limit belongs to it: a first try with a thousand sessions must not pass for the whole file.
    """
    files = {"browsing": source.browsing.sha256, "catalogue": source.catalogue and source.catalogue.sha256}
    identity = json.dumps({"tenant": tenant, "files": files, "max_sessions": max_sessions}, sort_keys=True)
    return "etl-" + hashlib.sha256(identity.encode()).hexdigest()[:16]


def find_source(source: str | Path) -> SourceFiles:
    """Finds the files of a source folder, checks their headers and hashes their content.

    Args:
        source: Folder with one of `BROWSING_NAMES` and at most one of `CATALOGUE_NAMES`.

    Raises:
        BadInputError: The folder or a file is missing, ambiguous, empty, damaged, or not the CSV asked for.
    """
    if str(source).startswith("s3://"):
        raise BadInputError(f"{source}: events are read from a local folder; copy the files there first.")
    folder = Path(source)
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a folder. Name the folder that holds browsing.csv[.gz].")
    browsing = _find_one(folder, BROWSING_NAMES)
    if browsing is None:
        raise BadInputError(f"{folder} holds none of {', '.join(BROWSING_NAMES)}.")
    catalogue = _find_one(folder, CATALOGUE_NAMES)
    return SourceFiles(
        name=str(source),
        browsing=_check(browsing, EVENT_COLUMNS),
        catalogue=None if catalogue is None else _check(catalogue, PRODUCT_COLUMNS),
    )


def _find_one(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise BadInputError(
            f"{folder} holds {' and '.join(path.name for path in found)}: keep the one that is meant."
        )
    return found[0] if found else None


def _check(path: Path, required: tuple[str, ...]) -> SourceFile:
    columns = read_header(path)
    missing = [name for name in required if name not in columns]
    if missing:
        raise BadInputError(
            f"{path.name}: column{'s' * (len(missing) > 1)} {', '.join(missing)} missing from the header "
            f"({_shortened(','.join(columns))}). Wanted are {','.join(required)}; more are allowed."
        )
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise BadInputError(f"{path.name}: the header names {_shortened(', '.join(doubled))} more than once.")
    with path.open("rb") as file:
        return SourceFile(path, columns, hashlib.file_digest(file, "sha256").hexdigest())


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def read_header(path: Path) -> tuple[str, ...]:
    """Returns the column names of a CSV file, gzipped or not.

    Raises:
        BadInputError: The file is empty, damaged, or not a comma-separated text.
    """
    with open_lines(path) as file:
        head = _guarded_read(path, file, _MAX_LINE_BYTES)
    if not head.strip():
        raise BadInputError(f"{path.name} is empty.")
    line, _, _ = head.partition(b"\n")
    try:
        text = line.decode("utf-8-sig").rstrip("\r")
        columns = tuple(name.strip() for name in next(csv.reader([text], strict=True)))
    except (UnicodeDecodeError, csv.Error, StopIteration) as error:
        raise BadInputError(f"{path.name} is not a CSV text: its first line cannot be read.") from error
    if not text.replace("\t", " ").isprintable() or len(columns) > _MAX_COLUMNS:
        raise BadInputError(f"{path.name} is not a CSV text: its first line is binary or has no end.")
    return columns


def open_lines(path: Path) -> IO[bytes]:
    """Opens a file for reading bytes; what it holds, not its name, decides whether it is gzip."""
    with path.open("rb") as probe:
        packed = probe.read(2) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def _guarded_read(path: Path, file: IO[bytes], size: int) -> bytes:
    try:
        return file.read(size)
    except EOFError as error:
        raise BadInputError(
            f"{path.name} is truncated: the gzip stream ends early. Nothing was landed; fetch the file again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadInputError(f"{path.name} is damaged: {error}. Nothing was landed.") from error


def read_batches(file: SourceFile, block_bytes: int = _BLOCK_BYTES) -> Iterator[LineBatch]:
    """Reads the lines after the header, a block at a time.

    Lines without a quote are left for the warehouse to split at commas; `fields` is then null.

    Args:
        file: The checked file.
        block_bytes: Bytes of text per batch, which bounds the memory.

    Yields:
        Batches in file order; empty lines are skipped and still counted by the line numbers.

    Raises:
        BadInputError: The gzip stream is truncated or damaged.
    """
    number = 1  # the header
    with open_lines(file.path) as stream:
        for block in _whole_lines(file.path, stream, block_bytes):
            text = block.decode("utf-8", errors="replace").replace("\x00", DAMAGE_MARK)
            text = text.replace("\r\n", "\n").removesuffix("\n")
            if number == 1:
                _, more, text = text.partition("\n")
                number = 2
                if not more:
                    continue
            batch = _batch(text, number)
            number += text.count("\n") + 1
            if batch.rows:
                yield batch


def _whole_lines(path: Path, stream: IO[bytes], block_bytes: int) -> Iterator[bytes]:
    """Cuts a stream behind line ends; a line without end is cut off, and marked, at a megabyte."""
    rest = b""
    endless = False
    while block := _guarded_read(path, stream, block_bytes):
        if endless:
            _, newline, block = block.partition(b"\n")
            endless = not newline
            if endless:
                continue
            rest += newline
        head, newline, tail = (rest + block).rpartition(b"\n")
        if newline:
            yield head + newline
        rest = tail
        if len(rest) > _MAX_LINE_BYTES:
            rest = rest[:_MAX_LINE_BYTES] + b"\xff"
            endless = True
    if rest:
        yield rest


def _batch(text: str, first_number: int) -> LineBatch:
    # Imported here: half a second that only a load should pay.
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow cuts the text in C++; Python touches only the rare lines that hold a quote.
    lines = pc.split_pattern(pa.array([text], pa.string()), "\n").flatten()
    numbers = pa.array(range(first_number, first_number + len(lines)), pa.int64())
    table = pa.table({"line_number": numbers, "line": lines})
    table = table.filter(pc.not_equal(pc.utf8_trim_whitespace(table["line"]), ""))
    fields_type = pa.list_(pa.string())
    if '"' in text:
        kept = table["line"].to_pylist()
        fields = pa.array([_fields(line) if '"' in line else None for line in kept], fields_type)
    else:
        fields = pa.nulls(table.num_rows, fields_type)
    return LineBatch(table.append_column("fields", fields))


def _fields(line: str) -> list[str]:
    """Splits a line with quotes; one that is no CSV has no fields, so its column count is wrong."""
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration):
        return []
