from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from include.dbt_artifacts import XCOM_KEY
from include.warehouse.dialect import Statement
from tests.shops import open_file, transformed_shop
from tests.transforms import RUN, run_task

MODEL = "transform.int_shopping_events_deduplicated_model_build"


@pytest.fixture
def shop(aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A transformed shop behind the warehouse connection; returns its file."""
    path = transformed_shop(tmp_path)
    connection = {"conn_type": "duckdb", "host": str(path)}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(connection))
    return path


def read(aws: Any, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    content: bytes = aws.get_object(Bucket=bucket, Key=key)["Body"].read()
    return content


def test_each_try_of_a_model_leaves_its_results_apart(shop: Path, aws: Any) -> None:
    uris = [run_task(MODEL, attempt)[XCOM_KEY]["run_results_uri"] for attempt in (1, 2)]
    assert uris == [
        f"s3://post-modern-stack/shop/dbt/{RUN}/{MODEL}/{attempt}/run_results.json" for attempt in (1, 2)
    ]
    results = json.loads(read(aws, uris[0]))["results"]
    kinds = {result["unique_id"].partition(".")[0]: result["status"] for result in results}
    assert kinds == {"model": "success", "test": "pass"}, "unit tests belong to the tests"


def test_failed_data_test_is_named_kept_and_not_retried(shop: Path, aws: Any) -> None:
    with open_file(shop) as warehouse:
        warehouse.execute(Statement("update shop.int_shopping_events_deduplicated set session_id = null"))
    with pytest.raises(
        AirflowFailException, match=r"not_null_int_shopping_events_deduplicated_session_id: Got \d+ result"
    ):
        run_task(MODEL)
    key = f"shop/dbt/{RUN}/{MODEL}/1/run_results.json"
    results = json.loads(read(aws, f"s3://post-modern-stack/{key}"))["results"]
    assert "fail" in {result["status"] for result in results}


def test_documentation_is_one_page_with_models_and_column_types(shop: Path, aws: Any) -> None:
    left = run_task("transform.generate_docs")[XCOM_KEY]
    page = read(aws, left["docs_uri"]).decode()
    assert "JSON INLINE DATA" not in page
    for text in ("model.post_modern_stack.sessions", '"type": "VARCHAR[]"', "is_bot"):
        assert text in page
    assert json.loads(read(aws, left["manifest_uri"]))["metadata"]["project_name"] == "post_modern_stack"
    assert left["run_results_uri"] is None, "docs compile, they test nothing"
