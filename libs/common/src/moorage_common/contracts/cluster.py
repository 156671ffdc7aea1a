"""What operators want of a cluster, and what the registry asks its leading scheduler.

`clusters/<cluster>` is written by the registry; requests go to `scheduler.<cluster>` over core NATS. Tenants' questions
reach the scheduler through the registry only, which fills in who asks.
"""

from typing import Any, Literal

from pydantic import Field

from moorage_common.contracts.model import Contract


class ClusterIntent(Contract):
    """Value of `clusters/<cluster>`."""

    cluster: str
    drained: list[str] = Field(default=[], description="Nodes that take no more replicas and lose those they have.")


class SchedulerAsk(Contract):
    """One question or order.

    `explain`: why a model's replicas are where they are, or wait. `nodes`: nodes, devices and who sits where.
    `state`: all that placement decides by, to be replayed. `shares`: the queue tree, of `tenant` where one is given.
    `defragment`: the moves that would gather free room; carried out unless `dry_run`.
    """

    what: Literal["explain", "nodes", "state", "shares", "defragment"]
    tenant: str = Field(default="", description="Whose; empty for operators, who see all.")
    model: str = ""
    dry_run: bool = True


class SchedulerAnswer(Contract):
    """`error` is a sentence for people where there is no answer."""

    answer: dict[str, Any] = {}
    error: str = ""
