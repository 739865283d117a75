"""How the pipeline logs in to Snowflake: with a key pair, and under a tag that names its work."""

from __future__ import annotations

from typing import Any

from include.contracts import SettingsError
from include.warehouse.base import ConnectionInfo, WarehouseUnavailableError

HOW_TO_KEY_PAIR = (
    "Make a key pair (`openssl genrsa 2048 | openssl pkcs8 -topk8 -v2 aes256 -out key.p8`), give its public "
    "half to the user (`alter user … set rsa_public_key = '…'`, see include/cloud/snowflake_setup.sql), and "
    "put the private half, in base64, in the connection's extra as private_key_content (or its path as "
    "private_key_file) and the passphrase in the connection's password."
)


def require_key_pair(connection: Any) -> None:
    """Refuses an Airflow connection without exactly one private key.

    Args:
        connection: The Airflow `Connection`.

    Raises:
        SettingsError: There is none, or there are two. The message holds nothing of the connection but
            its id.
    """
    extra = connection.extra_dejson or {}
    keys = [name for name in ("private_key_content", "private_key_file") if extra.get(name)]
    if len(keys) == 2:
        raise SettingsError(
            f"Connection {connection.conn_id!r} has private_key_content and private_key_file: remove one."
        )
    if not keys:
        has = "a password" if connection.password else "no private key"
        raise SettingsError(
            f"Connection {connection.conn_id!r} has {has}, and Snowflake lets services in with a key pair "
            f"only. {HOW_TO_KEY_PAIR}"
        )


def open_session(connection: ConnectionInfo) -> Any:
    """Opens a session of the Snowflake driver through the provider's hook.

    Raises:
        SettingsError: The connection has no usable key, or Snowflake refuses the login.
        WarehouseUnavailableError: Snowflake cannot be reached.
    """
    # Seconds of import, paid only where there is a Snowflake.
    from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
    from snowflake.connector.errors import DatabaseError, OperationalError

    hook = SnowflakeHook(
        snowflake_conn_id=connection.conn_id,
        warehouse=connection.extra.get("warehouse"),
        role=connection.extra.get("role"),
    )
    stored = hook.get_connection(connection.conn_id)
    require_key_pair(stored)
    hook.session_parameters = {
        **(stored.extra_dejson.get("session_parameters") or {}),
        # Set with the login, so that there is no statement without the tag. Times are UTC without a zone,
        # whatever the account's default: parquet cannot hold the other types of timestamp.
        "QUERY_TAG": connection.query_tag,
        "TIMEZONE": "UTC",
        "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
    }
    try:
        return hook.get_conn()
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"The private key of connection {connection.conn_id!r} cannot be read: {error}. {HOW_TO_KEY_PAIR}"
        ) from None
    except OperationalError as error:
        raise WarehouseUnavailableError(f"Snowflake cannot be reached: {error}") from error
    except DatabaseError as error:
        raise SettingsError(
            f"Snowflake refuses the login of connection {connection.conn_id!r}: {error} Check its account "
            "and login, and that the user has the public half of the key."
        ) from error
