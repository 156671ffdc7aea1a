"""What the feature-proxy knows of a tenant's feature service."""

from dataclasses import dataclass
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from moorage_common.contracts.features import FeatureServiceInfo
from moorage_common.contracts.names import TenantId
from moorage_common.errors import Unavailable, Unprocessable, UpstreamFailed
from moorage_common.secrets import internal_token


@dataclass(frozen=True)
class FeatureServices:
    """The feature-proxy at `url`; empty where the platform runs none."""

    http: httpx.AsyncClient
    url: str
    pepper: str

    async def describe(self, tenant: TenantId, name: str) -> FeatureServiceInfo:
        """The service as it is now. Raises Unprocessable when there is none, Unavailable, UpstreamFailed."""
        unknown = Unprocessable(
            f"there is no feature service {name!r}; upload its definitions first, or push without it",
            code="unknown_feature_service",
        )
        if not self.url:
            raise unknown
        headers = {"authorization": f"Bearer {internal_token(self.pepper)}", "moorage-tenant": tenant}
        url = f"{self.url.rstrip('/')}/v1/features/services/{quote(name, safe='')}"
        try:
            answer = await self.http.get(url, headers=headers)
        except httpx.HTTPError as error:
            message = "the feature-proxy does not answer, so the feature service cannot be pinned; try again"
            raise Unavailable(message, detail=str(error), retry_after_s=2) from error
        if answer.status_code == 404:
            raise unknown
        try:
            answer.raise_for_status()
            return FeatureServiceInfo.model_validate_json(answer.content)
        except (httpx.HTTPStatusError, ValidationError) as error:
            message = "the feature-proxy gave an answer that cannot be used; try again"
            raise UpstreamFailed(message, detail=str(error)) from error
