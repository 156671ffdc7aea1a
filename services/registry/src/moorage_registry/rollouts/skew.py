"""Whether a candidate's feature service still is the one that its version pinned, asked every few seconds."""

import asyncio
from dataclasses import dataclass, field

from moorage_common.clock import Clock
from moorage_common.contracts.names import TenantId
from moorage_common.errors import MoorageError
from moorage_registry.catalog.feature_services import FeatureServices

ASK_EACH_S = 2.0
FORGET_S = 60.0


@dataclass
class _Known:
    asked_for_at: float
    fingerprint: str | None = None
    trouble: str = "it has not been asked yet"


@dataclass
class SkewGate:
    """The fingerprints of the feature services that running rollouts depend on."""

    features: FeatureServices
    clock: Clock
    _known: dict[tuple[TenantId, str], _Known] = field(default_factory=dict)

    def fault(self, tenant: TenantId, version: int, service: str | None, pinned: str | None) -> str | None:
        """Why the version may get no traffic, as a sentence; None where its features are as it pinned them."""
        if service is None:
            return None
        known = self._known.setdefault((tenant, service), _Known(0.0))
        known.asked_for_at = self.clock()
        if known.fingerprint is None:
            return (
                f"Whether feature service {service} is still what version {version} pinned is unknown: {known.trouble}"
            )
        if known.fingerprint != pinned:
            return (
                f"Feature service {service} has changed since version {version} was pushed (fingerprint "
                f"{known.fingerprint:.12}, pinned {pinned:.12}): restore it, or push the version anew"
            )
        return None

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            now = self.clock()
            self._known = {k: one for k, one in self._known.items() if now - one.asked_for_at < FORGET_S}
            await asyncio.gather(*(self._ask(*place, one) for place, one in list(self._known.items())))
            await asyncio.sleep(ASK_EACH_S)

    async def _ask(self, tenant: TenantId, service: str, known: _Known) -> None:
        try:
            known.fingerprint = (await self.features.describe(tenant, service)).fingerprint
        except MoorageError as error:
            known.fingerprint, known.trouble = None, error.message
