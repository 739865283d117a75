"""dbt's Snowflake profile, made of the Airflow connection when a task starts."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import airflow  # noqa: F401  # Cosmos imports Airflow in a circle unless Airflow came first
from cosmos.profiles import SnowflakeEncryptedPrivateKeyPemProfileMapping

from include.warehouse.snowflake_login import require_key_pair

# Airflow and Cosmos put these into every task's environment; dbt renders the profile.
QUERY_TAG = (
    "{{ tojson({'dag': env_var('AIRFLOW_CTX_DAG_ID', ''), 'run': env_var('AIRFLOW_CTX_DAG_RUN_ID', ''), "
    "'task': env_var('AIRFLOW_CTX_TASK_ID', '')}) }}"
)


class KeyPairProfileMapping(SnowflakeEncryptedPrivateKeyPemProfileMapping):
    """Every kind of key pair that the provider takes: as text, in base64 or in a file, encrypted or not.

    Cosmos has a class for each, to be chosen when the DAG is parsed; only the connection knows, and it is
    read when a task starts. Key and passphrase go to dbt in the environment of the task's process, under
    names that dbt keeps out of its own logs.
    """

    required_fields = ["account", "user", "database", "warehouse", "schema"]
    airflow_param_mapping = {
        **SnowflakeEncryptedPrivateKeyPemProfileMapping.airflow_param_mapping,
        "private_key_path": "extra.private_key_file",
    }

    @property
    def secret_fields(self) -> list[str]:
        """Those of key and passphrase that the connection has."""
        return [name for name in ("private_key", "private_key_passphrase") if self.get_dbt_value(name)]

    @property
    def profile(self) -> dict[str, Any]:
        """The profile, in which the name of a variable stands for each secret.

        Raises:
            SettingsError: The connection has no key pair.
        """
        require_key_pair(self.conn)
        secrets = {name: self.get_env_var_format(name) for name in self.secret_fields}
        return self.filter_null(
            {**self.mapped_params, **self.profile_defaults, **self.profile_args, **secrets}
        )

    @classmethod
    def get_env_var_name(cls, field_name: str) -> str:
        """A name by which dbt knows a secret, and hides its value from every log line."""
        return f"DBT_ENV_SECRET_SNOWFLAKE_{field_name.upper()}"

    def _decode_private_key_content(self, private_key_content: str) -> str:
        # The provider takes both; the parent's lenient decoder can take a PEM for base64.
        if private_key_content.lstrip().startswith("-----BEGIN"):
            return private_key_content
        try:
            return base64.b64decode(private_key_content, validate=False).decode()
        except (UnicodeDecodeError, binascii.Error):
            return private_key_content
