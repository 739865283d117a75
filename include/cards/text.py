"""Words and numbers for people: every text bounded and printable, every number finite or a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping

LONGEST_TEXT = 60  # a SKU may be 10 kB long; a page is for people
DASH = "–"
_SHARES = ("hit_rate", "recall", "coverage", "stability", "served_answers_differ", "champion_knows", "share")
_COARSE = ("_ms", "_megabytes")
_DIFFERENCE = "_minus_champion"
_LABELS = {
    "hit_rate": "Hit rate",
    "mrr": "MRR",
    "ndcg": "NDCG",
    "single_answer_ms": "One answer, ms",
    "package_megabytes": "Package, MB",
}


def finite(value: object) -> float | None:
    """Returns a number as float; None for anything that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def mapping(value: object) -> Mapping[str, object]:
    """Returns a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def shorten(text: object, longest: int = LONGEST_TEXT) -> str:
    """Returns the text on one line, in at most `longest` characters.

    What cannot be printed, as a character that turns the direction of a line, is replaced.
    """
    # Cut before anything else is done, so that ten megabytes cost no more than a line.
    start = str(text)[: longest + 1]
    whole = "".join(sign if sign.isprintable() else " " if sign.isspace() else "\ufffd" for sign in start)
    return whole if len(whole) <= longest else f"{whole[: longest - 1]}…"


def number(value: object) -> str:
    """Returns a number for people: counts with separators, fractions with four digits, else a dash."""
    found = finite(value)
    if found is None:
        return DASH
    if isinstance(value, int) or found == 0 or found.is_integer() and abs(found) >= 2:
        return f"{int(found):,}"
    return f"{found:.4g}" if 0 < abs(found) < 0.001 else f"{found:,.4f}"


def percent(value: object) -> str:
    """Returns a share as a percentage, a dash where it is not a finite number."""
    found = finite(value)
    return DASH if found is None else f"{100 * found:.1f} %"


def is_share(metric: str) -> bool:
    """Tells whether a metric goes from 0 to 1 and is read as a percentage."""
    plain = metric.startswith(_SHARES) and "_over_" not in metric
    return (plain or metric.endswith("_share")) and not metric.endswith(_DIFFERENCE)


def shown(value: object, metric: str) -> str:
    """Returns a metric's value as it is read: a percentage, or a number of three digits."""
    found = finite(value)
    if found is None or is_share(metric):
        return percent(value)
    if found.is_integer() and abs(found) >= 2:
        return f"{int(found):,}"
    if metric.endswith(_COARSE):
        return f"{found:,.1f}"
    return f"{found:.3f}" if abs(found) < 10 else f"{found:,.1f}"


def money(value: object) -> str:
    """Returns US dollars, to the cent; what is less than a cent says so."""
    found = finite(value)
    if found is None:
        return DASH
    return "< $0.01" if 0 < found < 0.01 else f"${found:,.2f}"


def duration(seconds: object) -> str:
    """Returns seconds as `52 s`, `7 min 5 s` or `2 h 3 min`."""
    found = finite(seconds)
    if found is None or found < 0:
        return DASH
    whole = round(found)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def words(name: str) -> str:
    """Returns a name of code as words: `hit_rate@20_by_hour[8]` becomes `Hit rate@20 by hour: 8`."""
    name, bracket, part = name.partition("[")
    for start, label in _LABELS.items():
        if name.startswith(start):
            name = label + name.removeprefix(start)
            break
    spaced = name.replace("_", " ").strip()
    return spaced[:1].upper() + spaced[1:] + (f": {part.removesuffix(']')}" if bracket else "")


def method(name: str) -> str:
    """Returns the name of who answered: a baseline's, or the live model's."""
    return {"champion": "live model", "session_knn": "session kNN"}.get(name, name.replace("_", " "))
