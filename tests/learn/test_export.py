"""Files for other programs: what is read out of them predicts what the model does, each layer of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import fedthings as ft
from fedthings import run as runs
from fedthings.cli import main
from fedthings.errors import SpecError
from fedthings.learn import export, filled, layers, save, to_keras, to_onnx
from fedthings.learn.model import Sequential, outputs, sequential
from installed import needs

SUFFIX = {kind: form.suffix for kind, form in export.FORMATS.items()}
EXTRA = {"onnx": "onnx", "torch": "torch", "keras": "keras"}
STEPS = [0.5, -1.0, 2.0, 0.0, 3.5]
MODELS: dict[str, Sequential] = {
    "dense": sequential(5, ft.standardise(STEPS, [1, 2, 3, 4, 5], STEPS), ft.dense(7, "relu"), ft.dense(3, "softmax")),
    "activations": sequential(
        5, ft.impute(0.5), ft.dense(6), ft.relu(), ft.dense(6), ft.tanh(), ft.dense(6), ft.sigmoid(), ft.softmax()
    ),
    "images": sequential(
        (9, 8, 2),
        ft.conv2d(4, 3, 2, "same", "relu"),
        ft.batch_norm(),
        ft.avg_pool(2, 1),
        ft.group_norm(2),
        ft.max_pool(2),
        ft.flatten(),
        ft.dropout(0.5),
        ft.layer_norm(),
        ft.dense(3),
    ),
    "signals": sequential(
        (13, 3),
        ft.conv1d(4, 3, padding="causal", dilation=2, activation="sigmoid"),
        ft.conv1d(4, 3, stride=2, padding="same"),
        ft.max_pool(2),
        ft.gru(4, sequence=True),
        ft.avg_pool(2),
        ft.gru(3),
        ft.dense(2),
        ft.rescale([1.0, 2.0], [3.0, 0.5]),
    ),
    "columns": sequential(
        6, ft.log1p((0, 3)), ft.cyclic(1, 24.0), ft.one_hot(1, 4), ft.embedding(5, 3, column=2), ft.dense(2)
    ),
    "series": sequential((6, 2), ft.decompose(3), ft.impute(0.5), ft.gru(3), ft.dense(2)),
    "words": sequential(4, ft.embedding(7, 3), ft.gru(4), ft.dense(2)),
}


def drawn(model: Sequential) -> Any:
    """Return a row in which nothing is 0 or 1; a variance stays above 0."""
    return model.init(3) + np.random.default_rng(1).uniform(0.05, 0.2, model.layout.dim).astype("f4")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", SUFFIX)
def test_the_file_predicts_what_the_model_does(kind: str, name: str, tmp_path: Path) -> None:
    needs(EXTRA[kind])
    model, path = MODELS[name], tmp_path / f"model{SUFFIX[kind]}"
    row = drawn(model)
    assert export.write(kind, model, row, path) <= 1e-5
    X = np.random.default_rng(5).uniform(0, 4, (7, *model.input)).astype("f4")  # another number of samples
    np.testing.assert_allclose(export.FORMATS[kind].read(path)(X), outputs(model, row, X), rtol=1e-5, atol=1e-5)


def test_the_models_above_have_every_layer_that_has_a_form() -> None:
    without = (filled.Filled, layers.Prototypes)
    known = {kind for kind in get_args(layers.Layer) if not issubclass(kind, without)}
    assert {type(layer) for model in MODELS.values() for layer in model.layers} == known
    assert set(to_onnx.LAYERS) == set(to_keras.LAYERS) == known


@pytest.mark.parametrize("kind", SUFFIX)
def test_what_a_statistic_fills_is_refused(kind: str, tmp_path: Path) -> None:
    model = sequential(4, ft.forest(trees=2, depth=2))
    with pytest.raises(SpecError, match=rf"layer 0 \(forest\) has no form in {kind} yet: export to safetensors"):
        export.write(kind, model, model.init(0), tmp_path / f"model{SUFFIX[kind]}")


@pytest.mark.parametrize(("kind", "table"), [("onnx", to_onnx.LAYERS), ("keras", to_keras.LAYERS)])
def test_a_layer_without_an_entry_is_refused(
    kind: str, table: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(EXTRA[kind])
    monkeypatch.delitem(table, layers.Gru)
    with pytest.raises(SpecError, match=r"layer 1 \(gru\) has no form in \w+ yet: export to safetensors, or to torch"):
        export.write(kind, MODELS["words"], drawn(MODELS["words"]), tmp_path / f"model{SUFFIX[kind]}")


def test_what_keras_does_not_have_is_refused(tmp_path: Path) -> None:
    needs("keras")
    model = sequential((20, 2), ft.conv1d(3, 3, stride=2, dilation=2), ft.flatten(), ft.dense(2))
    with pytest.raises(SpecError, match="Keras has no convolution with both a stride and a dilation: export to onnx"):
        export.write("keras", model, drawn(model), tmp_path / "model.keras")


def test_a_file_that_predicts_something_else_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnx")
    monkeypatch.setitem(to_onnx.LAYERS, layers.Gru, lambda g, layer, given, w, x: to_onnx._gru(g, layer, given, w, x))
    model, right = MODELS["words"], to_onnx._embedding
    monkeypatch.setitem(
        to_onnx.LAYERS,
        layers.Embedding,
        lambda g, layer, given, w, x: right(g, layer, given, {"vectors": 1.001 * w["vectors"]}, x),
    )
    with pytest.raises(SpecError, match=r"the file would predict up to \S+ beside the model: use safetensors"):
        export.write("onnx", model, drawn(model), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, scaling learned."""
    needs("sklearn")
    from fedthings.learn.digits import digits

    task = ft.Task(model=ft.mlp(64, 16, 10), loss="cross_entropy", normalise="fleet")
    out = tmp_path_factory.mktemp("export") / "run"
    ft.simulate(ft.Federation(task, pace=ft.Pace(goal=5)), digits(devices=5, seed=0), rounds=4, out=out)
    return out


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("kind", SUFFIX)
def test_a_trained_model_is_exported_and_predicts_the_same(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(EXTRA[kind])
    from fedthings.learn.digits import digits

    file = tmp_path / f"model{SUFFIX[kind]}"
    code, out, _ = told(capsys, "export", run, "--to", kind, "--out", file, "--json")
    assert code == 0 and json.loads(out)["gap"] <= 1e-4
    X = digits(devices=5, seed=0).shard("device-0").test_X
    due = runs.read(run).predict(X)
    np.testing.assert_allclose(export.FORMATS[kind].read(file)(X), due, rtol=1e-5, atol=1e-4)
    code, out, _ = told(capsys, "export", run, "--to", kind, "--out", file)
    assert code == 0 and "read again, it predicts the same to " in out


def test_an_exported_file_needs_no_fedthings(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("onnx")
    needs("keras")
    code = (
        "import sys, json, numpy as np; sys.modules['fedthings'] = None; X = np.ones((2, 64), 'f4')\n"
        "import keras, torch; from onnx.reference import ReferenceEvaluator\n"
        "found = [keras.saving.load_model('m.keras')(X).detach().numpy(), "
        "torch.export.load('m.pt2').module()(torch.from_numpy(X)).detach().numpy(), "
        "ReferenceEvaluator('m.onnx').run(None, {'input': X})[0]]\n"
        "print(json.dumps([f.tolist() for f in found]))"
    )
    for kind, suffix in SUFFIX.items():
        assert told(capsys, "export", run, "--to", kind, "--out", tmp_path / f"m{suffix}")[0] == 0
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    due = runs.read(run).predict(np.ones((2, 64), "f4"))
    for found in json.loads(shown.splitlines()[-1]):
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-4)


def test_a_name_that_does_not_end_so_and_an_extra_that_is_missing_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = told(capsys, "export", run, "--to", "onnx", "--out", tmp_path / "model.bin")
    assert code == 2 and "a file for onnx ends in .onnx" in err
    for kind, module in EXTRA.items():
        with monkeypatch.context() as hidden:
            hidden.setitem(sys.modules, module, None)
            code, _, err = told(capsys, "export", run, "--to", kind, "--out", tmp_path / f"model{SUFFIX[kind]}")
            assert code == 2 and f'pip install "fedthings[{module}' in err


def test_code_is_exported_where_it_is_allowed_and_is_of_that_framework(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for factory in ("normed", "by_hand"):
        model = ft.own(f"own_models:{factory}")
        save.save(tmp_path / f"{factory}.safetensors", model, model.init(1), {})
    source, file = tmp_path / "normed.safetensors", tmp_path / "model.pt2"
    code, _, err = told(capsys, "export", source, "--to", "torch", "--out", file)
    assert code == 2 and "give --allow own_models:normed if it is to run here" in err
    allowed = ("--allow", "own_models:normed")
    assert told(capsys, "export", source, "--to", "torch", "--out", file, *allowed)[0] == 0
    X, model = np.random.default_rng(0).normal(size=(5, 6)).astype("f4"), ft.own("own_models:normed")
    np.testing.assert_allclose(export.FORMATS["torch"].read(file)(X), model.predict(model.init(1), X), atol=1e-5)
    code, _, err = told(capsys, "export", source, "--to", "onnx", "--out", tmp_path / "model.onnx", *allowed)
    assert code == 2 and "is Python code, which is not exported to ONNX" in err
    other = (tmp_path / "by_hand.safetensors", "--to", "torch", "--out", file, "--allow", "own_models:by_hand")
    code, _, err = told(capsys, "export", *other)
    assert code == 2 and "own_models:by_hand cannot be made from a row: give `fitted` to `lift`" in err
