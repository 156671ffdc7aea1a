"""`python docs/generate [DIRECTORY]`: write the generated pages into docs/ or DIRECTORY."""

import sys
from pathlib import Path

import refusals
import rest
import settings

ROOT = Path(__file__).resolve().parents[2]

PAGES = {
    "settings.md": settings.page,
    "failure-modes.md": lambda: refusals.page(ROOT),
    "reference/registry.md": rest.registry_page,
    "reference/features.md": rest.features_page,
}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    for name, page in PAGES.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
