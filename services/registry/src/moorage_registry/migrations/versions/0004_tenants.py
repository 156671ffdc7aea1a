"""Keys with names, networks, rates and owners; people's roles; plans, rates of models and requests a month"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NO_HOUR = 253_402_300_800


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as batch_op:
        batch_op.add_column(sa.Column("name", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("cidrs", sa.JSON(none_as_null=True), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("rate", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("subject", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("replaced_by", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("last_used_at", sa.Double(), nullable=True))
        batch_op.create_index(op.f("ix_api_keys_subject"), ["subject"])
    with op.batch_alter_table("tenants") as batch_op:
        batch_op.add_column(sa.Column("plan", sa.String(), nullable=False, server_default="standard"))
        batch_op.add_column(sa.Column("weight", sa.Double(), nullable=False, server_default="4"))
        batch_op.add_column(sa.Column("model_rates", sa.JSON(none_as_null=True), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("requests_per_month", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("deletion", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "memberships",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_memberships_tenant_tenants")),
        sa.PrimaryKeyConstraint("tenant", "subject", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_subject"), "memberships", ["subject"])
    op.create_table(
        "usage_reservations",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("month", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "month", "owner", name=op.f("pk_usage_reservations")),
    )
    months = op.create_table(
        "usage_months",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("month", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "month", name=op.f("pk_usage_months")),
    )
    sums = months_so_far(op.get_bind())
    if sums:
        op.bulk_insert(months, [{"tenant": t, "month": m, "requests": n} for (t, m), n in sorted(sums.items())])


def months_so_far(connection: sa.Connection) -> dict[tuple[str, str], int]:
    """Requests of each tenant and calendar month, from the ledger's hours."""
    usage = sa.table("usage", sa.column("tenant"), sa.column("hour"), sa.column("requests"))
    query = sa.select(usage.c.tenant, usage.c.hour, sa.func.sum(usage.c.requests)).group_by(usage.c.tenant, usage.c.hour)
    sums: dict[tuple[str, str], int] = {}
    for tenant, hour, requests in connection.execute(query.where(usage.c.hour < _NO_HOUR)):
        place = (tenant, datetime.fromtimestamp(hour, UTC).strftime("%Y-%m"))
        sums[place] = sums.get(place, 0) + int(requests)
    return sums


def downgrade() -> None:
    op.drop_table("usage_months")
    op.drop_table("usage_reservations")
    op.drop_table("memberships")
    with op.batch_alter_table("tenants") as batch_op:
        for column in ("deletion", "requests_per_month", "model_rates", "weight", "plan"):
            batch_op.drop_column(column)
    with op.batch_alter_table("api_keys") as batch_op:
        batch_op.drop_index(op.f("ix_api_keys_subject"))
        for column in ("last_used_at", "replaced_by", "subject", "rate", "cidrs", "name"):
            batch_op.drop_column(column)
