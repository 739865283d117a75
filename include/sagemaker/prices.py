"""What instances cost at list price: billable seconds times the table in `prices.yaml`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from include.contracts import BadInputError, Contract, SettingsError, TrainedModel

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


def check_budget(
    max_cost: float | None,
    *,
    region: str | None,
    instance: str,
    instances: int,
    seconds: int,
    trials: int = 0,
) -> str | None:
    """Refuses a training whose longest run costs more than is allowed.

    Args:
        max_cost: US dollars; None for no limit.
        region: Region of the job.
        instance: Type of its instances.
        instances: Number of them.
        seconds: What SageMaker gives the job, or each trial, before it stops it.
        trials: Trainings of a search; 0 for a single training.

    Returns:
        Why the limit cannot be checked; None where it was, or where there is none.

    Raises:
        BadInputError: It could cost more.
    """
    if max_cost is None:
        return None
    prices = load_prices()
    hour = prices.of_training(region, instance, 3600)
    if hour is None:
        return (
            f"Nobody checks the limit of {max_cost:g} US dollars: prices.yaml has no price of {instance} in "
            f"{region}. Put it in, with the region's others."
        )
    most = hour * seconds / 3600 * instances * max(trials, 1)
    if most <= max_cost:
        return None
    each = f"{trials} trials x " if trials else ""
    raise BadInputError(
        f"This training could cost {most:.2f} US dollars, and {max_cost:g} are allowed: {each}{instances} x "
        f"{instance} at {hour:g} an hour x {seconds / 60:g} minutes. Lower 'Training minutes at most'"
        f"{', the tuning trials' if trials else ''} or the instances, or raise 'US dollars at most'. (Where "
        "the same training was done before its job is used again and nothing is billed: then raise it.)"
    )


def cost_sentence(trained: TrainedModel) -> str:
    """Returns what a model's training took, cost and saved."""
    cost = (
        "no price known" if trained.cost_usd is None else f"{trained.cost_usd:.2f} US dollars at list price"
    )
    saved = "" if trained.spot_saving is None else f"; spare capacity saved {trained.spot_saving:.0%}"
    return f"The training is billed {trained.billable_seconds} instance-seconds: {cost}{saved}."
