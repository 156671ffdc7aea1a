"""The notebook of `examples/`, executed as a reader would."""

import os
import uuid
from pathlib import Path

import nbformat
import pytest
from e2e_platform import Platform
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook-to-production.ipynb"


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_from_training_to_what_was_used(platform: Platform) -> None:
    known = platform.info
    environment = {
        **os.environ,
        "MOORAGE_REGISTRY": known["registry"],
        "MOORAGE_ROUTER": known["router"],
        "MOORAGE_API_KEY": known["api_key"],
        "MOORAGE_EXAMPLE_MODEL": f"notebook-{uuid.uuid4().hex[:8]}",
    }
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(env=environment)
    with platform.client() as client:
        client.registry.delete_deployment(environment["MOORAGE_EXAMPLE_MODEL"])
