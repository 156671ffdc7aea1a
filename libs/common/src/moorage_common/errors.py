"""One small error tree. `message` is for the caller and says what to do; `detail` is for logs and never leaves.

    MoorageError
    ├── BadRequest 400          ├── TooLarge 413
    ├── Unauthenticated 401     ├── Unprocessable 422
    ├── Forbidden 403           ├── OverQuota 429        (retry_after_s)
    ├── NotFound 404            ├── UpstreamFailed 502
    ├── Conflict 409            ├── Unavailable 503      (retry_after_s)
    └── Internal 500            └── DeadlineExceeded 504

`code` is stable, lower-case with underscores, and listed in docs/failure-modes.md.
"""

from typing import ClassVar


class MoorageError(Exception):
    """Any failure with an answer for the caller."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, code: str | None = None, detail: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, at least 1, where the caller may try again."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, -int(-self.retry_after_s // 1)))}


class BadRequest(MoorageError):
    status = 400
    default_code = "bad_request"


class Unauthenticated(MoorageError):
    status = 401
    default_code = "unauthenticated"


class Forbidden(MoorageError):
    status = 403
    default_code = "forbidden"


class NotFound(MoorageError):
    status = 404
    default_code = "not_found"


class Conflict(MoorageError):
    status = 409
    default_code = "conflict"


class TooLarge(MoorageError):
    status = 413
    default_code = "too_large"


class Unprocessable(MoorageError):
    status = 422
    default_code = "unprocessable"


class OverQuota(MoorageError):
    status = 429
    default_code = "over_quota"


class Internal(MoorageError):
    pass


class UpstreamFailed(MoorageError):
    status = 502
    default_code = "upstream_failed"


class Unavailable(MoorageError):
    status = 503
    default_code = "unavailable"


class DeadlineExceeded(MoorageError):
    status = 504
    default_code = "deadline_exceeded"
