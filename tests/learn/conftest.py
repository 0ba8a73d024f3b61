"""What tests of models that are Python code share: a name for what a test has made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fedthings as ft
import own_models
from fedthings.learn import own
from fedthings.learn.own import Own


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Own]:
    """Give what a factory has made a name."""

    def give(lifted: Any) -> Own:
        monkeypatch.setattr(own_models, "made_in_a_test", lambda: lifted, raising=False)
        own._made.cache_clear()
        return ft.own("own_models:made_in_a_test")

    return give
