"""What scopes are and which key may mint which. Pure."""

import re
from collections.abc import Sequence

from moorage_common.contracts.keys import MODEL_SCOPES, PLAIN_SCOPES
from moorage_common.contracts.names import NAME_MAX, model_glob_matches

ADMIN = "platform:admin"
_GLOB = re.compile(r"^[a-z0-9*-]+$")


def fault_of(scope: str) -> str | None:
    """What is wrong with `scope`, or None. Model scopes are `infer:<glob>`, where only `*` is special."""
    if scope in PLAIN_SCOPES:
        return None
    action, _, glob = scope.partition(":")
    if action in MODEL_SCOPES:
        if _GLOB.match(glob) and len(glob) <= NAME_MAX:
            return None
        return f"scope {scope!r} needs a model name or pattern, such as {action}:fraud-* or {action}:*"
    known = ", ".join(sorted([*PLAIN_SCOPES, *(f"{s}:<model>" for s in MODEL_SCOPES)]))
    return f"there is no scope {scope!r}; the scopes are {known}"


def covers(held: Sequence[str], asked: str) -> bool:
    """Whether a key with the scopes `held` may mint `asked`: everything `asked` allows, one of `held` allows too.

    A `*` in the asked pattern is matched as a plain character: only a `*` of the held one takes it, and a `*` that
    takes it takes all that it may stand for.
    """
    if ADMIN in held or asked in held:
        return True
    action, _, glob = asked.partition(":")
    if action not in MODEL_SCOPES:
        return False
    prefix = f"{action}:"
    return any(s.startswith(prefix) and model_glob_matches(s[len(prefix) :], glob) for s in held)
