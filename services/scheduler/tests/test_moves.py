"""Rules of moves that need no cluster."""

from moorage_scheduler.cluster import Cluster, RayNode
from moorage_scheduler.gathering import independent
from moorage_scheduler.nodes import Nodes
from moorage_scheduler.placement.decisions import Move, Place
from moorage_scheduler.placement.state import ClusterState, NodeSize


def move(name: str, source: str, target: str) -> Move:
    return Move(name, Place(source, (0,), 500), Place(target, (0,), 500))


def test_moves_that_touch_a_node_of_an_earlier_one_wait_for_it() -> None:
    plan = [move("1", "a", "b"), move("2", "c", "d"), move("3", "d", "e"), move("4", "e", "f"), move("5", "g", "h")]
    assert [one.replica for one in independent(plan)] == ["1", "2", "5"]


def nodes(grace_s: float, **alive: str) -> Nodes:
    """Of these names with Ray's ids."""
    found = Nodes(Cluster("", object), ClusterState(), grace_s, lambda: None)
    found.live = [RayNode(NodeSize(name, 1, 1000, 1000), ray_id) for name, ray_id in alive.items()]
    found._alive = frozenset(alive.values())
    return found


def test_hosts_of_a_node_that_went_away_wait_for_it_as_long_as_its_grace() -> None:
    found = nodes(5.0, a="id-a")
    used = [("a", "id-a"), ("b", "id-b")]
    assert found.lost(used, now=100.0) == set()
    assert found.lost(used, now=104.9) == set()
    assert found.lost(used, now=105.0) == {"id-b"}


def test_what_ran_on_a_node_that_was_restarted_is_lost_at_once() -> None:
    assert nodes(5.0, a="id-new").lost([("a", "id-old")], now=100.0) == {"id-old"}
