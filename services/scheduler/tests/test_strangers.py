from typing import Any

from moorage_scheduler.cluster import Cluster, ClusterUnreachable, HostGone, HostRefused, Placed

OURS = Placed(
    host_id="ours", tenant="acme", model="m", version=1, purpose="replica", node="a", devices=[], asked={},
    started_at=0.0, epoch=7,
).model_dump_json()  # fmt: skip
SAID: dict[str, str | Exception] = {
    "ours": OURS,
    "json": '{"epoch": 9}',
    "prose": "I am no host",
    "raises": HostRefused("no"),
    "other": TypeError("placed() takes an argument"),
    "busy": ClusterUnreachable("no answer in time"),
    "gone": HostGone("died"),
}


class WithActors(Cluster):
    """A cluster of these named actors, of which nothing is asked of Ray; `bare` has none of a host's methods."""

    async def _names(self) -> list[str]:
        return [*SAID, "bare", "gone#1", "left#1"]

    async def _lost(self) -> set[str]:
        return set()

    async def call(self, host_id: str, method: str, *arguments: Any, timeout_s: float, retries: int = -1) -> Any:
        if host_id == "bare":
            return await super().call(host_id, method, *arguments, timeout_s=timeout_s, retries=retries)
        answer = SAID[host_id]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_named_actors_of_others_neither_end_the_scheduler_nor_are_taken_for_hosts() -> None:
    cluster = WithActors("", object)
    cluster._handles["bare"] = object()
    assert await cluster.strangers() == {"ours": 7, "left#1": -1}
    await cluster.close()
