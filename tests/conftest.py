"""What several tests need: the real data sets, where they are."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real data sets; FEDTHINGS_DATA names another place than ../shared/data."""
    folder = Path(os.environ.get("FEDTHINGS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"NO REAL DATA: {folder} is not there; name its place in FEDTHINGS_DATA")
    return folder
