"""Access rules of HTTP routes: each route has exactly one, said by the dependency that checks it.

An app calls `check_rules` when it is made, so a route that nobody decided about is never served.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastapi import Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute

ANY_KEY = "any key"
"""The rule of routes that every good key may use, for its own tenant's things."""
ANYONE = "anyone"
"""The rule of routes that tell nothing of any tenant."""

_RULE = "moorage_rule"


def ruled(dependency: Callable[..., Any], rule: str) -> Callable[..., Any]:
    """The dependency, marked as what enforces `rule` on the routes that have it."""
    setattr(dependency, _RULE, rule)
    return dependency


def anyone() -> Any:
    """A dependency of routes for everybody."""

    def everybody() -> None: ...

    return Depends(ruled(everybody, ANYONE))


def rules_of(route: APIRoute) -> list[str]:
    """The rules that a request must pass to reach the route."""

    def walk(dependant: Dependant) -> Iterable[str]:
        for dependency in dependant.dependencies:
            rule = getattr(dependency.call, _RULE, None)
            if rule is not None:
                yield rule
            yield from walk(dependency)

    return list(walk(route.dependant))


def check_rules(routes: Sequence[BaseRoute]) -> dict[tuple[str, str], str]:
    """The rule of each (method, path). Raises RuntimeError naming the first route that has none, or more than one."""
    found: dict[tuple[str, str], str] = {}
    for context in iter_route_contexts(routes):
        route = context.original_route
        rules = rules_of(route) if isinstance(route, APIRoute) else []
        if not isinstance(route, APIRoute) or len(rules) != 1:
            message = f"{route} must have exactly one access rule"
            raise RuntimeError(message)
        found |= {(method, str(context.path)): rules[0] for method in route.methods or ()}
    return found
