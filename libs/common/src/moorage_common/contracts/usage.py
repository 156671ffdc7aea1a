"""Metering: what a router adds up and the ledger takes in. Delivered at least once, counted once by `chunk_id`."""

from moorage_common.contracts.model import Contract


class UsageRow(Contract):
    """Sums of one (tenant, model, version, key, hour). `hour` is seconds since 1970, a multiple of 3,600."""

    tenant: str
    model: str
    version: int
    kid: str
    hour: int
    requests: int
    errors: int = 0
    rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    busy_us: int = 0


class UsageChunk(Contract):
    """`chunk_id` is `router:boot:n`; `n` counts from 0 without gaps within a boot."""

    router: str
    boot: str
    n: int
    rows: list[UsageRow]

    @property
    def chunk_id(self) -> str:
        return f"{self.router}:{self.boot}:{self.n}"
