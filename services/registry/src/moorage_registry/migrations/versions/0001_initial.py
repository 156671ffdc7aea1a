"""Tables of the registry"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index("ix_audit_tenant_id", ["tenant", "id"], unique=False)

    op.create_table(
        "epoch",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_epoch")),
    )
    op.bulk_insert(
        sa.table("epoch", sa.column("id", sa.BigInteger), sa.column("epoch", sa.BigInteger)), [{"id": 1, "epoch": 1}]
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("published_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("event_id", name=op.f("uq_outbox_event_id")),
    )
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.create_index("ix_outbox_published_at", ["published_at"], unique=False)
        batch_op.create_index("ix_outbox_tenant_id", ["tenant", "id"], unique=False)

    op.create_table(
        "tenants",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("requests_per_s", sa.Double(), nullable=False),
        sa.Column("burst", sa.BigInteger(), nullable=False),
        sa.Column("max_concurrent", sa.BigInteger(), nullable=False),
        sa.Column("max_body_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpu_milli", sa.BigInteger(), nullable=False),
        sa.Column("on_store_loss", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
    )
    op.create_table(
        "usage",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kid", sa.String(), nullable=False),
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("busy_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "model", "version", "kid", "hour", name=op.f("pk_usage")),
    )
    op.create_table(
        "usage_boots",
        sa.Column("router", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("router", "boot", name=op.f("pk_usage_boots")),
    )
    op.create_table(
        "usage_chunks",
        sa.Column("chunk_id", sa.String(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("chunk_id", name=op.f("pk_usage_chunks")),
    )
    with op.batch_alter_table("usage_chunks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_usage_chunks_received_at"), ["received_at"], unique=False)

    op.create_table(
        "api_keys",
        sa.Column("kid", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("pepper_version", sa.BigInteger(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_api_keys_tenant_tenants")),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_api_keys")),
    )
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_api_keys_tenant"), ["tenant"], unique=False)

    op.create_table(
        "artifacts",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_artifacts_tenant_tenants")),
        sa.PrimaryKeyConstraint("tenant", "digest", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "models",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("last_version", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name=op.f("fk_models_tenant_tenants")),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_models")),
    )
    op.create_table(
        "deployments",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_deployments_model"),
        sa.PrimaryKeyConstraint("tenant", "model", name=op.f("pk_deployments")),
    )
    op.create_table(
        "replicas",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("host_id", sa.String(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("restarts", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_replicas_model"),
        sa.PrimaryKeyConstraint("tenant", "model", "cluster", "host_id", "version", name=op.f("pk_replicas")),
    )
    op.create_table(
        "versions",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("unchecked", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("artifact_digest", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("signature", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("libraries", sa.JSON(), nullable=False),
        sa.Column("examples_digest", sa.String(), nullable=True),
        sa.Column("feature_service", sa.String(), nullable=True),
        sa.Column("feature_fingerprint", sa.String(), nullable=True),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("feature_entities", sa.JSON(), nullable=False),
        sa.Column("content_digest", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("max_abs_diff", sa.Double(), nullable=True),
        sa.Column("validated_libraries", sa.JSON(), nullable=False),
        sa.Column("validated_at", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "artifact_digest"], ["artifacts.tenant", "artifacts.digest"], name="fk_versions_artifact"
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "examples_digest"], ["artifacts.tenant", "artifacts.digest"], name="fk_versions_examples"
        ),
        sa.ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_versions_model"),
        sa.PrimaryKeyConstraint("tenant", "model", "number", name=op.f("pk_versions")),
    )
    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.create_index("ix_versions_content", ["tenant", "model", "content_digest"], unique=False)

    op.create_table(
        "deployment_revisions",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "model"], ["deployments.tenant", "deployments.model"], name="fk_revisions_deployment"
        ),
        sa.PrimaryKeyConstraint("tenant", "model", "revision", name=op.f("pk_deployment_revisions")),
    )
    op.create_table(
        "traffic",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("arms", sa.JSON(), nullable=False),
        sa.Column("stickiness", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "model"], ["deployments.tenant", "deployments.model"], name="fk_traffic_deployment"
        ),
        sa.PrimaryKeyConstraint("tenant", "model", name=op.f("pk_traffic")),
    )


def downgrade() -> None:
    op.drop_table("traffic")
    op.drop_table("deployment_revisions")
    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.drop_index("ix_versions_content")

    op.drop_table("versions")
    op.drop_table("replicas")
    op.drop_table("deployments")
    op.drop_table("models")
    op.drop_table("artifacts")
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_api_keys_tenant"))

    op.drop_table("api_keys")
    with op.batch_alter_table("usage_chunks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_usage_chunks_received_at"))

    op.drop_table("usage_chunks")
    op.drop_table("usage_boots")
    op.drop_table("usage")
    op.drop_table("tenants")
    with op.batch_alter_table("outbox", schema=None) as batch_op:
        batch_op.drop_index("ix_outbox_tenant_id")
        batch_op.drop_index("ix_outbox_published_at")

    op.drop_table("outbox")
    op.drop_table("epoch")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_tenant_id")

    op.drop_table("audit")
