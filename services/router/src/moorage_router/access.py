"""Letting callers in: the one place where an operation's rule is held against who calls. Inference has `Gateway`'s."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.names import is_name
from moorage_common.errors import NotFound
from moorage_common.key_table import require_scope
from moorage_router.bodies import IncomingBody
from moorage_router.calls import Call
from moorage_router.gateway import Gateway
from moorage_router.operations import Rule
from moorage_router.routes import ServedRoute


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that was let in. Its principal and its route are there where the rule asked for them."""

    body: IncomingBody
    model: str = ""
    version: str | None = None
    _principal: KeyRecord | None = field(default=None, repr=False)
    _route: ServedRoute | None = field(default=None, repr=False)

    @property
    def principal(self) -> KeyRecord:
        """Whose key it is. Raises RuntimeError where the operation needs none: it must not act for anybody."""
        if self._principal is None:
            raise RuntimeError("an operation without a key asked whose it is")
        return self._principal

    @property
    def route(self) -> ServedRoute:
        """The model's. Raises RuntimeError where the rule is not about a model."""
        if self._route is None:
            raise RuntimeError("an operation whose rule names no model asked for its route")
        return self._route


class Access:
    """Holds rules against keys."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def admit(self, rule: Rule, call: Call, named: Mapping[str, str], body: IncomingBody) -> Asked:
        """What was asked for, once the rule is kept. Raises Unauthenticated, NotFound, Forbidden."""
        credentials, tenant, model, version = (
            call.credentials,
            call.tenant,
            named.get("model", ""),
            named.get("version"),
        )
        match rule:
            case Rule.ANYONE:
                return Asked(body)
            case Rule.ANY_KEY:
                return Asked(body, _principal=self._gateway.identify(credentials, tenant))
            case Rule.INFER:
                principal, route = self._gateway.authorize(credentials, tenant, model)
                return Asked(body, model, version, principal, route)
            case Rule.LABEL:
                principal = self._gateway.identify(credentials, tenant)
                if not is_name(model):
                    raise NotFound("no model has such a name; `moorage models` lists yours", code="model_not_found")
                if not principal.allows("infer", model):
                    require_scope(principal, "feedback", model)
                return Asked(body, model, version, principal)
