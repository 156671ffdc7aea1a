"""The Dockerfile: every image runs as nobody in particular, is checked, and is built from what is in the repository."""

import re
import tomllib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

TARGETS = ("registry", "router", "scheduler", "feature-proxy", "ray")


@dataclass
class Stage:
    parent: str
    lines: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def stages(root: Path) -> dict[str, Stage]:
    """Stages by name, each with its instructions."""
    text = re.sub(r"\\\n", " ", (root / "Dockerfile").read_text())
    found: dict[str, Stage] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = Stage(match[1])
        elif line and not line.startswith("#") and found:
            list(found.values())[-1].lines.append(line)
    return found


def inherited(stages: dict[str, Stage], name: str) -> list[str]:
    """Instructions of a stage and its parents, oldest first."""
    stage = stages[name]
    return [*(inherited(stages, stage.parent) if stage.parent in stages else []), *stage.lines]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_unprivileged_and_is_checked(stages: dict[str, Stage], target: str) -> None:
    lines = inherited(stages, target)
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001:10001"
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    assert any(line.startswith("CMD ") for line in stages[target].lines)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_the_environment_of_its_own_service(stages: dict[str, Stage], target: str) -> None:
    copies = [line for line in inherited(stages, target) if line.startswith("COPY --from=")]
    assert copies == [f"COPY --from=build-{target} /opt/moorage /opt/moorage"]


def test_everything_is_installed_from_the_lock(stages: dict[str, Stage]) -> None:
    assert any(
        "UV_CONSTRAINT=requirements.lock UV_BUILD_CONSTRAINT=requirements.lock" in line
        for line in stages["build"].lines
    )
    installs = [line for stage in stages.values() for line in stage.lines if "uv pip install" in line]
    assert len(installs) == len(TARGETS)
    assert not [line for line in installs if "==" in line]


def test_what_is_copied_and_installed_exists_and_reaches_the_builder(stages: dict[str, Stage], root: Path) -> None:
    kept = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in stages.values():
        for line in stage.lines:
            match = re.fullmatch(r"COPY (?:--chmod=\S+ )?(?!--from)(.+) \S+", line)
            for source in match[1].split() if match else []:
                assert (root / source).exists(), line
                assert any(source == entry or source.startswith(f"{entry}/") for entry in kept), line
            for member in re.findall(r"\./((?:libs|services)/[a-z-]+)", line):
                assert (root / member / "pyproject.toml").exists(), line


@pytest.mark.parametrize("target", TARGETS[:4])
def test_an_image_starts_its_services_module(stages: dict[str, Stage], target: str) -> None:
    module = f"moorage_{target.replace('-', '_')}"
    assert f'CMD ["python", "-m", "{module}"]' in stages[target].lines
    assert find_spec(f"{module}.__main__") is not None


MODEL_LIBRARIES = {"onnxruntime", "skops", "scikit-learn", "xgboost", "lightgbm", "pandas"}


def needs(root: Path, requirement: str) -> set[str]:
    """Names that a requirement brings, through members of this repository."""
    match = re.match(r"([A-Za-z0-9-]+)(?:\[([^\]]+)\])?", requirement)
    assert match, requirement
    found = {match[1]}
    for folder in ("libs", "services"):
        path = root / folder / match[1].removeprefix("moorage-") / "pyproject.toml"
        if match[1].startswith("moorage-") and path.exists():
            project = tomllib.loads(path.read_text())["project"]
            extras = [project["optional-dependencies"][extra.strip()] for extra in (match[2] or "").split(",") if extra]
            found |= {
                name for lines in (project["dependencies"], *extras) for line in lines for name in needs(root, line)
            }
    return found


@pytest.mark.parametrize(
    ("target", "brought"),
    [("router", set()), ("registry", set()), ("scheduler", MODEL_LIBRARIES), ("ray", MODEL_LIBRARIES)],
)
def test_libraries_of_models_are_where_models_are_loaded(
    stages: dict[str, Stage], root: Path, target: str, brought: set[str]
) -> None:
    install = next(line for line in stages[f"build-{target}"].lines if "uv pip install" in line)
    members = re.findall(r"\./(?:libs|services)/([a-z-]+(?:\[[a-z,]+\])?)", install)
    assert members
    assert set().union(*(needs(root, f"moorage-{member}") for member in members)) & MODEL_LIBRARIES == brought


def test_no_instruction_holds_a_secret(stages: dict[str, Stage]) -> None:
    lines = [line for stage in stages.values() for line in stage.lines]
    assert not [line for line in lines if re.search(r"(PEPPER|PASSWORD|TOKEN|ADMIN_KEY|SECRET)\s*=", line)]


def test_the_lock_names_versions_with_hashes_and_no_index(root: Path) -> None:
    lock = (root / "requirements.lock").read_text()
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > lock.count("==") > 100
    assert tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]["build"]
