from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from include.contracts import BadInputError
from include.local.shop import EVENT_HEADER
from include.warehouse.loading import DAMAGE_MARK, etl_id_of, find_source, read_batches
from tests.shops import event, write_source

GOOD = [event(), event(sku="b")]
CONTENT = "\n".join([EVENT_HEADER, *GOOD, ""]).encode()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("browsing.csv", b"", "empty"),
        ("browsing.csv.gz", gzip.compress(b""), "empty"),
        ("browsing.csv", b"\n\n", "is empty"),
        ("browsing.csv", b"session_id_hash,event_type\na,b\n", "product_action, product_sku_hash"),
        ("browsing.csv", EVENT_HEADER.replace(",", ";").encode() + b"\n", "missing from the header"),
        ("browsing.csv", EVENT_HEADER.replace(",", "\t").encode() + b"\n", "missing from the header"),
        ("browsing.csv", (EVENT_HEADER + ",event_type\n").encode(), "event_type more than once"),
        ("browsing.csv", b"\x7fELF\x02\x01\x00" + bytes(range(256)) * 50, "not a CSV text"),
        ("browsing.csv", b"PK\x03\x04\x14\x00\x00\x00", "not a CSV text"),
        ("browsing.csv", b"a" * (2 << 20), "missing from the header"),
        ("browsing.csv", b"a," * (2 << 19), "not a CSV text"),
        ("browsing.csv.gz", gzip.compress(CONTENT)[:20], "truncated"),
        ("browsing.csv.gz", gzip.compress(CONTENT)[:12] + b"rubbish" * 9, "damaged"),
        ("events.csv", CONTENT, "holds none of browsing.csv"),
    ],
    ids=[
        "empty file", "empty gzip", "blank lines", "missing columns", "semicolons", "tabs", "doubled column",
        "binary", "zip", "endless line", "endless header", "truncated gzip", "rubbish gzip", "wrong name",
    ],
)  # fmt: skip
def test_unusable_files_are_refused_with_a_reason(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    write_source(tmp_path, content, name=name)
    with pytest.raises(BadInputError, match=said) as caught:
        find_source(tmp_path)
    assert len(str(caught.value)) < 700


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a folder"):
        find_source(tmp_path / "nowhere")


def test_two_files_for_one_role_are_ambiguous(tmp_path: Path) -> None:
    write_source(tmp_path, CONTENT)
    write_source(tmp_path, gzip.compress(CONTENT), name="browsing.csv.gz")
    with pytest.raises(BadInputError, match=r"browsing.csv and browsing.csv.gz"):
        find_source(tmp_path)


def test_extra_columns_and_a_byte_order_mark_are_allowed(tmp_path: Path) -> None:
    write_source(tmp_path, b"\xef\xbb\xbf" + EVENT_HEADER.encode() + b",campaign\r\n")
    assert find_source(tmp_path).browsing.columns[-1] == "campaign"


@pytest.mark.parametrize("block", [40, 200, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_lines_keep_their_numbers_whatever_the_block(tmp_path: Path, block: int, packed: bool) -> None:
    lines = [event(session=f"s{number}") for number in range(30)]
    lines[7] = ""
    lines[12] = "   "
    content = "\r\n".join([EVENT_HEADER, *lines]).encode()
    name = "browsing.csv.gz" if packed else "browsing.csv"
    write_source(tmp_path, gzip.compress(content) if packed else content, name=name)
    found = [
        (row["line_number"], row["line"])
        for batch in read_batches(find_source(tmp_path).browsing, block)
        for row in batch.table.to_pylist()
    ]
    assert found == [(n + 2, line) for n, line in enumerate(lines) if line.strip()]


def test_quotes_are_read_per_line_and_an_open_one_spoils_its_own_line_only(tmp_path: Path) -> None:
    write_source(tmp_path, ['a,"b,c",d', 'a,"b', 'a,"b"c', "plain,line"])
    [batch] = read_batches(find_source(tmp_path).browsing)
    assert batch.table["fields"].to_pylist() == [["a", "b,c", "d"], [], [], None]


def test_bytes_that_are_no_text_are_marked(tmp_path: Path) -> None:
    write_source(tmp_path, EVENT_HEADER.encode() + b"\na\xff\nb\x00\nc\n")
    [batch] = read_batches(find_source(tmp_path).browsing)
    assert [DAMAGE_MARK in line for line in batch.table["line"].to_pylist()] == [True, True, False]


def test_an_endless_line_is_cut_off_and_marked_and_the_next_one_is_whole(tmp_path: Path) -> None:
    write_source(tmp_path, EVENT_HEADER.encode() + b"\n" + b"x" * (5 << 20) + b"\n" + event().encode())
    lines = [
        row
        for batch in read_batches(find_source(tmp_path).browsing, 1 << 18)
        for row in batch.table.to_pylist()
    ]
    assert [row["line_number"] for row in lines] == [2, 3]
    assert DAMAGE_MARK in lines[0]["line"] and len(lines[0]["line"]) < 2 << 20
    assert lines[1]["line"] == event()


def test_truncation_far_into_the_file_is_noticed(tmp_path: Path) -> None:
    content = "\n".join([EVENT_HEADER, *(event(session=f"{n * 7919:064x}") for n in range(40_000))]).encode()
    packed = gzip.compress(content)
    write_source(tmp_path, packed[: len(packed) - 20], name="browsing.csv.gz")
    with pytest.raises(BadInputError, match="truncated"):
        list(read_batches(find_source(tmp_path).browsing))


def test_the_load_id_follows_tenant_content_and_limit(tmp_path: Path) -> None:
    one = find_source(write_source(tmp_path / "one", GOOD))
    copy = find_source(write_source(tmp_path / "copy", GOOD))
    other = find_source(write_source(tmp_path / "other", GOOD[:1]))
    with_products = find_source(write_source(tmp_path / "products", GOOD, products=["a,,,,1.0"]))
    assert etl_id_of("t", one, None) == etl_id_of("t", copy, None)
    ids = {
        etl_id_of("t", one, None), etl_id_of("u", one, None), etl_id_of("t", one, 5),
        etl_id_of("t", other, None), etl_id_of("t", with_products, None),
    }  # fmt: skip
    assert len(ids) == 5
