"""Guarantees of GPU, limits of CPU and memory and leave to push code, a tenant; nodes that operators drain"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("tenants") as batch_op:
        batch_op.add_column(sa.Column("gpu_shares", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("allow_code", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("cpu_milli", sa.BigInteger(), nullable=False, server_default="64000"))
        batch_op.add_column(sa.Column("mem_mib", sa.BigInteger(), nullable=False, server_default="262144"))
    op.create_table(
        "clusters",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("drained", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_clusters")),
    )


def downgrade() -> None:
    op.drop_table("clusters")
    with op.batch_alter_table("tenants") as batch_op:
        batch_op.drop_column("mem_mib")
        batch_op.drop_column("cpu_milli")
        batch_op.drop_column("allow_code")
        batch_op.drop_column("gpu_shares")
