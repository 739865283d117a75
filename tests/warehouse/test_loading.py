from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from include.contracts import BadInputError
from include.local.shop import EVENT_HEADER
from include.warehouse.loading import etl_id_of, find_source
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
    assert find_source(tmp_path).browsing.extra_columns == ("campaign",)


def test_a_folder_may_hold_catalogue_and_searches_too(tmp_path: Path) -> None:
    write_source(tmp_path, GOOD, products=["a,,,,1.0"], searches=["s,,,,1"])
    (tmp_path / "notes.txt").write_text("of no interest")
    assert [file.name for file in find_source(tmp_path).files] == [
        "browsing.csv", "sku_to_content.csv", "search.csv",
    ]  # fmt: skip


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
