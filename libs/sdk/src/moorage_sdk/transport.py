"""HTTP to one service of the platform, its refusals as `MoorageApiError`."""

import contextlib
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from moorage_common.contracts.host_calls import ERROR_CODE
from moorage_common.trace import child_of
from moorage_sdk.errors import MoorageApiError, NotConfigured

_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _retry_after(response: httpx.Response) -> float | None:
    with contextlib.suppress(KeyError, ValueError):
        return float(response.headers["retry-after"])
    return None


def refusal(response: httpx.Response) -> MoorageApiError:
    """The error that an answer of 400 or more carries."""
    code, text = response.headers.get(ERROR_CODE, ""), ""
    with contextlib.suppress(ValueError):
        body = response.json()
        if isinstance(body, dict):
            text = str(body.get("error") or "")
            code = str(body.get("code") or code)
    message = text or f"{response.request.url} answered {response.status_code} without saying why"
    return MoorageApiError(response.status_code, code or "http_error", message, _retry_after(response))


class Transport:
    """Keep-alive connections to `base_url`, authenticated with `api_key`.

    Args:
        setting: the variable that sets `base_url`, for the text of `NotConfigured`.
        headers: sent with every request.
    """

    def __init__(self, base_url: str, api_key: str, *, setting: str, headers: Mapping[str, str] | None = None) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._setting = setting
        self._http = httpx.Client(
            base_url=base_url,
            timeout=_TIMEOUT,
            headers={"authorization": f"Bearer {api_key}", **(headers or {})},
            trust_env=not _is_loopback(base_url),
        )

    def _check_configured(self) -> None:
        if not self.base_url:
            raise NotConfigured(f"{self._setting} is not set; set it, or run: moorage login")
        if not self._api_key:
            raise NotConfigured("no API key is set; set MOORAGE_API_KEY, or run: moorage login")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request; `options` are httpx's.

        Raises:
            MoorageApiError: an answer of 400 or more, or none at all (status 0, code `unreachable`).
            NotConfigured: no address or no key.
        """
        self._check_configured()
        headers = {"traceparent": child_of(None), **options.pop("headers", {})}
        try:
            response = self._http.request(method, path, headers=headers, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 400:
            raise refusal(response)
        return response

    def json(self, method: str, path: str, **options: Any) -> Any:
        """`request`, its answer's JSON."""
        return self.request(method, path, **options).json()

    @contextlib.contextmanager
    def lines(self, path: str, *, params: Mapping[str, str], headers: Mapping[str, str]) -> Iterator[Iterator[str]]:
        """The lines of a streamed answer, as they come; silence does not end it."""
        self._check_configured()
        timeout = httpx.Timeout(None, connect=5.0)
        try:
            with self._http.stream(
                "GET", path, params=dict(params), headers=dict(headers), timeout=timeout
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise refusal(response)
                yield response.iter_lines()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> MoorageApiError:
        reason = str(error) or type(error).__name__
        return MoorageApiError(0, "unreachable", f"{self.base_url} did not answer ({reason}); is the platform running?")

    def close(self) -> None:
        self._http.close()
