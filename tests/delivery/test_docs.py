"""The documentation: generated pages are current, links lead somewhere, commands and manifests are real."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from moorage_sdk.cli.app import app
from moorage_sdk.manifest import parse_manifests

PAGES = ("*.md", "docs/**/*.md", "deploy/**/*.md", "examples/**/*.md")


def pages(root: Path) -> list[Path]:
    return [path for pattern in PAGES for path in sorted(root.glob(pattern))]


def blocks(root: Path, language: str) -> Iterator[tuple[Path, str]]:
    """Fenced blocks of a language, with the page each is on."""
    for page in pages(root):
        for indent, text in re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)


def command_lines(root: Path, program: str) -> Iterator[tuple[Path, list[str]]]:
    for page, text in blocks(root, "sh"):
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if words[:1] == [program]:
                yield page, words[1:]


@pytest.fixture(scope="session")
def generated(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` would write now."""
    target = tmp_path_factory.mktemp("docs")
    command = [sys.executable, str(root / "docs/generate"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize("name", ["settings.md", "failure-modes.md", "reference/registry.md", "reference/features.md"])
def test_a_generated_page_is_what_the_source_says(root: Path, generated: Path, name: str) -> None:
    assert (root / "docs" / name).read_text() == (generated / name).read_text(), "run make docs and commit the pages"


def test_every_code_written_in_the_source_is_listed(root: Path) -> None:
    """A plain search, apart from the generator: it finds what the generator would overlook."""
    listed = set(re.findall(r"^\| `([a-z0-9_]+)` \|", (root / "docs/failure-modes.md").read_text(), re.MULTILINE))
    written = {
        code
        for folder in ("libs/common", "libs/runtime", "services")
        for path in (root / folder).rglob("src/**/*.py")
        if "testing" not in path.parts
        for code in re.findall(r'\b(?:code|default_code)\s*=\s*"([a-z0-9_]+)"', path.read_text())
    }
    raised_only_with_own_codes = {
        "bad_request",
        "forbidden",
        "unauthenticated",
        "not_found",
        "conflict",
        "unprocessable",
    }
    assert written - raised_only_with_own_codes <= listed


def test_every_link_inside_the_repository_leads_somewhere(root: Path) -> None:
    broken = [
        (page.relative_to(root), target)
        for page in pages(root)
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if "://" not in target and not (page.parent / target.split("#")[0]).exists()
    ]
    assert not broken


def test_every_page_is_reached_from_the_readme(root: Path) -> None:
    reached, open_pages = set(), [root / "README.md"]
    while open_pages:
        page = open_pages.pop()
        if page in reached or not page.is_file() or page.suffix != ".md":
            continue
        reached.add(page)
        targets = re.findall(r"\]\(([^)\s#]+)", page.read_text())
        open_pages += [(page.parent / target).resolve() for target in targets if "://" not in target]
        open_pages += [
            path for target in targets for path in (page.parent / target).glob("*.md") if "://" not in target
        ]
    assert set((root / "docs").rglob("*.md")) <= reached


def test_every_make_target_named_exists(root: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (root / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in pages(root))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z0-9-]+)", text, re.MULTILINE))
    assert {"setup", "up", "test", "check", "e2e", "bench", "docs", "help"} <= targets
    assert named <= targets


def test_every_moorage_command_and_option_shown_exists(root: Path) -> None:
    wrong = [
        (page.relative_to(root), " ".join(words))
        for page, words in command_lines(root, "moorage")
        if not _is_known(typer.main.get_command(app), words)
    ]
    assert not wrong


def _is_known(command: Any, words: list[str]) -> bool:
    """Whether the words name commands and options that exist, down the tree."""
    options = {option: parameter for parameter in command.params for option in parameter.opts}
    position = 0
    while position < len(words):
        word = words[position]
        if word.startswith("-"):
            if word not in options:
                return False
            position += 1 if getattr(options[word], "is_flag", False) else 2
        elif hasattr(command, "commands"):
            found = command.commands.get(word)
            return found is not None and _is_known(found, words[position + 1 :])
        else:
            position += 1
    return True


def test_every_manifest_shown_is_valid(root: Path) -> None:
    shown = [(page, text) for page, text in blocks(root, "yaml") if re.match(r"model: ", text)]
    assert shown
    for page, text in shown:
        assert parse_manifests(text, str(page.relative_to(root)))


def test_python_shown_compiles(root: Path) -> None:
    for page, text in blocks(root, "python"):
        compile(text, str(page), "exec")


def test_every_test_that_a_guarantee_names_exists(root: Path) -> None:
    named = re.findall(r"`([\w/-]+\.py)::(test_\w+)`", (root / "docs/guarantees.md").read_text())
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (root / path).exists() or f"def {test}(" not in (root / path).read_text()
    ]
    assert len(named) > 20
    assert not missing


def test_decisions_are_numbered_without_gaps(root: Path) -> None:
    found = sorted((root / "docs/decisions").glob("*.md"))
    assert [path.name[:4] for path in found] == [f"{number:04d}" for number in range(1, len(found) + 1)]
    for path in found:
        text = path.read_text()
        assert text.startswith(f"# {int(path.name[:4])}. ")
        assert all(word in text for word in ("**Decided.**", "**Why.**", "**Costs.**")), path.name


def test_every_setting_of_every_service_is_described(root: Path) -> None:
    text = (root / "docs/settings.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Every service",
        "registry",
        "router",
        "scheduler",
        "feature-proxy",
    ]
    assert not re.findall(r"\|  \|$", text, re.MULTILINE), "a setting without a description"
