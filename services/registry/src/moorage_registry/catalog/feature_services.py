"""What the feature-proxy knows of a tenant's features, and having it forget them."""

from dataclasses import dataclass
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from moorage_common.contracts.features import FeatureServiceInfo, FeaturesForgotten
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

    async def forget(self, tenant: TenantId) -> None:
        """Remove the tenant's definitions and the values in the online store. Raises Unavailable, UpstreamFailed."""
        cursor = 0
        while self.url:
            forgotten = await self._forget_some(tenant, cursor)
            cursor = forgotten.cursor
            if cursor == 0:
                return

    async def _forget_some(self, tenant: TenantId, cursor: int) -> FeaturesForgotten:
        headers = {"authorization": f"Bearer {internal_token(self.pepper)}", "moorage-tenant": tenant}
        url = f"{self.url.rstrip('/')}/v1/features"
        try:
            answer = await self.http.delete(url, headers=headers, params={"cursor": cursor}, timeout=30.0)
        except httpx.HTTPError as error:
            message = "the feature-proxy does not answer, so features cannot be removed"
            raise Unavailable(message, detail=str(error), retry_after_s=2) from error
        try:
            answer.raise_for_status()
            return FeaturesForgotten.model_validate_json(answer.content)
        except (httpx.HTTPStatusError, ValidationError) as error:
            message = "the feature-proxy could not remove the features"
            raise UpstreamFailed(message, detail=str(error)) from error
