"""`traffic`."""

from typing import TYPE_CHECKING, Annotated

import typer

from moorage_sdk.cli.context import AsJson, ModelName, connect, parse_weights
from moorage_sdk.cli.output import print_json, print_line, print_rows

if TYPE_CHECKING:
    from moorage_sdk.answers import Shadow, Traffic

SHADOW_COLUMNS = ("shadow", "ok", "failed", "agreed", "disagreed", "left_out", "model_ms", "served_model_ms")


def traffic(
    context: typer.Context,
    *,
    model: ModelName,
    weights: Annotated[
        list[str] | None, typer.Argument(help="VERSION=PERCENT of every version, adding up to 100.")
    ] = None,
    sticky: Annotated[
        str | None, typer.Option(help="What keeps a caller at one version: header:x-user, entity:account, none.")
    ] = None,
    reshuffle: Annotated[bool, typer.Option("--reshuffle", help="Draw anew who gets which version.")] = False,
    shadow: Annotated[
        list[str] | None, typer.Option(help="Version that gets copies of so much, such as 3=5; none ends all.")
    ] = None,
    ring: Annotated[
        list[str] | None, typer.Option(help="So much of a ring goes to a version, such as beta:3=50; none ends all.")
    ] = None,
    copies_to_code: Annotated[
        bool, typer.Option("--copies-to-code", help="Accept that a --shadow that is code acts on copies.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how a model's traffic is split, or set it: moorage traffic digits 1=90 2=10. What is not named stays."""
    from moorage_sdk.sharing import TrafficChange, parse_rings, parse_shadows  # noqa: PLC0415 - keeps --help quick

    change = TrafficChange(
        weights=parse_weights(weights) if weights else None,
        sticky=sticky,
        reshuffle=reshuffle,
        shadows=parse_shadows(shadow) if shadow else None,
        rings=parse_rings(ring) if ring else None,
        copies_to_code=copies_to_code,
    )
    with connect(context) as client:
        found = client.registry.traffic(model) if change.is_empty else client.change_traffic(model, change)
        has_shadow = any(arm.role == "shadow" for arm in found.arms)
        shadows = client.registry.shadows(model) if has_shadow and change.is_empty else []
    if as_json:
        print_json({**found.model_dump(mode="json"), "shadows": [one.model_dump(mode="json") for one in shadows]})
        return
    _show(found, shadows)


def _show(found: "Traffic", shadows: "list[Shadow]") -> None:
    rows = [{"version": arm.version, "percent": arm.weight_bp / 100, "role": arm.role} for arm in found.arms]
    print_rows(rows, ["version", "percent", "role"])
    if found.owner != "manual":
        print_line(f"moved by {found.owner.replace(':', ' ')}")
    if found.stickiness is not None:
        print_line(f"sticky by {found.stickiness.by} {found.stickiness.name}")
    if found.rings:
        print_line("")
        rings = [{"ring": one.ring, "version": one.version, "percent": one.weight_bp / 100} for one in found.rings]
        print_rows(rows=rings, columns=["ring", "version", "percent"])
    if shadows:
        print_line("")
        print_rows([_shadow_row(one) for one in shadows], SHADOW_COLUMNS)


def _shadow_row(shadow: "Shadow") -> dict[str, object]:
    ok = shadow.outcomes.get("ok", 0)
    return {
        "shadow": shadow.version,
        "ok": ok,
        "failed": sum(shadow.outcomes.values()) - ok,
        "agreed": shadow.agreed,
        "disagreed": shadow.disagreed,
        "left_out": sum(shadow.shed.values()),
        "model_ms": shadow.model_ms,
        "served_model_ms": shadow.served_model_ms,
    }
