"""Pictures: the same data gives the same text, to the character, and no name escapes from it."""

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.answers import (
    Defragmented,
    DeviceView,
    Explanation,
    Figures,
    Moved,
    NodeView,
    Placement,
    Removed,
    Seat,
    VersionExplanation,
    Waiting,
)
from moorage_sdk.pictures import terminal
from moorage_sdk.pictures.moves import moved
from moorage_sdk.pictures.svg import Panel, html, svg
from moorage_sdk.pictures.terminal import Style
from moorage_sdk.pictures.told import defragmented, explained

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def seat(number: int, milli: int, *devices: int, model: str = "digits", **more: object) -> Seat:
    told = {"host_id": f"demo.{model}.1.{number}", "tenant": "demo", "model": model, "version": 1, "state": "ready"}
    return Seat.model_validate({**told, "devices": list(devices), "gpu_milli": milli, **more})


def device(number: int, *seats: Seat) -> DeviceView:
    return DeviceView(
        device=number,
        free_milli=1000 - sum(one.gpu_milli for one in seats),
        mem_mib=16384,
        free_mib=8192,
        seats=list(seats),
    )


def node(name: str, *devices: DeviceView, **more: object) -> NodeView:
    told = {"name": name, "gpu_model": "T4", "cpu_milli": 8000, "free_cpu_milli": 4500, "mem_mib": 65536}
    return NodeView.model_validate({**told, "free_mem_mib": 53248, "devices": list(devices), **more})


OTHERS = Seat(gpu_milli=250, devices=[0])
HALF = node("a", device(0, seat(1, 500, 0), OTHERS), device(1))
EIGHTS = Style(width=8)


def test_a_device_is_a_bar_of_who_sits_on_it() -> None:
    waiting = [Waiting(tenant="demo", model="digits", version=2, replicas=2, reason="no node has room")]
    drawn = terminal.draw([HALF], waiting, EIGHTS, full=True)
    assert drawn == (
        "1 node, 2 GPUs, 37.5 % held, 1 wholly free\n"
        "\n"
        "a  T4  CPU 3.5 of 8  memory 12Gi of 64Gi\n"
        "    0 ████▓▓··  0.75 8Gi/16Gi  demo/digits v1 0.5, others 0.25\n"
        "    1 ········     0 8Gi/16Gi  free\n"
        "\n"
        "2 replicas without a place:\n"
        "  2 x demo/digits v2: no node has room\n"
    )


def test_what_is_out_of_the_ordinary_is_said() -> None:
    first, second = seat(1, 800, 0, state="loading", pinned=True), seat(2, 400, 0, scheduling_class="scavenger")
    view = node("b", device(0, first, second), drained=True, seats=[seat(3, 0)])
    assert terminal.draw([view], style=EIGHTS, full=True).endswith(
        "b  T4  CPU 3.5 of 8  memory 12Gi of 64Gi  draining, 3 replicas left\n"
        "    0 ██████▓▓   1.2 8Gi/16Gi OVER by 0.2  demo/digits v1 0.8 (loading, pinned), "
        "demo/digits v1 0.4 (scavenger)\n"
        "  CPU demo/digits v1\n"
    )


def test_a_large_cluster_is_a_line_a_node() -> None:
    empty = NodeView(name="longer", drained=True)
    assert terminal.draw([HALF, empty], style=EIGHTS, full=False) == (
        "2 nodes, 2 GPUs, 37.5 % held, 1 wholly free, 1 node drained\n"
        "\n"
        "a       T4  ▆·        0.75 of 2\n"
        "longer                no GPU  drained\n"
    )


def test_colours_show_edges_to_an_eighth_of_a_cell() -> None:
    one, two = seat(1, 300, 0), seat(2, 200, 0, model="churn")
    first, second = terminal.colour_of(one), terminal.colour_of(two)
    assert first != second
    assert terminal.bar([one, two], Style(width=4, colour=True)) == (
        f"\x1b[0;38;5;{first}m█\x1b[0;38;5;{first};48;5;{second}m▎\x1b[0;38;5;245m··\x1b[0m"
    )


@given(st.lists(st.integers(0, 1000), max_size=12), st.integers(1, 60))
def test_a_bar_is_as_wide_as_it_was_asked_to_be(shares: list[int], width: int) -> None:
    seats = [seat(number, milli, 0) for number, milli in enumerate(shares)]
    assert len(terminal.bar(seats, Style(width=width))) == width
    coloured = terminal.bar(seats, Style(width=width, colour=True))
    assert len(re.sub(r"\x1b\[[0-9;]*m", "", coloured)) == width


HOSTILE = "\x1b[2J</title><script>alert(1)</script>&\"'\u202e\x00"


@given(st.text(min_size=1, max_size=80))
def test_no_name_breaks_the_picture(text: str) -> None:
    for name in (text, HOSTILE):
        bad = seat(1, 500, 0, model=name, host_id=name, tenant=name)
        view = node(name, device(0, bad), gpu_model=name, seats=[bad])
        waiting = [Waiting(tenant=name, model=name, reason=name)]
        panels = [Panel(name, [view], frozenset({name}))]
        drawing = ElementTree.fromstring(svg(panels))
        assert not [part for part in drawing.iter() if part.tag.endswith("script")]
        page = ElementTree.fromstring(html(panels, waiting))
        assert not [part for part in page.iter() if part.tag.endswith("script")]
        shown = terminal.draw([view], waiting, EIGHTS, full=True) + terminal.draw([view], full=False)
        assert all(letter.isprintable() for letter in shown.replace("\n", ""))
        assert len(shown.splitlines()) == 11


def test_svg_draws_each_share_to_scale_and_outlines_what_is_marked() -> None:
    drawing = ElementTree.fromstring(svg([Panel("GPUs", [HALF], frozenset({"demo.digits.1.1"}))]))
    namespace = "{http://www.w3.org/2000/svg}"
    rects = [rect.attrib for rect in drawing.iter(f"{namespace}rect")]
    (marked,) = [rect for rect in rects if rect.get("class") == "m"]
    (grey,) = [rect for rect in rects if rect.get("fill") == "#9aa1ab"]
    (first, second) = [rect for rect in rects if rect.get("class") == "d"]
    assert (int(marked["width"]), int(grey["width"])) == (int(first["width"]) // 2, int(first["width"]) // 4)
    assert int(grey["x"]) == int(marked["x"]) + int(marked["width"])
    assert int(second["x"]) > int(first["x"])
    titles = [title.text for title in drawing.iter(f"{namespace}title")]
    assert "demo/digits v1: 0.5 (demo.digits.1.1)" in titles
    assert "device 0: 0.25 free, 8192 MiB free" in titles


def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page, picture = tmp_path / "gpus.html", tmp_path / "gpus.png"
    page.write_text(html([Panel("GPUs", [HALF])]), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert picture.stat().st_size > 1000


MOVE = Moved(
    host_id="demo.digits.1.1", tenant="demo", model="digits", version=1, gpu_milli=500, from_node="a", from_devices=[0],
    to_node="c", to_devices=[1],
)  # fmt: skip


def test_nodes_after_moves_hold_the_same_replicas_elsewhere() -> None:
    source, target = moved([HALF, node("c", device(0), device(1, seat(9, 400, 1)))], [MOVE])
    assert [(one.free_milli, one.free_mib) for one in source.devices] == [(750, 8192), (1000, 8192)]
    assert [(one.free_milli, len(one.seats)) for one in target.devices] == [(1000, 0), (100, 2)]
    assert moved([HALF], []) == [HALF]


def test_a_defragmentation_is_its_figures_and_moves() -> None:
    before, after = Figures(free_milli=1250, fragmented_milli=750.0), Figures(free_milli=1250, free_devices=1)
    assert defragmented(Defragmented(moves=[MOVE], before=before, after=after)) == (
        "                      before     after\n"
        "free GPU                1.25      1.25\n"
        "fragmented GPU          0.75         0\n"
        "wholly free GPUs           0         1\n"
        "largest free run           0         0\n"
        "1 move (dry run):\n"
        "  demo.digits.1.1 (0.5): a GPU 0 -> c GPU 1\n"
    )
    assert defragmented(Defragmented()).startswith("nothing to gather")


def test_an_explanation_tells_each_filter_and_what_would_help() -> None:
    version = VersionExplanation(
        version=1,
        wanted=2,
        placed=[Placement(host_id="h1", state="ready", node="a", devices=[0], gpu_milli=500, why="best fit")],
        waiting=1,
        reason="no node has room",
        nodes=12,
        removed=[Removed(filter="gpu_model", nodes=8, reason="its GPU is T4"), Removed(filter="gpu_room", nodes=4)],
        would_fit=["gpu 0.25"],
    )
    assert explained(Explanation(model="digits", versions=[version])) == (
        "digits version 1: 2 wanted, 1 placed, 1 without a place\n"
        "  h1  ready  a GPU 0 (0.5)  best fit\n"
        "  no node has room\n"
        "  of 12 nodes:\n"
        "    gpu_model       8 out  its GPU is T4\n"
        "    gpu_room        4 out\n"
        "  it would fit with:\n"
        "    - gpu 0.25\n"
    )
