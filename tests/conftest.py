"""What several tests need: the real data sets, where they are."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""All that this session has collected, whatever -k and -m then leave out."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = list(items)


@pytest.fixture(scope="session")
def collected(pytestconfig: pytest.Config) -> list[pytest.Item]:
    """Return every test there is; skip where the session has not collected all files of tests."""
    items = pytestconfig.stash[COLLECTED]
    missing = sorted({*(ROOT / "tests").rglob("test_*.py")} - {item.path for item in items})
    if missing:
        one = missing[0].relative_to(ROOT)
        pytest.skip(f"NOT ALL TESTS ARE COLLECTED: {len(missing)} files are not, such as {one}: name no paths")
    return items


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real data sets; FEDTHINGS_DATA names another place than ../shared/data."""
    folder = Path(os.environ.get("FEDTHINGS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"NO REAL DATA: {folder} is not there; name its place in FEDTHINGS_DATA")
    return folder
