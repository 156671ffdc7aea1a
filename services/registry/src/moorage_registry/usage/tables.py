"""Tables of the usage ledger: chunks taken in, and the sums they add up to."""

from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class ChunkRow(Base):
    """A chunk that has been counted. Its presence is why it is not counted again; the stream forgets it first."""

    __tablename__ = "usage_chunks"

    chunk_id: Mapped[str] = mapped_column(primary_key=True)
    received_at: Mapped[float] = mapped_column(index=True)


class BootRow(Base):
    """How many chunks of one router's boot have been counted, and the highest number among them."""

    __tablename__ = "usage_boots"

    router: Mapped[str] = mapped_column(primary_key=True)
    boot: Mapped[str] = mapped_column(primary_key=True)
    held: Mapped[int]
    highest: Mapped[int]


class UsageSumRow(Base):
    """Sums of one (tenant, model, version, key, hour). `hour` is seconds since 1970, a multiple of 3,600."""

    __tablename__ = "usage"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kid: Mapped[str] = mapped_column(primary_key=True)
    hour: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    requests: Mapped[int]
    errors: Mapped[int]
    rows: Mapped[int]
    bytes_in: Mapped[int]
    bytes_out: Mapped[int]
    busy_us: Mapped[int]


class MonthRow(Base):
    """Requests of a tenant's calendar month (UTC, `2026-11`) that the ledger holds: what its hours add up to."""

    __tablename__ = "usage_months"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    month: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]


class ReservationRow(Base):
    """Requests of a tenant's month that one router's boot may admit before the ledger holds them.

    `granted` counts all that it ever might, `settled` those that came in with its chunks; the difference is held until
    `expires_at`. `n` numbers its questions: one that is overtaken by a later one changes nothing.
    """

    __tablename__ = "usage_reservations"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    month: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]
    granted: Mapped[int]
    settled: Mapped[int]
    expires_at: Mapped[float]
