"""Every framework by its example: 25 lines, real data, and as accurate as our own engine on the same."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import fedthings as ft
from fedthings.errors import SpecError
from fedthings.learn import own
from fedthings.learn.lift import EXTRAS
from installed import needs

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "own_models.md"
NETWORK, LINEAR = (64, 32, 10), (64, 10)
# What each example needs, and the list of layers that is to be no more than a point better, or worse.
FRAMEWORKS = {
    "own_pytorch": ("torch", NETWORK),
    "own_keras": ("keras", NETWORK),
    "own_jax": ("jax", NETWORK),
    "own_sklearn": ("sklearn", LINEAR),
    "own_training": ("scipy", LINEAR),
    "lora": ("torch", NETWORK),
}


@cache
def of_ours(*sizes: int) -> float:
    """Return the accuracy of the list of layers on the same data in as many rounds."""
    task = ft.Task(model=ft.mlp(*sizes), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16, epochs=2))
    return accuracy(ft.Federation(task, pace=ft.Pace(goal=10)))


def accuracy(federation: ft.Federation, rounds: int = 20) -> float:
    from fedthings.learn.digits import digits

    return float(ft.simulate(federation, digits(devices=10, seed=0), rounds).summary["metrics"]["accuracy"])


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of examples, from which Python imports."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield EXAMPLES
    for name in FRAMEWORKS:
        sys.modules.pop(name, None)


def imported(name: str) -> ModuleType:
    needs(FRAMEWORKS[name][0])
    return importlib.import_module(name)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_example_is_as_accurate_as_our_engine(name: str, examples: Path) -> None:
    found, due = accuracy(imported(name).federation), of_ours(*FRAMEWORKS[name][1])
    print(f"{name}: {found:.4f}, in NumPy {due:.4f}")
    assert abs(found - due) <= 0.01


def test_naive_bayes_is_there_after_one_round(examples: Path) -> None:
    assert accuracy(imported("own_sklearn").once, rounds=1) > 0.92


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_example_has_25_lines_and_the_page_knows_it(name: str) -> None:
    code = (EXAMPLES / f"{name}.py").read_text()
    lines = code[re.search("^(import|from)", code, re.M).start() :].strip().splitlines()  # type: ignore[union-attr]
    assert len(lines) <= 25
    assert f"(../examples/{name}.py)" in PAGE.read_text()
    for shown in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M):
        assert any(shown == path.read_text() for path in EXAMPLES.glob("*.py"))


# ------------------------------------------------------------- not installed


@pytest.mark.parametrize(
    ("module", "door"),
    [("torch", "with_torch"), ("keras", "with_keras"), ("jax", "with_jax"), ("sklearn", "with_sklearn")],
)
def test_a_framework_that_is_not_installed_is_told_with_its_extra(
    module: str, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    more = (None,) if door == "with_jax" else ()
    with pytest.raises(SpecError, match=rf'{door} needs {module} \(.+\): pip install "fedthings\[{EXTRAS[module]}\]"'):
        getattr(ft, door)(lambda *given: None, *more, input=64)


def test_keras_without_a_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("keras")
    for name in ("torch", "jax"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    with pytest.raises(SpecError, match=r'with_keras needs PyTorch or JAX below Keras: pip install "fedthings\[keras,'):
        ft.with_keras(lambda: None, input=64)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import keras\n", 'there is no module keras; the model needs it: pip install "fedthings[keras]"'),
        ("import sklearn\n", 'there is no module sklearn; the model needs it: pip install "fedthings[sklearn]"'),
        (
            "raise ModuleNotFoundError(name='tensorflow')\n",
            "import keras within `build`, or set KERAS_BACKEND to torch",
        ),
    ],
)
def test_the_code_of_a_model_that_misses_its_framework_is_told(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking_code.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("keras", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    assert said in own.lacking(ft.own("lacking_code:net"))
