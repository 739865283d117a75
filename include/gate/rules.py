"""The language of `rules.yaml`, where its fields are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from include.contracts import Contract, SettingsError

RULES_FILE = Path(__file__).with_name("rules.yaml")

Measure = Literal["value", "interval_low", "interval_high", "difference", "difference_low", "difference_high"]


class Reference(Contract):
    """What a rule's bound is multiplied by: a baseline of the same check, another check, the live model."""

    baseline: str | None = None
    check: str | None = None
    champion: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Reference:
        if [self.baseline, self.check, self.champion].count(None) != 2:
            raise ValueError("times needs one of baseline, check and champion")
        return self


class Saturation(Contract):
    """A baseline that finds nearly everything, so that a lead over it cannot be measured."""

    check: str
    baseline: str
    above: float = Field(gt=0, lt=1)


class Rule(Contract):
    """One line of `rules.yaml`."""

    name: str = Field(min_length=1)
    check: str = Field(min_length=1)
    why: str = Field(min_length=1)
    severity: Literal["fail", "warn"] = "fail"
    needs: Literal["champion"] | None = None
    measure: Measure = "value"
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)
    times: Reference | None = None
    each_slice: bool = False
    exempt: dict[str, str] = Field(default_factory=dict)
    unless: Saturation | None = None
    only_if_sharp: bool = False
    min_sample: int = Field(100, ge=0)
    min_sessions: int = Field(30, ge=0)
    too_few: Literal["failed", "skipped"] = "failed"

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Rule:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"rule {self.name} needs either at_least or at_most")
        if self.exempt and not self.each_slice:
            raise ValueError(f"rule {self.name} exempts slices but has no each_slice")
        if "min_sessions" in self.model_fields_set and not self.each_slice:
            raise ValueError(f"rule {self.name} has min_sessions but no each_slice")
        if self.measure.startswith("difference") and not self.each_slice:
            raise ValueError(f"rule {self.name} measures a difference, which slices alone have")
        against = self.measure.startswith("difference") or (self.times is not None and self.times.champion)
        if against and self.needs is None:
            raise ValueError(f"rule {self.name} is held against the live model but has no needs: champion")
        if self.only_if_sharp and (self.measure != "interval_low" or (self.at_least or 0.0) >= 0.0):
            raise ValueError(f"rule {self.name} is only_if_sharp but has no margin below the interval's end")
        return self

    @property
    def comparison(self) -> Literal[">=", "<="]:
        """How the value is compared with the bound."""
        return ">=" if self.at_most is None else "<="

    @property
    def limit(self) -> float:
        """The bound before it is multiplied."""
        limit = self.at_least if self.at_most is None else self.at_most
        assert limit is not None  # the validator saw to it
        return limit


class Comparable(Contract):
    """When the live model can be held against at all: `check` is its share of the test queries it knows."""

    check: str = Field(min_length=1)
    at_least: float = Field(gt=0, le=1)


class Rules(Contract):
    """All of `rules.yaml`."""

    version: int = Field(ge=1)
    comparable: Comparable
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_names(self) -> Rules:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have the same name")
        return self


def load_rules(path: Path = RULES_FILE) -> Rules:
    """Reads the rules.

    Raises:
        SettingsError: The file is not valid YAML or not valid rules.
    """
    try:
        return Rules.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{path.name} is not a valid set of rules: {error}") from error
