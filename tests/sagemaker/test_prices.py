from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include.contracts import BadInputError, SettingsError
from include.run_params import run_params
from include.sagemaker.prices import Prices, check_budget, load_prices
from include.settings import Settings

PRICES = Prices.model_validate(
    {"region": "eu-north-1", "date": "2026-01-31", "training": {"ml.x": 3.6}, "hosting": {"ml.y": 0.5}}
)


@pytest.mark.parametrize(
    ("region", "instance", "seconds", "expected"),
    [
        ("eu-north-1", "ml.x", 1000, 1.0),
        ("eu-north-1", "ml.x", 0, 0.0),
        ("eu-north-1", "ml.unknown", 1000, None),
        ("eu-north-1", "ml.y", 1000, None),
        ("us-east-1", "ml.x", 1000, None),
        (None, "ml.x", 1000, None),
    ],
)
def test_billable_seconds_cost_what_the_table_says_or_are_not_known(
    region: str | None, instance: str, seconds: int, expected: float | None
) -> None:
    assert PRICES.of_training(region, instance, seconds) == expected


def test_an_endpoint_is_priced_by_its_own_table() -> None:
    assert PRICES.of_hosting("eu-north-1", "ml.y") == 0.5
    assert PRICES.of_hosting("eu-north-1", "ml.x") is None


def test_the_projects_own_table_knows_the_default_instances() -> None:
    settings, prices = Settings(_env_file=None), load_prices()  # type: ignore[call-arg]
    assert prices.of_training(prices.region, settings.training_instance_type, 60)
    assert prices.of_hosting(prices.region, settings.endpoint_instance_type)


def test_every_priced_training_instance_may_be_asked_for() -> None:
    param = run_params(Settings(_env_file=None))["training_instance_type"]  # type: ignore[call-arg]
    for instance in load_prices().training:
        param.resolve(instance)


BROKEN = {
    "no yaml": "a: [",
    "nothing": "",
    "a price of nothing": "{region: r, date: 2026-01-01, training: {ml.x: 0}, hosting: {}}",
    "no number": "{region: r, date: 2026-01-01, training: {ml.x: cheap}, hosting: {}}",
    "infinite": "{region: r, date: 2026-01-01, training: {ml.x: .inf}, hosting: {}}",
    "no date": "{region: r, training: {}, hosting: {}}",
    "surprise": "{region: r, date: 2026-01-01, training: {}, hosting: {}, spot: {}}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_names_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(BROKEN[name])
    with pytest.raises(SettingsError, match=r"prices\.yaml is not a valid table"):
        load_prices(path)


G5 = {"region": "us-east-1", "instance": "ml.g5.xlarge", "instances": 1, "seconds": 3600}


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        (1.40, {}),
        (2.81, {"instances": 2}),
        (2.81, {"seconds": 7200}),
        (4.22, {"trials": 3}),
    ],
    ids=["hour", "instances", "time", "trials"],
)
def test_what_could_cost_more_is_refused_with_the_arithmetic(limit: float, changes: dict[str, Any]) -> None:
    chosen = {**G5, **changes}
    with pytest.raises(BadInputError, match=r"x ml.g5.xlarge at 1.408 an hour x \d+ minutes") as refusal:
        check_budget(limit, **chosen)
    assert ("3 trials x 1 x ml" in str(refusal.value)) is ("trials" in changes)
    assert check_budget(limit + 0.02, **chosen) is None
    assert check_budget(None, **chosen) is None


@pytest.mark.parametrize("changes", [{"region": "eu-north-1"}, {"instance": "ml.unheard.of"}])
def test_what_has_no_price_is_allowed_with_a_warning(changes: dict[str, Any]) -> None:
    assert "Nobody checks" in str(check_budget(0.01, **{**G5, **changes}))
    assert check_budget(None, **{**G5, **changes}) is None
