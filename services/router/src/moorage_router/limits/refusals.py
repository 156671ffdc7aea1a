"""What a request over a limit is told."""

from moorage_common.errors import OverQuota, Unavailable
from moorage_router.limits.leases import Denied


class OverRate(OverQuota):
    """429 with the fields of the limit that was hit."""

    def __init__(self, message: str, denied: Denied, *, code: str) -> None:
        super().__init__(message, code=code, retry_after_s=denied.retry_after_s)
        self._bucket = denied.bucket

    @property
    def headers(self) -> dict[str, str]:
        """`Retry-After`, and that nothing is left until then."""
        fields = super().headers
        left = f'"{self._bucket.kind}";r=0;t={fields["retry-after"]}'
        return {**fields, "ratelimit-policy": self._bucket.policy, "ratelimit": left}


def refusal(denied: Denied) -> OverQuota | Unavailable:
    """The answer to a denial."""
    bucket = denied.bucket
    if denied.reason == "store":
        message = "the rate limit cannot be checked right now and this tenant's is set to refuse; try again"
        return Unavailable(message, code="limit_store_away", retry_after_s=denied.retry_after_s)
    if bucket.kind == "key":
        message = f"over this key's {bucket.rate:g} requests a second; slow down or ask for a higher rate of the key"
        return OverRate(message, denied, code="key_over_rate")
    if bucket.kind == "model":
        message = f"over {bucket.rate:g} requests a second to {bucket.name}; slow down or ask for a higher rate of it"
        return OverRate(message, denied, code="model_over_rate")
    message = f"over {bucket.rate:g} requests a second; slow down or ask for a higher limit"
    return OverRate(message, denied, code="over_quota")
