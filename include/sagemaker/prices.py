"""What instances cost at list price: billable seconds times the table in `prices.yaml`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from include.contracts import Contract, SettingsError

PRICES_FILE = Path(__file__).with_name("prices.yaml")
HOURS_A_MONTH = 730
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Prices(Contract):
    """The table: US dollars per instance and hour.

    Attributes:
        date: When the prices were collected.
        training: Price of a training job's instance, by its type.
        hosting: Price of an instance behind an endpoint, by its type.
    """

    region: str
    date: date
    training: dict[str, Price]
    hosting: dict[str, Price]

    def of_training(self, region: str | None, instance: str, seconds: float) -> float | None:
        """Returns the cost of billable seconds; None where the instance or the region has no price."""
        price = self._find(self.training, region, instance)
        return None if price is None else price * seconds / 3600

    def of_hosting(self, region: str | None, instance: str) -> float | None:
        """Returns the cost of an hour of one instance; None where it or the region has no price."""
        return self._find(self.hosting, region, instance)

    def _find(self, table: dict[str, Price], region: str | None, instance: str) -> float | None:
        return table.get(instance) if region == self.region else None


def load_prices(path: Path = PRICES_FILE) -> Prices:
    """Reads the table.

    Raises:
        SettingsError: The file is not valid YAML or no table of prices.
    """
    try:
        return Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{path.name} is not a valid table of prices: {error}") from error
