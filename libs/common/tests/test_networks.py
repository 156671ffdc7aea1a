"""Networks of keys, and whose word is taken on where a call came from."""

import pytest

from moorage_common.networks import Networks, Proxies, cidr, within


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("198.51.100.7", True), ("198.51.100.8", False),
        ("2001:db8::5", True), ("2001:db9::5", False), ("", False), ("unknown", False), ("10.1.2", False),
    ],
)  # fmt: skip
def test_an_address_is_in_a_network_however_it_is_written(address: str, *, held: bool) -> None:
    networks = Networks([cidr("10.0.0.0/8"), cidr("198.51.100.7"), cidr("2001:DB8::/32")])
    assert [networks.hold(address) for _ in range(2)] == [held, held]


@pytest.mark.parametrize("text", ["10.1.2.3/8", "10.0.0.0/33", "anywhere", "", "::ffff:10.0.0.0/104"])
def test_a_network_that_says_two_things_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|bits|IPv4"):
        cidr(text)


@pytest.mark.parametrize(
    ("inner", "outer", "holds"),
    [
        ([], [], True),
        (["10.0.0.0/8"], [], True),
        ([], ["10.0.0.0/8"], False),
        (["10.1.0.0/16"], ["10.0.0.0/8"], True),
        (["10.0.0.0/8"], ["10.0.0.0/9", "10.128.0.0/9"], True),
        (["10.0.0.0/8"], ["10.0.0.0/9"], False),
        (["10.1.0.0/16", "2001:db8::/48"], ["10.0.0.0/8"], False),
        (["2001:db8:1::/48", "10.0.0.1/32"], ["2001:db8::/32", "10.0.0.0/24"], True),
    ],
)
def test_networks_are_within_others_when_no_address_is_outside(
    inner: list[str], outer: list[str], *, holds: bool
) -> None:
    assert within(inner, outer) is holds


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("198.51.100.7", "10.0.0.1", "198.51.100.7"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "192.0.2.1, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "192.0.2.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "192.0.2.1, nonsense", "nonsense"),
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::5]:4711", "2001:db8::5"),
        ("::ffff:10.0.0.1", "2001:db8::5", "2001:db8::5"),
    ],
)
def test_the_caller_is_the_rightmost_hop_that_is_no_trusted_proxy(
    peer: str, forwarded: str | None, caller: str
) -> None:
    assert Proxies(["10.0.0.0/8"]).caller(peer, forwarded) == caller


def test_without_trusted_proxies_a_forwarded_address_is_nobodys_word() -> None:
    assert Proxies([]).caller("10.0.0.1", "198.51.100.7") == "10.0.0.1"


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    networks = Networks(["10.0.0.0/8"])
    for number in range(1000):
        assert networks.hold(f"10.0.{number // 256}.{number % 256}")
        assert not networks.hold("1" * (100 + number))
    assert len(networks._said) <= 64
