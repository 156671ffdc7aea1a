"""Signing in without a browser here: OAuth 2.0 Device Authorization Grant (RFC 8628) at an OpenID provider.

The provider shows a page where the person signs in on any device and enters, or confirms, a short code; meanwhile the
provider is asked for the token as often as it allows.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from moorage_sdk.errors import SignInFailed

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_INTERVAL_S = 5.0
_SLOWER_S = 5.0
_LIFETIME_S = 600.0
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Provider:
    """Where an OpenID provider starts and ends a device flow.

    Attributes:
        token: which of the tokens the platform takes, `access_token` or `id_token`.
    """

    client_id: str
    token: str
    device_url: str
    token_url: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the person is shown: where to go, and the code to enter there; `whole_url` has the code in it already."""

    url: str
    code: str
    whole_url: str


def discover(http: httpx.Client, issuer: str, client_id: str, token: str) -> Provider:
    """The provider by its discovery document (OpenID Connect Discovery 1.0). Raises SignInFailed."""
    found = _json(http.get, issuer.rstrip("/") + "/.well-known/openid-configuration")
    if found.get("issuer") != issuer:
        raise SignInFailed(f"{issuer} says that it is {found.get('issuer')}; ask the platform's operator")
    device_url, token_url = found.get("device_authorization_endpoint"), found.get("token_endpoint")
    if not isinstance(device_url, str) or not isinstance(token_url, str):
        raise SignInFailed(f"{issuer} has no device flow; ask the platform's operator to switch it on")
    return Provider(client_id, token, device_url, token_url)


def device_token(http: httpx.Client, provider: Provider, show: Callable[[Prompt], None]) -> str:
    """The person's token, once `show` has shown where to sign in and the person has.

    Raises:
        SignInFailed: the person refused, took too long, or the provider does not do what RFC 8628 says.
    """
    asked = {"client_id": provider.client_id, "scope": "openid"}
    started = _json(http.post, provider.device_url, data=asked)
    device_code, prompt = started.get("device_code"), _prompt(started)
    if not isinstance(device_code, str) or prompt is None:
        raise SignInFailed(f"{provider.device_url} did not start a sign-in ({_reason(started)})")
    show(prompt)
    wait_s = _seconds(started, "interval", _INTERVAL_S)
    deadline = time.monotonic() + _seconds(started, "expires_in", _LIFETIME_S)
    form = {"grant_type": _GRANT, "device_code": device_code, "client_id": provider.client_id}
    while time.monotonic() + wait_s < deadline:
        time.sleep(wait_s)
        try:
            answer = _json(http.post, provider.token_url, data=form)
        except SignInFailed:
            # RFC 8628, 3.5: after a connection that timed out, wait twice as long before asking again.
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            continue
        token, error = answer.get(provider.token), answer.get("error")
        if isinstance(token, str):
            return token
        if error == "slow_down":
            wait_s += _SLOWER_S
        elif error != "authorization_pending":
            raise SignInFailed(f"the sign-in ended ({_reason(answer)}); run the command again")
    raise SignInFailed("nobody signed in in time; run the command again")


def _prompt(started: Mapping[str, Any]) -> Prompt | None:
    url, code = started.get("verification_uri"), started.get("user_code")
    whole = started.get("verification_uri_complete", url)
    if not isinstance(url, str) or not isinstance(code, str) or not isinstance(whole, str):
        return None
    if not all(urlsplit(address).scheme in ("http", "https") for address in (url, whole)):
        return None
    return Prompt(url, code, whole)


def _seconds(answer: Mapping[str, Any], name: str, default: float) -> float:
    value = answer.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else default


def _reason(answer: Mapping[str, Any]) -> str:
    return str(answer.get("error_description") or answer.get("error") or "no reason given")


def _json(ask: Callable[..., httpx.Response], url: str, **options: Any) -> Mapping[str, Any]:
    try:
        found = ask(url, **options).json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SignInFailed(f"{url} did not answer ({error or type(error).__name__})") from error
    except ValueError:
        raise SignInFailed(f"{url} did not answer as an OpenID provider does") from None
    if not isinstance(found, dict):
        raise SignInFailed(f"{url} did not answer as an OpenID provider does")
    return found
