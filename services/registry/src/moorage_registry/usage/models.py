"""What is said about usage over HTTP."""

from typing import Literal

from pydantic import BaseModel

Group = Literal["model", "version", "key", "hour"]


class UsageSums(BaseModel):
    requests: int = 0
    errors: int = 0
    rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    busy_us: int = 0


class UsageLine(UsageSums):
    """Sums of one group; the fields of the groups not asked for are absent. `hour` is RFC 3339."""

    model: str | None = None
    version: int | None = None
    key: str | None = None
    hour: str | None = None


class Usage(BaseModel):
    rows: list[UsageLine]
    total: UsageSums
