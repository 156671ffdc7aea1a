"""What the router serves: every operation with its access rule. A path that is not here does not exist."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from moorage_common.errors import MoorageError, NotFound


class Rule(StrEnum):
    """Who may use an operation."""

    ANYONE = "anyone"
    ANY_KEY = "any key"
    INFER = "infer:{model}"
    LABEL = "infer:{model} or feedback:{model}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        parts: the path from its first part on; `{model}` and `{version}` stand for what callers name.
        has_tenant: whether the path exists below `/t/{tenant}` too.
    """

    name: str
    method: str
    parts: tuple[str, ...]
    rule: Rule
    has_tenant: bool = True

    @property
    def path(self) -> str:
        """Its template."""
        return "/" + "/".join(self.parts)

    def named(self, parts: tuple[str, ...]) -> Mapping[str, str] | None:
        """What a path names for the template's places; None where the path is another one's."""
        if len(parts) != len(self.parts):
            return None
        found = {}
        for own, part in zip(self.parts, parts, strict=True):
            if own.startswith("{"):
                found[own[1:-1]] = part
            elif own != part:
                return None
        return found


def _operation(name: str, method: str, path: str, rule: Rule, *, has_tenant: bool = True) -> Operation:
    return Operation(name, method, tuple(path[1:].split("/")), rule, has_tenant)


_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"

OPERATIONS = (
    _operation("document", "GET", "/openapi.json", Rule.ANYONE, has_tenant=False),
    _operation("server", "GET", "/v2", Rule.ANYONE),
    _operation("live", "GET", "/v2/health/live", Rule.ANYONE),
    _operation("server_ready", "GET", "/v2/health/ready", Rule.ANYONE),
    _operation("models", "GET", "/v2/models", Rule.ANY_KEY),
    _operation("all_stats", "GET", "/v2/models/stats", Rule.ANY_KEY),
    _operation("index", "POST", "/v2/repository/index", Rule.ANY_KEY),
    *(
        operation
        for below in (_MODEL, _VERSION)
        for operation in (
            _operation("metadata", "GET", below, Rule.INFER),
            _operation("ready", "GET", f"{below}/ready", Rule.INFER),
            _operation("stats", "GET", f"{below}/stats", Rule.INFER),
            _operation("infer", "POST", f"{below}/infer", Rule.INFER),
        )
    ),
    _operation("feedback", "POST", f"{_MODEL}/feedback", Rule.LABEL),
)
"""In the order they are looked for in: a model that is called `stats` is found by `all_stats`."""


def find(method: str, parts: tuple[str, ...]) -> tuple[Operation, Mapping[str, str]]:
    """The operation and what its path names. HEAD is GET without a body. Raises NotFound, or 405 with what is taken."""
    wanted = "GET" if method == "HEAD" else method
    allowed = []
    for operation in OPERATIONS:
        named = operation.named(parts)
        if named is not None:
            if operation.method == wanted:
                return operation, named
            allowed.append(operation.method)
    raise method_not_allowed(allowed[0]) if allowed else no_such_path()


def no_such_path() -> NotFound:
    return NotFound("no such path; inference is POST /v2/models/<model>/infer", code="path_not_found")


class _MethodNotAllowed(MoorageError):
    status = 405
    default_code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this path takes {allowed}")
        self._allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return {"allow": self._allowed}


def method_not_allowed(allowed: str) -> MoorageError:
    """405 with the method that the path takes."""
    return _MethodNotAllowed(allowed)
