"""Who calls: the shared key table, and what happens when its revocations may not have been heard."""

import time
from collections.abc import Callable

from moorage_common.contracts.keys import KeyRecord
from moorage_common.errors import Unavailable
from moorage_common.key_table import KeyTable, bearer


class Credentials:
    """An `Authorization` header, and the record that its key was found good against.

    One that is asked with again need not be parsed and hashed again; what can change about the record is looked at
    each time.
    """

    __slots__ = ("header", "record")

    def __init__(self, header: bytes | None) -> None:
        self.header = header
        self.record: KeyRecord | None = None


class Authenticator:
    """Checks keys from memory."""

    def __init__(self, table: KeyTable, stale: Callable[[], bool]) -> None:
        """`stale` says whether the table is too old to be trusted."""
        self._table = table
        self._stale = stale

    def authenticate(self, credentials: Credentials) -> KeyRecord:
        """The record of the key in an `Authorization` header.

        Raises Unauthenticated, Forbidden for a suspended tenant, Unavailable while keys are stale.
        """
        header, record, table = credentials.header, credentials.record, self._table
        text = bearer(header.decode("latin-1") if header is not None else None) if record is None else ""
        if self._stale():
            message = "API keys cannot be checked against the current list right now; try again later"
            raise Unavailable(message, code="keys_stale", retry_after_s=5)
        if record is not None and table.holds(record):
            table.admit(record, time.time())
            return record
        credentials.record = None
        credentials.record = table.check(text or bearer((header or b"").decode("latin-1")), time.time())
        return credentials.record
