"""`explain`, `gpus` and `defragment`: what runs where, why, and how to gather free room."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moorage_sdk.cli.context import AsJson, ModelName, connect, options_of, say
from moorage_sdk.cli.output import print_json
from moorage_sdk.errors import MoorageApiError, SdkError

if TYPE_CHECKING:
    from moorage_common.contracts.answers import Defragmented, Nodes
    from moorage_sdk.client import Client
    from moorage_sdk.pictures.svg import Panel
    from moorage_sdk.pictures.terminal import Style

SvgFile = Annotated[Path | None, typer.Option("--svg", help="Write the picture as SVG.", metavar="FILE")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write the picture as a page.", metavar="FILE")]


def explain(context: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """Say why a model's replicas are where they are, or wait, and what would make them fit."""
    from moorage_sdk.pictures.told import explained  # noqa: PLC0415 - keeps --help quick

    with connect(context) as client:
        found = client.registry.explain(model)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        sys.stdout.write(explained(found))


def gpus(
    context: typer.Context,
    *,
    svg: SvgFile = None,
    html: HtmlFile = None,
    full: Annotated[
        bool | None, typer.Option("--full/--compact", help="A bar a GPU, or a line a node; by size if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw nodes, GPUs and who sits where. A tenant sees its own replicas, and those of others without names."""
    from moorage_sdk.pictures.svg import Panel  # noqa: PLC0415 - keeps --help quick
    from moorage_sdk.pictures.terminal import FULL_NODES_MAX, draw  # noqa: PLC0415

    with connect(context) as client:
        found = nodes_for(client, is_tenant=options_of(context).tenant is not None)
    panels = [Panel("GPUs", found.nodes)]
    written = _write(panels, found, svg, html)
    if as_json:
        print_json(found.model_dump(mode="json"))
    elif not written:
        is_full = len(found.nodes) <= FULL_NODES_MAX if full is None else full
        sys.stdout.write(draw(found.nodes, found.waiting, _style(), full=is_full))


def defragment(
    context: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the moves; make none.")] = False,
    svg: SvgFile = None,
    html: HtmlFile = None,
    as_json: AsJson = False,
) -> None:
    """Gather free GPU by moving replicas, each started anew before it stops: no request is lost (administrators)."""
    from moorage_sdk.pictures.told import defragmented  # noqa: PLC0415 - keeps --help quick

    with connect(context) as client:
        found = client.registry.defragment(dry_run=dry_run)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        sys.stdout.write(defragmented(found))
        if found.moves:
            sys.stdout.write(_before_and_after(found))
    _write(_panels(found), None, svg, html)


def nodes_for(client: "Client", *, is_tenant: bool) -> "Nodes":
    """All of everybody to an administrator in its own name; what a tenant may see otherwise."""
    if not is_tenant:
        try:
            return client.registry.nodes()
        except MoorageApiError as error:
            if error.status != 403:
                raise
    return client.registry.gpus()


def _style() -> "Style":
    from moorage_sdk.pictures.terminal import Style  # noqa: PLC0415 - as above

    return Style(colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def _panels(found: "Defragmented") -> "list[Panel]":
    from moorage_sdk.pictures.moves import changed, moved  # noqa: PLC0415 - as above
    from moorage_sdk.pictures.svg import Panel  # noqa: PLC0415

    marked = frozenset(move.host_id for move in found.moves)
    before = changed(found.nodes, found.moves) or found.nodes
    return [Panel("before", before, marked), Panel("after", moved(before, found.moves), marked)]


def _before_and_after(found: "Defragmented") -> str:
    from moorage_sdk.pictures.terminal import draw  # noqa: PLC0415 - as above

    pictures = (f"\n{panel.title}: {draw(panel.nodes, style=_style(), full=True)}" for panel in _panels(found))
    return "".join(pictures)


def _write(panels: "list[Panel]", found: "Nodes | None", svg: Path | None, html: Path | None) -> bool:
    """Write the files asked for; whether there was one."""
    from moorage_sdk.pictures import svg as drawing  # noqa: PLC0415 - as above

    waiting = found.waiting if found is not None else []
    wanted: list[tuple[Path | None, Callable[[], str]]] = [
        (svg, lambda: drawing.svg(panels)),
        (html, lambda: drawing.html(panels, waiting)),
    ]
    for path, draw in wanted:
        if path is None:
            continue
        try:
            path.write_text(draw(), encoding="utf-8")
        except OSError as error:
            raise SdkError(f"{path} cannot be written: {error.strerror}") from error
        say(f"drawn: {path}")
    return svg is not None or html is not None
