"""The Airflow assets of the pipeline: one per table of the raw log."""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

RAW_EVENTS = Asset("raw_shopping_events")
RAW_PRODUCTS = Asset("raw_products")
RAW_SEARCHES = Asset("raw_searches")
LANDED = AssetAlias("landed_tables")
"""What a load declares: which of the tables get an event is known only once their rows are counted."""

ON_LOAD = "on_load"


def schedule_of(setting: str | None) -> str | list[Asset] | None:
    """Returns the schedule that a setting stands for: `on_load` follows the raw events, others a clock."""
    return [RAW_EVENTS] if setting == ON_LOAD else setting
