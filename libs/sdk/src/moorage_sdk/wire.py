"""Calls to one service of the platform and what comes back, as values: nothing here sends."""

import contextlib
import ipaddress
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from moorage_common.contracts.host_calls import ERROR_CODE
from moorage_sdk.errors import MoorageApiError, NotConfigured
from moorage_sdk.retry import Failure, Lost, Refused, Repeat, Unsent

READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        path: below the service's base URL, with the query.
        timeout_s: for everything, waits and further attempts included; None is the transport's own.
        retries: times it may be sent again; None is the transport's own.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    repeat: Repeat = Repeat.ACTS
    timeout_s: float | None = None
    retries: int | None = None

    @classmethod
    def of(
        cls,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Self:
        """A call with a JSON body, or with `content`."""
        found = dict(headers or {})
        if json is not None:
            content = to_json(json)
            found["content-type"] = "application/json"
        query = f"?{urlencode(params)}" if params else ""
        repeat = Repeat.READS if method in READING else Repeat.ACTS
        return cls(method, path + query, found, content, repeat, timeout_s=timeout_s)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: header names in lower case, the body with its content encoding undone."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        return json.loads(self.body)


def to_json(value: Any) -> bytes:
    """Compact JSON. Raises ValueError for NaN and infinities, which JSON has not."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of `Retry-After`, where it has them."""
    with contextlib.suppress(KeyError, ValueError):
        seconds = float(headers["retry-after"])
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    return None


def failure_of(outcome: Reply | Failure) -> Failure | None:
    """What went wrong; None for a success."""
    if not isinstance(outcome, Reply):
        return outcome
    return None if outcome.is_success else Refused(outcome.status, retry_after_s(outcome.headers))


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service is and how to be let in.

    Attributes:
        setting: the variable that sets `base_url`, for the text of `NotConfigured`.
        headers: sent with every call.
        needs_key: False for what is open to everybody.
    """

    base_url: str
    api_key: str = field(repr=False)
    setting: str
    headers: Mapping[str, str] = field(default_factory=dict)
    needs_key: bool = True

    @property
    def all_headers(self) -> dict[str, str]:
        """`headers` and the key."""
        bearer = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {**bearer, **self.headers}

    def check_configured(self) -> None:
        """Raises NotConfigured without an address or a key."""
        if not self.base_url:
            raise NotConfigured(f"{self.setting} is not set; set it, or run: moorage login")
        if self.needs_key and not self.api_key:
            raise NotConfigured("no API key is set; set MOORAGE_API_KEY, or run: moorage login")

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, where no proxy of the environment can reach it."""
        host = urlsplit(self.base_url).hostname or ""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host == "localhost"

    @property
    def is_plain_loopback(self) -> bool:
        return self.is_loopback and self.base_url.startswith("http://")

    def error_of(self, path: str, outcome: Reply | Failure, timeout_s: float) -> MoorageApiError:
        """What the caller is told of an answer that is not a success, or of none."""
        if isinstance(outcome, Reply):
            return self._refusal(path, outcome)
        if isinstance(outcome, Lost) and not outcome.in_time:
            text = f"{self.base_url}{path} did not answer within {timeout_s:g} s; the call was ended"
            return MoorageApiError(0, "timed_out", text)
        if isinstance(outcome, Unsent) and isinstance(outcome.cause, TimeoutError):
            text = f"{self.base_url}: no connection was free within {timeout_s:g} s; make fewer calls at once"
            return MoorageApiError(0, "timed_out", text)
        cause = outcome.cause if not isinstance(outcome, Refused) else None
        reason = str(cause) or type(cause).__name__
        return MoorageApiError(0, "unreachable", f"{self.base_url} did not answer ({reason}); is the platform running?")

    def _refusal(self, path: str, reply: Reply) -> MoorageApiError:
        code, text = reply.headers.get(ERROR_CODE, ""), ""
        with contextlib.suppress(ValueError):
            found = reply.json()
            if isinstance(found, dict):
                text = str(found.get("error") or "")
                code = str(found.get("code") or code)
        if not text:
            text = f"{self.base_url}{path} answered {reply.status} without saying why; is the address right?"
        return MoorageApiError(reply.status, code or "http_error", text, retry_after_s(reply.headers))
