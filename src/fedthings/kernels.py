"""The compiled kernels, where they are installed: the distribution fedthings-kernels, from the folder kernels/."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fedthings.errors import SpecError

OFF = "FEDTHINGS_KERNELS"
"""With "0" in this variable of the environment the kernels count as not installed."""


@cache
def kernels() -> Any:
    """Return the module of the kernels, or None where it is not installed. Raises SpecError where it cannot be used."""
    if os.environ.get(OFF) == "0" or find_spec("fedthings_kernels") is None:
        return None
    try:
        return import_module("fedthings_kernels")
    except ImportError as error:
        raise SpecError(f"fedthings-kernels is installed and cannot be used: {error} ({OFF}=0 does without)") from None


def described() -> str:
    """Return version and instruction set of the kernels."""
    return f"kernels {kernels().version} {kernels().instructions()}"
