"""What a test does whose framework is not installed: it is skipped, and says so; in CI nothing may skip."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def needs(module: str) -> None:
    """Skip the test where `module` is not installed; in CI, fail. It is not imported: Keras chooses a backend then."""
    if find_spec(module) is None:
        said = f"NO {module}: it is not installed (extra `dev`)"
        if os.environ.get("CI") == "true":
            pytest.fail(said)
        pytest.skip(said, allow_module_level=True)
