"""What the SDK raises.

SdkError                 every failure below; its text says what to do
├── NotConfigured        no registry, router or key is set
├── MoorageApiError      the platform refused or could not be reached
├── ModelRefused         a model or file that is not accepted as it is
├── VersionRejected      validation of a pushed version failed
├── RolledBack           a rollout that was waited for was rolled back or aborted
├── SignInFailed         a person's sign-in at the identity provider ended without a token
├── WaitTimedOut         what was waited for did not happen in time
├── InvalidManifest      a manifest that cannot be applied
└── InvalidQuantity      `gpu: 1.5`, `memory: 4GB`
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage_sdk.rollouts_answers import Rollout


class SdkError(Exception):
    """A failure with a text for people."""


class NotConfigured(SdkError):
    """A setting is missing: where to set it is in the text."""


class MoorageApiError(SdkError):
    """An answer of the platform that is not a success.

    Attributes:
        status: HTTP status, or 0 where no answer came.
        code: the platform's stable error code (`over_quota`, `not_found`, ...), or `unreachable` or `timed_out`.
        message: the platform's own text.
        retry_after: seconds after which to try again, where the platform said so.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


class ModelRefused(SdkError):
    """The model is not taken in this form; the text shows the form that is."""


class VersionRejected(SdkError):
    """A host answered the examples otherwise than the pusher's model did, or could not load it."""


class RolledBack(SdkError):
    """The candidate has no traffic any more; the text says why, `rollout` is how it ended."""

    def __init__(self, message: str, rollout: "Rollout") -> None:
        super().__init__(message)
        self.rollout = rollout


class SignInFailed(SdkError):
    """Nobody is signed in; the text says why, and who can help."""


class WaitTimedOut(SdkError):
    """The platform goes on with it; only the waiting ended."""


class InvalidManifest(SdkError):
    """The manifest has an unknown field, a missing one or a value of the wrong form."""


class InvalidQuantity(SdkError, ValueError):
    """A share of a GPU, a CPU or an amount of memory that cannot be read."""
