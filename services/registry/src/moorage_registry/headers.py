"""Headers that traffic may be shared out by: those of a tenant's callers, not the platform's. Pure."""

import re

NAME_MAX = 64
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""RFC 9110, section 5.6.2, in lower case."""
_OURS = "moorage-"
_TAKEN = frozenset(
    {
        "authorization", "proxy-authorization", "cookie", "host", "connection", "keep-alive", "te", "trailer",
        "upgrade", "transfer-encoding", "content-length", "content-type", "content-encoding", "expect", "date",
        "traceparent", "tracestate", "inference-header-content-length",
    }
)  # fmt: skip


def fault_of(name: str) -> str | None:
    """What is wrong with a header's name, in lower case, or None."""
    if not _TOKEN.fullmatch(name) or len(name) > NAME_MAX:
        return f"{name[:NAME_MAX]!r} is no header's name; write one such as x-user, at most {NAME_MAX} characters"
    if name in _TAKEN or name.startswith(_OURS):
        return f"the header {name} has a meaning of its own; have callers send one for this, such as x-user"
    return None
