"""Who calls: the shared key table, and what happens when its revocations may not have been heard."""

import time
from collections.abc import Callable

from moorage_common.contracts.keys import KeyRecord
from moorage_common.errors import Unavailable
from moorage_common.http1 import Exchange
from moorage_common.key_table import KeyTable, bearer
from moorage_common.networks import Proxies


class Credentials:
    """An `Authorization` header with where it came from, and the record that its key was found good against.

    One that is asked with again need not be parsed and hashed again; what can change about the record is looked at
    each time.
    """

    __slots__ = ("address", "header", "record")

    def __init__(self, header: bytes | None, address: str = "") -> None:
        """`address` is where it came from."""
        self.header = header
        self.address = address
        self.record: KeyRecord | None = None


class Authenticator:
    """Checks keys from memory."""

    def __init__(self, table: KeyTable, stale: Callable[[], bool]) -> None:
        """`stale` says whether the table is too old to be trusted."""
        self._table = table
        self._stale = stale

    def authenticate(self, credentials: Credentials) -> KeyRecord:
        """The record of the key in an `Authorization` header.

        Raises Unauthenticated; Forbidden for a suspended tenant or a foreign network; Unavailable while keys are stale.
        """
        header, record, table = credentials.header, credentials.record, self._table
        text = bearer(header.decode("latin-1") if header is not None else None) if record is None else ""
        if self._stale():
            message = "API keys cannot be checked against the current list right now; try again later"
            raise Unavailable(message, code="keys_stale", retry_after_s=5)
        if record is not None and table.holds(record):
            table.admit(record, time.time(), credentials.address)
            return record
        credentials.record = None
        text = text or bearer((header or b"").decode("latin-1"))
        credentials.record = table.check(text, time.time(), credentials.address)
        return credentials.record


def caller_of(proxies: Proxies, exchange: Exchange) -> str:
    """The address that a request came from: the connection's, or the one that a trusted proxy names."""
    if not proxies.trust(exchange.peer):
        return exchange.peer
    hops = [value.decode("latin-1") for name, value in exchange.head.fields if name == b"x-forwarded-for"]
    return proxies.caller(exchange.peer, ",".join(hops) or None)
