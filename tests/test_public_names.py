"""The public names: each is there, each is where type checkers are told, and importing costs nothing."""

import ast
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import fedthings as ft

ROOT = Path(__file__).parent.parent


def fresh(code: str) -> str:
    """Return what `code` prints in a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ft.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(ft, name) is not None
    assert name in dir(ft)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fedavgg"):
        _ = ft.fedavgg


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse((ROOT / "src/fedthings/__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.asname or alias.name
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert told == set(ft.__all__)
    assert set(ft._HOMES) == told


@pytest.mark.parametrize("name", sorted(ft.__all__))
def test_no_module_hides_a_public_name(name: str) -> None:
    """Whoever imports a module `fedthings.NAME` binds NAME to it, whatever the public name meant."""
    home, attribute = ft._HOMES[name]
    assert find_spec(f"fedthings.{name}") is None or (home, attribute) == (name, None)


def test_import_takes_nothing_heavy() -> None:
    heavy = fresh(
        "import sys, fedthings\n"
        "print(*(m for m in ('numpy', 'msgspec', 'paho', 'click', 'fedthings.errors') if m in sys.modules))"
    )
    assert heavy.strip() == ""


def test_version_is_the_package_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ft.__version__ == project["version"]
