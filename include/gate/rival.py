"""The live model as a challenger's rival."""

from __future__ import annotations

from pydantic import model_validator

from include.contracts import Champion, Contract


class Rival(Contract):
    """The live model as far as the gate could get at it.

    Attributes:
        champion: None where nothing is live.
        absent: Why nothing is live to be held against; the rules that need it are skipped with this.
        fault: Why it could not be measured although it is live; those rules fail with this.
    """

    champion: Champion | None = None
    absent: str | None = None
    fault: str | None = None

    @model_validator(mode="after")
    def _there_or_a_reason(self) -> Rival:
        if self.champion is None and not (self.absent or self.fault):
            raise ValueError("without a champion there must be a reason")
        return self

    @property
    def is_measurable(self) -> bool:
        """Whether the suite can be given its artefact."""
        return not (self.absent or self.fault)

    @property
    def sentence(self) -> str:
        """What there is to say of it, for a log."""
        if self.champion is None or not self.is_measurable:
            return self.fault or self.absent or ""
        return f"{self.champion.model_name}, by {self.champion.job_name or 'an unknown job'}"


NOTHING_LIVE = Rival(absent="Nothing is live: this is the first deploy.")
