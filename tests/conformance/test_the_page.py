"""docs/conformance.md, last of all: what was found out is what it says."""

import os
from pathlib import Path

import pytest
from conformance.cells import Ledger
from conformance.report import is_complete, page

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def test_the_page_says_what_this_run_found(ledger: Ledger) -> None:
    if not is_complete(ledger):
        pytest.skip("only a run of everything tells what the page has to say")
    if os.environ.get("MOORAGE_WRITE_DOCS") == "1":
        PAGE.write_text(page(ledger))
    assert page(ledger) == PAGE.read_text(), "the figures are others; run make conformance and commit the page"
