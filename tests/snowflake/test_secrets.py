"""Key and passphrase reach Snowflake and nothing else; each session says which task it works for."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector
from airflow.sdk import DAG, Connection

from include.contracts import SettingsError
from include.operators.connections import warehouse_info
from include.settings import get_settings
from include.transform import _profile
from include.warehouse.base import WarehouseUnavailableError
from include.warehouse.connect import open_warehouse
from include.warehouse.dialect import Statement
from tests.shops import SCHEMA
from tests.snowflake.conftest import Account, context
from tests.snowflake.server import new_key, pem

PASSPHRASE = "canary-passphrase-7f3a"
KEY = new_key()
ENCRYPTED = pem(KEY, PASSPHRASE)
TAG = {"dag": "post_modern_stack", "run": "manual__1", "task": "transform.stg_products.build"}


def canaries() -> list[str]:
    """Texts that may stand nowhere: the passphrase, and lines of the key in each of its forms."""
    found = [PASSPHRASE, base64.b64encode(ENCRYPTED.encode()).decode()[40:100]]
    for text in (pem(KEY), ENCRYPTED):
        found += text.splitlines()[3:6]
    return found


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every login, which really happens."""
    seen: list[dict[str, Any]] = []
    connect = snowflake.connector.connect

    def record(**arguments: Any) -> Any:
        seen.append(deepcopy(arguments))  # the driver adds to them
        return connect(**arguments)

    monkeypatch.setattr(snowflake.connector, "connect", record)
    return seen


def with_key(account: Account, password: str = "", **extra: str) -> Account:
    """Changes how the account's connection holds its key."""
    stored = json.loads(account.environment["AIRFLOW_CONN_WAREHOUSE_DEFAULT"])
    del stored["extra"]["private_key_content"]
    stored["extra"] |= extra
    account.environment["AIRFLOW_CONN_WAREHOUSE_DEFAULT"] = json.dumps(stored | {"password": password})
    return account


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("where", "text", "passphrase"),
    [
        ("private_key_content", pem(KEY), ""),
        ("private_key_content", in_base64(pem(KEY)), ""),
        ("private_key_content", ENCRYPTED, PASSPHRASE),
        ("private_key_content", in_base64(ENCRYPTED), PASSPHRASE),
        ("private_key_file", pem(KEY), ""),
        ("private_key_file", ENCRYPTED, PASSPHRASE),
    ],
    ids=["text", "base64", "encrypted text", "encrypted base64", "file", "encrypted file"],
)
def test_every_kind_of_key_pair_logs_in_and_makes_a_profile(
    where: str, text: str, passphrase: str, account: Callable[[str], Account], tmp_path: Path
) -> None:
    from dbt.adapters.snowflake.auth import private_key_from_file, private_key_from_string

    if where == "private_key_file":
        (tmp_path / "key.p8").write_text(text)
        text = str(tmp_path / "key.p8")
    chosen = with_key(account("KEYS"), passphrase, **{where: text})
    with chosen.chosen():
        info = warehouse_info(Connection.get("warehouse_default"), context("d", "t"))
        with open_warehouse(info, SCHEMA) as warehouse:
            assert warehouse.execute(Statement("select 1")) == [(1,)]
        mapping = _profile(get_settings()).profile_mapping
        assert mapping is not None
        profile, secrets = mapping.profile, dict(mapping.env_vars)
    hidden = secrets.get("DBT_ENV_SECRET_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE")
    if where == "private_key_file":
        key = private_key_from_file(profile["private_key_path"], hidden)
    else:
        key = private_key_from_string(secrets["DBT_ENV_SECRET_SNOWFLAKE_PRIVATE_KEY"], hidden)
    assert key.private_numbers() == KEY.private_numbers()  # type: ignore[union-attr]
    assert not [canary for canary in canaries() if canary in json.dumps(profile) + repr(info)]


def test_a_dbt_task_leaves_no_secret_and_is_tagged(
    account: Callable[[str], Account],
    connects: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cosmos.constants import InvocationMode
    from cosmos.operators.local import DbtRunLocalOperator
    from dbt.adapters.factory import reset_adapters

    chosen = with_key(account("TASK"), PASSPHRASE, private_key_content=in_base64(ENCRYPTED))
    with (
        chosen.chosen(),
        open_warehouse(
            warehouse_info(Connection.get("warehouse_default"), context("d", "t")), SCHEMA
        ) as warehouse,
    ):
        warehouse.create_raw_tables()
    connects.clear()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # profiles and Cosmos' copies of the project
    left: dict[str, bytes] = {}

    def keep_files(*_: Any, **__: Any) -> None:
        left.update({str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()})

    with chosen.chosen(), caplog.at_level(logging.DEBUG):
        task = DbtRunLocalOperator(
            task_id="run",
            project_dir=str(chosen.project),
            profile_config=_profile(get_settings()),
            select=["stg_products"],
            invocation_mode=InvocationMode.DBT_RUNNER,
            install_deps=False,
            dbt_cmd_global_flags=["--debug"],
            callback=keep_files,
            dag=DAG(TAG["dag"]),
        )
        try:
            task.execute(context(TAG["dag"], TAG["task"], TAG["run"]))
        finally:
            reset_adapters()
        with _profile(get_settings()).ensure_profile() as (profile, _):
            written = profile.read_bytes()  # Cosmos keeps it between tasks, wherever its cache is
    assert connects and connects[0]["private_key"]
    assert {json.dumps(TAG)} == {login["session_parameters"]["QUERY_TAG"] for login in connects}

    keep_files()
    assert b"DBT_ENV_SECRET_SNOWFLAKE_PRIVATE_KEY" in written
    assert any(path.endswith(".log") for path in left), "dbt's own log was looked at"
    printed = "".join(capfd.readouterr())
    rendered = repr([getattr(task, name) for name in task.template_fields])
    for canary in canaries():
        assert canary.encode() not in written
        assert [path for path, content in left.items() if canary.encode() in content] == []
        assert canary not in caplog.text + printed + rendered


def test_our_sessions_are_tagged_and_in_utc(
    account: Callable[[str], Account],
    connects: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PMS_SNOWFLAKE_WAREHOUSE", "other_wh")
    monkeypatch.setenv("PMS_SNOWFLAKE_ROLE", "other_role")
    chosen = with_key(account("TAGS"), PASSPHRASE, private_key_content=in_base64(ENCRYPTED))
    with chosen.chosen(), caplog.at_level(logging.DEBUG):
        info = warehouse_info(Connection.get("warehouse_default"), context(TAG["dag"], TAG["task"]))
        with open_warehouse(info, SCHEMA) as warehouse:
            warehouse.execute(Statement("select 1"))
        profile = _profile(get_settings()).profile_mapping
        assert profile is not None
        assert (profile.profile["warehouse"], profile.profile["role"]) == ("other_wh", "other_role")
    [login] = connects
    assert (login["warehouse"], login["role"]) == ("other_wh", "other_role")
    assert json.loads(login["session_parameters"].pop("QUERY_TAG")) == TAG
    assert login["session_parameters"] == {"TIMEZONE": "UTC", "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ"}
    said = caplog.text + "".join(capfd.readouterr()) + repr(info)
    assert not [canary for canary in canaries() if canary in said]


@pytest.mark.parametrize(
    ("password", "extra", "said"),
    [
        ("canary-password", {}, "has a password.*openssl"),
        ("", {}, "has no private key.*openssl"),
        ("", {"private_key_content": pem(KEY), "private_key_file": "/key.p8"}, "remove one"),
        ("wrong", {"private_key_content": in_base64(ENCRYPTED)}, "cannot be read"),
        ("", {"private_key_content": in_base64(ENCRYPTED)}, "cannot be read"),
        ("", {"private_key_content": "canary-no-key"}, "cannot be read"),
        ("", {"private_key_file": "/nowhere/key.p8"}, "cannot be read"),
    ],
    ids=["password", "nothing", "two keys", "wrong passphrase", "no passphrase", "no key", "no file"],
)
def test_a_connection_without_a_usable_key_pair_says_how_to_mend_it(
    password: str, extra: dict[str, str], said: str, account: Callable[[str], Account]
) -> None:
    with with_key(account("WRONG"), password, **extra).chosen():
        info = warehouse_info(Connection.get("warehouse_default"), context("d", "t"))
        with pytest.raises(SettingsError, match=said) as raised:
            open_warehouse(info, SCHEMA)
    assert not [
        text for text in [*canaries(), "canary-no-key", "canary-password"] if text in str(raised.value)
    ]


def test_a_password_makes_no_dbt_profile_either(account: Callable[[str], Account]) -> None:
    with with_key(account("NOKEY"), "canary-password").chosen():
        mapping = _profile(get_settings()).profile_mapping
        assert mapping is not None
        with pytest.raises(SettingsError, match="openssl"):
            _ = mapping.profile


@pytest.mark.parametrize(
    ("refusal", "raised"),
    [
        (snowflake.connector.errors.OperationalError("250001: gone"), WarehouseUnavailableError),
        (snowflake.connector.errors.DatabaseError("250001: JWT token is invalid."), SettingsError),
    ],
    ids=["unreachable", "refused"],
)
def test_a_snowflake_that_is_gone_is_worth_a_retry_and_a_refused_login_is_not(
    refusal: Exception,
    raised: type[Exception],
    account: Callable[[str], Account],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**_: Any) -> None:
        raise refusal

    monkeypatch.setattr(snowflake.connector, "connect", refuse)
    with account("REFUSED").chosen():
        info = warehouse_info(Connection.get("warehouse_default"), context("d", "t"))
        with pytest.raises(raised, match="250001"):
            open_warehouse(info, SCHEMA)
