"""Requests a month: what a router asks the registry for (core NATS, `quota.reserve`), and what it gets.

Everything a router tells is a count since its boot, so that an answer that is lost costs nothing: the next question
says it all again.
"""

from datetime import UTC, datetime

from pydantic import Field

from moorage_common.contracts.model import Contract

MONTH_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])$"


class QuotaAsk(Contract):
    """A router's boot reserves requests of a tenant's month."""

    tenant: str
    owner: str = Field(description="`router:boot`, as in the names of its usage chunks.")
    month: str = Field(pattern=MONTH_PATTERN, description="Calendar month, UTC, such as 2026-11.")
    n: int = Field(ge=1, description="Numbers the questions of this owner about this tenant.")
    spent: int = Field(ge=0, description="Requests of the month that it let pass since its boot and did not fail.")
    want: int = Field(ge=0, description="As many more it would like to let pass; 0 gives back what it holds.")


class QuotaGrant(Contract):
    """What it may let pass beyond `spent` of its question, for `life_s` from when it asked."""

    granted: int
    life_s: float
    limit: int | None = Field(description="Requests a month; None: no bound.")
    used: int = Field(description="Requests that the ledger holds of the month.")
    room: int = Field(description="What was left of the limit before this grant.")
    held_by_others: int = Field(default=0, description="What other routers may let pass or have not shipped yet.")


def month_of(at: float) -> str:
    """The calendar month of an instant, UTC: `2026-11`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")


def month_bounds(month: str) -> tuple[float, float]:
    """Begin and end of `2026-11`, seconds since 1970."""
    year, number = int(month[:4]), int(month[5:])
    begin = datetime(year, number, 1, tzinfo=UTC)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return begin.timestamp(), end.timestamp()
