"""The command's tree: every group's commands under one `moorage`."""

from typing import Annotated

import typer

from moorage_sdk.cli import (
    account,
    bench,
    catalog,
    deployments,
    feedback,
    gpus,
    inference,
    keys,
    ledger,
    manifests,
    members,
    nodes,
    platform,
    quota,
    rings,
    rollouts,
    scheduler,
    simulate,
    tenants,
    traffic,
)
from moorage_sdk.cli.context import Options

app = typer.Typer(
    name="moorage",
    help="Push, deploy and call models on Moorage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    context: typer.Context,
    profile: Annotated[str | None, typer.Option(help="Profile to use, as written by `moorage login`.")] = None,
    registry: Annotated[str | None, typer.Option(help="The registry's address [env MOORAGE_REGISTRY].")] = None,
    router: Annotated[str | None, typer.Option(help="The router's address [env MOORAGE_ROUTER].")] = None,
    tenant: Annotated[str | None, typer.Option(help="Act for this tenant (administrators).")] = None,
) -> None:
    """Push, deploy and call models on Moorage."""
    context.obj = Options(profile=profile, registry=registry, router=router, tenant=tenant)


app.command()(account.login)
app.command()(account.logout)
app.command()(account.whoami)
app.command()(catalog.push)
app.command()(catalog.models)
app.command()(catalog.versions)
app.command()(deployments.deploy)
app.command("apply")(manifests.apply_manifests)
app.command()(traffic.traffic)
app.command()(deployments.status)
app.command()(deployments.logs)
app.add_typer(rollouts.app, name="rollout")
app.command()(gpus.explain)
app.command()(inference.infer)
app.command()(feedback.feedback)
app.command()(bench.bench)
app.command()(ledger.usage)
app.command()(ledger.events)
app.command()(gpus.gpus)
app.command()(gpus.defragment)
app.add_typer(rings.app, name="rings")
app.add_typer(nodes.app, name="nodes")
app.add_typer(quota.app, name="quota")
app.add_typer(scheduler.app, name="scheduler")
app.add_typer(keys.app, name="keys")
app.add_typer(members.app, name="members")
app.add_typer(tenants.app, name="tenants")
app.command(epilog=simulate.EPILOG)(simulate.simulate)
app.command()(platform.up)
