"""Signing in by device flow at a provider on a loopback port that says what a test has it say."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from moorage_sdk.errors import SignInFailed
from moorage_sdk.oidc import Prompt, device_token, discover


@dataclass
class Provider:
    """`started` answers the start of a flow, `answers` the questions for the token in turn, the last one for good."""

    url: str = ""
    started: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    discovery: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, form, time.monotonic()))
        if path.endswith("openid-configuration"):
            return 200, self.discovery
        if path == "/device":
            return 200, self.started
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return (400 if "error" in said else 200), said


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._say({name: values[0] for name, values in parse_qs(body).items()})

        def _say(self, form: dict[str, str]) -> None:
            status, said = found.answer(self.path, form)
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        found.discovery = {
            "issuer": found.url,
            "device_authorization_endpoint": f"{found.url}/device",
            "token_endpoint": f"{found.url}/token",
        }
        found.started = {
            "device_code": "d",
            "user_code": "ABCD-EFGH",
            "verification_uri": f"{found.url}/device-page",
            "expires_in": 5,
            "interval": 0.05,
        }
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()


def sign_in(provider: Provider, token: str = "access_token") -> tuple[str, list[Prompt]]:
    shown: list[Prompt] = []
    with httpx.Client(timeout=5, trust_env=False) as http:
        return device_token(http, discover(http, provider.url, "moorage-cli", token), shown.append), shown


def test_the_person_is_shown_where_to_go_and_the_token_comes_once_they_have(provider: Provider) -> None:
    provider.answers = [{"error": "authorization_pending"}] * 2 + [{"access_token": "a", "id_token": "i"}]
    token, (shown,) = sign_in(provider)
    assert (token, shown.code, shown.url) == ("a", "ABCD-EFGH", f"{provider.url}/device-page")
    assert [form["client_id"] for path, form, _ in provider.asked if path == "/token"] == ["moorage-cli"] * 3


def test_the_token_that_the_platform_takes_is_sent(provider: Provider) -> None:
    provider.answers = [{"access_token": "a", "id_token": "i"}]
    assert sign_in(provider, "id_token")[0] == "i"


def test_the_provider_is_asked_no_more_often_than_it_allows(provider: Provider) -> None:
    provider.started["interval"] = 0.3
    provider.answers = [{"error": "authorization_pending"}] * 2 + [{"access_token": "a"}]
    sign_in(provider)
    times = [at for path, _, at in provider.asked if path in ("/device", "/token")]
    assert all(later - earlier >= 0.29 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"error": "access_denied", "error_description": "The user said no"}, "The user said no"),
        ({"error": "expired_token"}, "expired_token"),
        ({"token_type": "Bearer"}, "no reason given"),
    ],
)
def test_a_sign_in_that_ends_without_a_token_says_why(provider: Provider, said: dict[str, str], text: str) -> None:
    provider.answers = [said]
    with pytest.raises(SignInFailed, match=text):
        sign_in(provider)


def test_nobody_is_waited_for_beyond_the_codes_lifetime(provider: Provider) -> None:
    provider.started["expires_in"] = 0.5
    provider.answers = [{"error": "authorization_pending"}]
    with pytest.raises(SignInFailed, match="in time"):
        sign_in(provider)


def test_being_told_to_slow_down_costs_five_seconds_more_a_question(provider: Provider) -> None:
    provider.started["expires_in"] = 1
    provider.answers = [{"error": "slow_down"}, {"access_token": "too early"}]
    with pytest.raises(SignInFailed, match="in time"):
        sign_in(provider)
    assert len([path for path, _, _ in provider.asked if path == "/token"]) == 1


@pytest.mark.parametrize("wrong", ["javascript:alert(1)", "file:///etc/passwd", 7])
def test_no_address_but_a_web_page_is_shown(provider: Provider, wrong: object) -> None:
    provider.started["verification_uri"] = wrong
    with pytest.raises(SignInFailed, match="did not start"):
        sign_in(provider)


def test_a_provider_that_says_it_is_another_or_has_no_device_flow_is_refused(provider: Provider) -> None:
    provider.discovery["issuer"] = "https://elsewhere.example"
    with pytest.raises(SignInFailed, match=r"elsewhere\.example"):
        sign_in(provider)
    provider.discovery = {"issuer": provider.url, "token_endpoint": f"{provider.url}/token"}
    with pytest.raises(SignInFailed, match="no device flow"):
        sign_in(provider)


def test_a_provider_that_is_away_is_named() -> None:
    with pytest.raises(SignInFailed, match="did not answer"), httpx.Client(timeout=1, trust_env=False) as http:
        discover(http, "http://127.0.0.1:9", "moorage-cli", "access_token")
