"""Networks that a key may be used from, and the address that a request came from. Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REMEMBERED = 64
_LONGEST = 45
"""Letters of an IPv6 address that ends in an IPv4 one."""
_MAPPED = IPv6Network("::ffff:0:0/96")


def address_in(text: str) -> Address | None:
    """The address that `text` is, an IPv4 one written as IPv6 as the IPv4 one; None when it is none."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def cidr(text: str) -> str:
    """A network in its one spelling, such as `10.0.0.0/8`; a single address is a network of one. Raises ValueError."""
    found = ip_network(text.strip())
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        message = f"{text} stands for IPv4 addresses; write them as an IPv4 network"
        raise ValueError(message)
    return str(found)


Cidr = Annotated[str, AfterValidator(cidr)]
"""A network as people write it, brought to its one spelling."""


def within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Whether all that `inner` allows, `outer` allows too. No networks: anywhere."""
    if not outer:
        return True
    if not inner:
        return False
    held = _collapsed(outer)
    return all(any(_subnet(network, whole) for whole in held) for network in _collapsed(inner))


def _collapsed(cidrs: Sequence[str]) -> list[Network]:
    """Neighbours joined, so that two halves are the whole."""
    networks = [ip_network(text) for text in cidrs]
    fours = [network for network in networks if isinstance(network, IPv4Network)]
    sixes = [network for network in networks if isinstance(network, IPv6Network)]
    return [*collapse_addresses(fours), *collapse_addresses(sixes)]


def _subnet(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


class Networks:
    """A set of networks that is asked often: what it said of an address, it remembers."""

    __slots__ = ("_networks", "_said")

    def __init__(self, cidrs: Sequence[str]) -> None:
        """Raises ValueError where one is no network."""
        self._networks: list[Network] = [ip_network(text) for text in cidrs]
        self._said: dict[str, bool] = {}

    def hold(self, address: str) -> bool:
        """Whether `address` is in one of them. What is no address is in none."""
        said = self._said.get(address)
        if said is None:
            found = address_in(address)
            said = found is not None and any(found in network for network in self._networks)
            if len(address) > _LONGEST:
                return said
            if len(self._said) >= _REMEMBERED:
                self._said.clear()
            self._said[address] = said
        return said


class Proxies:
    """The proxies whose word on who called is taken. Everyone else's `X-Forwarded-For` is ignored."""

    __slots__ = ("_trusted",)

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = Networks(trusted)

    def trust(self, peer: str) -> bool:
        """Whether what `peer` says of whom it was called by is taken."""
        return self._trusted.hold(peer)

    def caller(self, peer: str, forwarded: str | None) -> str:
        """Where a request came from: the rightmost hop that is no trusted proxy.

        Each proxy appends the address it was called from, so what stands further left is the caller's own word.

        Args:
            peer: the address of the other end of the connection.
            forwarded: all `X-Forwarded-For` headers, joined by commas in their order; None without one.
        """
        if forwarded is None or not self._trusted.hold(peer):
            return peer
        hop = peer
        for text in reversed(forwarded.split(",")):
            hop = _bare(text.strip())
            if not self._trusted.hold(hop):
                break
        return hop


def _bare(hop: str) -> str:
    """The address without the port that some proxies add."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
