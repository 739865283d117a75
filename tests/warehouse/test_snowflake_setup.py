"""The account's set-up script, statement by statement: it cannot run anywhere but on Snowflake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlfluff
import sqlglot

SCRIPT = Path(__file__).resolve().parents[2] / "include" / "cloud" / "snowflake_setup.sql"
STATEMENTS = [text.strip() for text in re.sub(r"--.*", "", SCRIPT.read_text()).split(";") if text.strip()]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda text: re.sub(r"\W+", " ", text)[:60])
def test_it_parses_as_snowflake(statement: str) -> None:
    # sqlglot takes what it does not know for an opaque command; sqlfluff knows grants, users and schemas.
    assert sqlglot.parse_one(statement, read="snowflake") is not None
    sqlfluff.parse(statement + ";\n", dialect="snowflake")


def test_every_variable_is_set_and_used() -> None:
    text = "\n".join(STATEMENTS)
    names = re.findall(r"^set (\w+) =", text, flags=re.MULTILINE)
    assert len(names) == len(set(names)) == 10
    assert set(re.findall(r"\$(\w+)", text)) == set(names)


def grants(role: str) -> str:
    return "\n".join(
        re.sub(r"\s+", " ", text) for text in STATEMENTS if f"to role identifier(${role})" in text
    )


def test_each_role_may_do_its_verb_and_no_more() -> None:
    loader, transformer, exporter = (grants(f"{verb}_role") for verb in ("loader", "transformer", "exporter"))
    assert "$mart_schema" not in loader
    assert "select on future tables in schema identifier($raw_schema)" in transformer
    assert not re.search(r"(insert|update|delete|create)[^\n]*\$raw_schema", transformer)
    assert not re.search(r"insert|update|delete|create|\$raw_schema", exporter)
    assert "integration" in exporter and "integration" not in loader + transformer


def test_nothing_gets_the_administrator_and_the_user_has_no_password() -> None:
    text = "\n".join(STATEMENTS).lower()
    assert re.findall(r".*accountadmin.*", text) == ["use role accountadmin"]
    assert "ownership" not in text and "all privileges" not in text
    assert "password" not in text and "type = service" in text
    assert "to user identifier($service_user)" in text
