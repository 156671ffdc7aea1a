"""Who calls: the shared key table, and what happens when its revocations may not have been heard."""

import time
from collections.abc import Callable

from moorage_common.contracts.keys import KeyRecord
from moorage_common.errors import Unavailable
from moorage_common.key_table import KeyTable, bearer


class Authenticator:
    """Checks keys from memory."""

    def __init__(self, table: KeyTable, stale: Callable[[], bool]) -> None:
        """`stale` says whether the table is too old to be trusted."""
        self._table = table
        self._stale = stale

    def authenticate(self, authorization: bytes | None) -> KeyRecord:
        """The record of the key in an `Authorization` header.

        Raises Unauthenticated, Forbidden for a suspended tenant, Unavailable while keys are stale.
        """
        text = bearer(authorization.decode("latin-1") if authorization is not None else None)
        if self._stale():
            message = "API keys cannot be checked against the current list right now; try again later"
            raise Unavailable(message, code="keys_stale", retry_after_s=5)
        return self._table.check(text, time.time())
