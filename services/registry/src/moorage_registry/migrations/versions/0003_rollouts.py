"""Rollouts, what they saw and decided; answers kept and labels; rings; arms' rings with the traffic"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _rollouts()
    _logs_of_rollouts()
    _feedback()
    op.create_table(
        "rings",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("header", sa.String(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("kids", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_rings")),
    )
    with op.batch_alter_table("traffic") as batch_op:
        batch_op.add_column(sa.Column("rings", sa.JSON(), nullable=False, server_default="[]"))


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("stable", sa.BigInteger(), nullable=False),
        sa.Column("candidate", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("policy_hash", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("resumes_as", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("step_began_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("started_by", sa.String(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("stable_before", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("candidate_before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("traffic_before", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("capacity", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("outlook", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("leaves_at", sa.Double(), nullable=True),
        sa.Column("head", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("verdicts", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_rollouts_model"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index("ix_rollouts_tenant_model", "rollouts", ["tenant", "model", "started_at"])
    op.create_index("ix_rollouts_finished_at", "rollouts", ["finished_at"])
    op.create_index("ix_rollouts_leaves_at", "rollouts", ["leaves_at"])
    op.create_table(
        "controller_lease",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("fencing", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_controller_lease")),
    )


def _logs_of_rollouts() -> None:
    op.create_table(
        "rollout_entries",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("entry", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_entries_rollout"),
        sa.PrimaryKeyConstraint("rollout", "seq", name=op.f("pk_rollout_entries")),
    )
    op.create_table(
        "rollout_verdicts",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_verdicts_rollout"),
        sa.PrimaryKeyConstraint("rollout", "number", name=op.f("pk_rollout_verdicts")),
    )
    op.create_table(
        "rollout_reads",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("router", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_reads_rollout"),
        sa.PrimaryKeyConstraint("rollout", "router", "boot", name=op.f("pk_rollout_reads")),
    )


def _feedback() -> None:
    op.create_table(
        "outputs",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("ulid", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("other_version", sa.BigInteger(), nullable=True),
        sa.Column("other_value", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "ulid", name=op.f("pk_outputs")),
    )
    op.create_index("ix_outputs_tenant_at", "outputs", ["tenant", "at"])
    op.create_index("ix_outputs_at", "outputs", ["at"])
    op.create_table(
        "labels",
        sa.Column("id", Number, nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("ulid", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("label", sa.String(), nullable=True),
        sa.Column("wrong", sa.Boolean(), nullable=True),
        sa.Column("loss", sa.Double(), nullable=True),
        sa.Column("other_version", sa.BigInteger(), nullable=True),
        sa.Column("other_wrong", sa.Boolean(), nullable=True),
        sa.Column("other_loss", sa.Double(), nullable=True),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
    )
    op.create_index("uq_labels_tenant_ulid", "labels", ["tenant", "ulid"], unique=True)
    op.create_index("ix_labels_tenant_model_settled", "labels", ["tenant", "model", "settled"])
    op.create_index("ix_labels_at", "labels", ["at"])
    op.create_table(
        "feedback_counts",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("outputs", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", name=op.f("pk_feedback_counts")),
    )


def downgrade() -> None:
    with op.batch_alter_table("traffic") as batch_op:
        batch_op.drop_column("rings")
    for table in (
        "rings", "feedback_counts", "labels", "outputs", "controller_lease", "rollout_reads", "rollout_verdicts", "rollout_entries",
        "rollouts",
    ):  # fmt: skip
        op.drop_table(table)
