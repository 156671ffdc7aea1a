"""The tenant `demo` and its key: made on the first start, found again on later ones."""

import dataclasses

from moorage_common.contracts.keys import MODEL_SCOPES, PLAIN_SCOPES
from moorage_local.services import TENANT, Plan
from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError

SCOPES = sorted(
    [f"{scope}:*" for scope in MODEL_SCOPES] + [scope for scope in PLAIN_SCOPES if scope != "platform:admin"]
)


def ensure_tenant(plan: Plan) -> str:
    """The demo tenant's key, which may do everything but administer the platform; noted in `secrets.json`."""
    held = plan.credentials.demo_key
    if held and _works(plan, held):
        return held
    with Client(plan.registry_url, plan.router_url, plan.credentials.admin_key) as admin:
        try:
            admin.registry.create_tenant(TENANT)
        except MoorageApiError as error:
            if error.status != 409:
                raise
    with Client(plan.registry_url, plan.router_url, plan.credentials.admin_key, tenant=TENANT) as admin:
        key = str(admin.registry.create_key(SCOPES)["key"])
    dataclasses.replace(plan.credentials, demo_key=key).save(plan.state)
    return key


def _works(plan: Plan, key: str) -> bool:
    with Client(plan.registry_url, plan.router_url, key) as client:
        try:
            return bool(client.registry.whoami()["tenant"] == TENANT)
        except MoorageApiError as error:
            if error.status != 401:
                raise
            return False
