"""The kinds of file that a load may bring: names, columns, and the rules that a row must keep.

A rule is one branch of a `case`; a row's first broken rule is its reason. Rows are judged where they are
parsed, by DuckDB, whichever the warehouse, so that there is one set of rules and one SQL for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MAX_KEY_CHARS = 512
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_MOMENT = "server_timestamp_epoch_ms"
_EPOCH_MS = "try_cast({server_timestamp_epoch_ms} as bigint)"
_EVENT_DATE = f"cast(epoch_ms({_EPOCH_MS}) as date)"

Rules = Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: Key of the kind in a source.
        file_names: A source holds one of these, or none of them.
        required: Columns that the header must name; more are kept and reported.
        table: Table of the raw log.
        derived: Columns of that table beside the log's own and `raw_data`, as expressions over
            `{column}` placeholders.
        rules: Makes the rules (reason to condition that breaks it) for a load's moment.
    """

    name: str
    file_names: tuple[str, ...]
    required: tuple[str, ...]
    table: str
    derived: Mapping[str, str]
    rules: Callable[[datetime], Rules]

    @property
    def has_dates(self) -> bool:
        """Whether the rows belong to days."""
        return "event_date" in self.derived


def _csv(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}.csv{packed}" for stem in stems for packed in ("", ".gz"))


def _key_rules(column: str, key: str) -> Rules:
    return {
        # Blank text sorts before the first visible character: trimming every key would cost more than
        # all other rules together.
        f"missing_{key}": f"{{{column}}} < '!' and trim({{{column}}}) = ''",
        f"{key}_too_long": f"length({{{column}}}) > {MAX_KEY_CHARS}",
    }


def _moment_rules(now: datetime) -> Rules:
    earliest = int(_EARLIEST.timestamp() * 1000)
    latest = int((now + timedelta(days=1)).timestamp() * 1000)
    return {
        # A cast alone would take " 5", "5.5" and "5e3".
        "timestamp_not_integer": f"not regexp_full_match({{{_MOMENT}}}, '[0-9]{{{{1,18}}}}')",
        "timestamp_in_seconds": f"{_EPOCH_MS} between {earliest // 1000} and {latest // 1000}",
        "timestamp_before_2000": f"{_EPOCH_MS} < {earliest}",
        "timestamp_in_future": f"{_EPOCH_MS} > {latest}",
    }


def _event_rules(now: datetime) -> Rules:
    sku = _key_rules("product_sku_hash", "sku")
    return {
        **_moment_rules(now),
        **_key_rules("session_id_hash", "session_id"),
        "unknown_event_type": "{event_type} not in ('event_product', 'pageview')",
        "bad_product_action": "{product_action} not in ('detail', 'add', 'remove', 'purchase', '')",
        **sku,
        "missing_sku": "{event_type} = 'event_product' and " + sku["missing_sku"],
    }


EVENTS = Kind(
    name="events",
    file_names=_csv("browsing", "browsing_train"),
    required=(
        "session_id_hash",
        "event_type",
        "product_action",
        "product_sku_hash",
        _MOMENT,
        "hashed_url",
    ),
    table="shopping_events",
    derived={"event_type": "{event_type}", "event_date": _EVENT_DATE},
    rules=_event_rules,
)
PRODUCTS = Kind(
    name="products",
    file_names=_csv("sku_to_content"),
    required=("product_sku_hash", "description_vector", "category_hash", "image_vector", "price_bucket"),
    table="products",
    derived={"product_sku": "{product_sku_hash}"},
    rules=lambda now: _key_rules("product_sku_hash", "sku"),
)
SEARCHES = Kind(
    name="searches",
    file_names=_csv("search", "search_train"),
    required=("session_id_hash", "query_vector", "clicked_skus_hash", "product_skus_hash", _MOMENT),
    table="searches",
    derived={"event_date": _EVENT_DATE},
    rules=lambda now: {**_moment_rules(now), **_key_rules("session_id_hash", "session_id")},
)
KINDS: Sequence[Kind] = (EVENTS, PRODUCTS, SEARCHES)
"""In the order in which a load reads them; only the events must be there."""
