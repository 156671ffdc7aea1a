"""The peers: one module each, a tuple `PEERS` of its configurations in each."""

from peers import bentoml, kserve, litserve, mlserver, ray_serve
from peers.side import Peer

ALL: tuple[Peer, ...] = (*ray_serve.PEERS, *mlserver.PEERS, *kserve.PEERS, *litserve.PEERS, *bentoml.PEERS)
