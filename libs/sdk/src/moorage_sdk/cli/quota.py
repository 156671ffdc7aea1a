"""`quota show | set`."""

from typing import Annotated, Any

import typer

from moorage_sdk.cli.context import AsJson, connect, parse_pairs, say
from moorage_sdk.cli.output import print_json, print_line, print_rows
from moorage_sdk.errors import MoorageApiError, SdkError

app = typer.Typer(help="GPU shares and limits of tenants.", invoke_without_command=True)

ANY = "any"
"""How the command names the share of all GPU models without an entry of their own."""
_FORM = "MODEL=GPUS such as H100=2"
_OPTIONS = (
    "--plan, --weight, --rate, --burst, --concurrent, --body, --month, --model-rate, --drop-model-rate, --store-loss, "
    "--gpu, --cpu, --memory, --guarantee, --borrow, --drop or --allow-code"
)


@app.callback()
def quota(context: typer.Context) -> None:
    """Show GPU shares, limits and the month's use; of every tenant to administrators. `quota set` changes them."""
    if context.invoked_subcommand is None:
        show(context)


@app.command()
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Show what is guaranteed, borrowed, held and waits, in GPUs; then rates, plan, weight and the month's use."""
    from moorage_sdk.limits import LIMIT_COLUMNS, limit_rows  # noqa: PLC0415 - keeps --help quick
    from moorage_sdk.pictures.told import SHARE_COLUMNS, share_rows  # noqa: PLC0415 - keeps --help quick

    with connect(context) as client:
        limits = client.registry.limits()
        try:
            found = client.registry.quota()
        except MoorageApiError as refused:
            if as_json or refused.code != "scheduler_silent":
                raise
            print_rows(limit_rows(limits), LIMIT_COLUMNS)
            say(f"GPU shares cannot be told: {refused}")
            return
    if as_json:
        print_json({**found.model_dump(mode="json"), "limits": limits})
        return
    print_rows(share_rows(found), SHARE_COLUMNS)
    print_line("")
    print_rows(limit_rows(limits), LIMIT_COLUMNS)
    for line in found.overcommitted:
        say(f"warning: {line}")


@app.command("set")
def set_quota(
    context: typer.Context,
    *,
    tenant: Annotated[str, typer.Argument(help="The tenant.")],
    plan: Annotated[str | None, typer.Option(help="Such as free, standard, premium; sets what the plan does.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once after a pause.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Requests being answered at a time.")] = None,
    body: Annotated[str | None, typer.Option(help="The largest body of a request, such as 16Mi.")] = None,
    month: Annotated[str | None, typer.Option(help="Requests a calendar month, such as 100000, or any.")] = None,
    model_rate: Annotated[
        list[str] | None, typer.Option(help="Of one model, such as digits=50 or, with a burst, digits=50/100.")
    ] = None,
    drop_model_rate: Annotated[list[str] | None, typer.Option(help="Model whose rate goes.", metavar="MODEL")] = None,
    store_loss: Annotated[
        str | None, typer.Option(help="What happens when limits cannot be checked: local, closed or open.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="The most GPUs it may hold in all, such as 4 or 0.5.")] = None,
    cpu: Annotated[str | None, typer.Option(help="The most CPU its deployments may grow to, such as 64.")] = None,
    memory: Annotated[str | None, typer.Option(help="The most memory they may grow to, such as 256Gi.")] = None,
    guarantee: Annotated[
        list[str] | None, typer.Option(help="Its own whenever it asks, such as H100=2; any=2 for all other models.")
    ] = None,
    borrow: Annotated[
        list[str] | None, typer.Option(help="Most beyond the guarantee, such as H100=4 or H100=any.")
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(help="Of its requests where tenants wait, such as 4; or of a GPU model that is free, H100=2."),
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="GPU model whose entry goes.", metavar="MODEL")] = None,
    allow_code: Annotated[
        bool | None, typer.Option("--allow-code/--no-code", help="Whether it may push formats that are code.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set a tenant's shares and limits; what is not given stays (administrators)."""
    from moorage_sdk.limits import changed_rates, changes_of, parse_weights  # noqa: PLC0415 - keeps --help quick

    own_weight, gpu_weight = parse_weights(weight or [])
    changes = changes_of(
        plan=plan, weight=own_weight, rate=rate, burst=burst, concurrent=concurrent, body=body, month=month,
        store_loss=store_loss, gpu=gpu, cpu=cpu, memory=memory, allow_code=allow_code,
    )  # fmt: skip
    with connect(context) as client:
        shares, rates = guarantee or borrow or gpu_weight or drop, model_rate or drop_model_rate
        standing = client.registry.tenant(tenant)["limits"] if shares or rates else {}
        if shares:
            held = standing.get("gpu_shares", [])
            changes["gpu_shares"] = changed_shares(held, guarantee or [], borrow or [], gpu_weight, drop or [])
        if rates:
            held = standing.get("model_rates", [])
            changes["model_rates"] = changed_rates(held, model_rate or [], drop_model_rate or [])
        if not changes:
            raise SdkError(f"nothing to set; give {_OPTIONS}")
        limits = client.registry.set_limits(tenant, changes)
    if as_json:
        print_json(limits)
    else:
        say(f"tenant {tenant}: set {', '.join(sorted(changes))}; see: moorage quota show")


def changed_shares(
    standing: list[dict[str, Any]], guarantee: list[str], borrow: list[str], weight: list[str], drop: list[str]
) -> list[dict[str, Any]]:
    """The shares with these entries changed, made or dropped.

    Raises:
        SdkError: a pair of another form, or a model to drop that has no entry.
        InvalidQuantity: naming the option.
    """
    from moorage_sdk.quantities import parse_gpus  # noqa: PLC0415 - keeps --help quick

    shares = {str(share.get("gpu_model", "")): dict(share) for share in standing}

    def entry(model: str) -> dict[str, Any]:
        key = "" if model == ANY else model
        return shares.setdefault(key, {"gpu_model": key})

    for model in drop:
        if shares.pop("" if model == ANY else model, None) is None:
            raise SdkError(f"--drop {model}: there is no such entry; see: moorage quota show")
    for model, amount in parse_pairs(guarantee, _FORM).items():
        entry(model)["guaranteed_milli"] = parse_gpus(amount, "--guarantee")
    for model, amount in parse_pairs(borrow, f"{_FORM} or H100={ANY}").items():
        entry(model)["borrow_milli"] = None if amount == ANY else parse_gpus(amount, "--borrow")
    for model, amount in parse_pairs(weight, "MODEL=WEIGHT such as H100=2").items():
        try:
            entry(model)["weight"] = float(amount)
        except ValueError:
            raise SdkError(f"--weight {model}={amount}: a weight is a number, such as 2") from None
    return list(shares.values())
