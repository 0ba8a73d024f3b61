"""A model named in the task: it travels as a name, is imported when it is needed, and every command knows it."""

from __future__ import annotations

import os
import re
import signal
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

import fedthings as ft
from fedthings import run as runs
from fedthings.cli import main
from fedthings.device.rules import Rules
from fedthings.errors import DataError, SpecError
from fedthings.federation import phases
from fedthings.learn import own, save
from fedthings.learn.task import Recipe, Task
from fedthings.phase import Phase
from fedthings.spelling import decode, encode

MODEL = ft.own("own_models:by_hand")


def federation(model: object = MODEL, **task: object) -> ft.Federation:
    settings = {"model": model, "loss": "cross_entropy", "recipe": Recipe(lr=0.3, batch=5), **task}
    return ft.Federation(Task(**settings), pace=ft.Pace(goal=4), name="own")


def arrays(n: int = 200, devices: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6)).astype("f4")
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
    return {"X": X, "y": y, "device": np.arange(n) % devices, "split": (np.arange(n) % 10 == 0).astype(int)}


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A federation in TOML as a user writes it, and a fleet."""
    (tmp_path / "own.toml").write_text(
        'name = "own"\n[task]\nmodel = ["own_models:by_hand", { inputs = 6 }]\nloss = "cross_entropy"\n'
        "[task.recipe]\nlr = 0.3\nbatch = 5\n[pace]\ngoal = 4\n"
    )
    np.savez(tmp_path / "fleet.npz", **arrays())
    return tmp_path / "own.toml", tmp_path / "fleet.npz"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which Python imports, and modules of it that are forgotten after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("kitchen_code", "loud"):
        sys.modules.pop(name, None)


# ------------------------------------------------------------------- it is data


@pytest.mark.parametrize("model", [MODEL, ft.own("a.b:c", width=8, rate=0.5, deep=True)])
def test_it_travels_as_a_name_and_numbers(model: own.Own, tmp_path: Path) -> None:
    spec = federation(model)
    (tmp_path / "fed.toml").write_text(ft.dumps(spec))
    again = ft.load(tmp_path / "fed.toml")
    assert again == spec and isinstance(again.task.model, own.Own)
    assert [type(value) for value in again.task.model.settings.values()] == [type(v) for v in model.settings.values()]
    assert hash(again.task) == hash(spec.task)
    phase = Phase(kind="train", task=spec.task, strategy=spec.strategy, stages=(), seed=0)
    assert decode(encode(phase), Phase) == phase


def test_a_federation_is_written_and_read_without_an_import(package: Path, tmp_path: Path) -> None:
    (package / "loud.py").write_text("raise SystemExit('imported')\n")
    spec = federation(ft.own("loud:net", width=3))
    (tmp_path / "fed.toml").write_text(ft.dumps(spec))
    assert ft.load(tmp_path / "fed.toml") == spec
    assert "loud" not in sys.modules
    with pytest.raises(SpecError, match=r"the model loud:net cannot be imported: SystemExit: imported; repair loud"):
        phases(spec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '"own_models:by_hand"',
            "task.model is 'own_models:by_hand': give ft.mlp(...) or ft.sequential(...); Python code",
        ),
        ('["own_models"]', "task.model names 'own_models': write it as \"package.module:factory\""),
        ('["own_models:a.b"]', "task.model names 'own_models:a.b': write it as \"package.module:factory\""),
        ('["own models:a"]', 'write it as "package.module:factory"'),
        ("[3]", "task.model[0] is 3: give text in quotes"),
        ('["own_models:net", 3]', "task.model[1] is 3: give a table of fields"),
        (
            '["own_models:net", { width = "wide" }]',
            "task.model: width is 'wide': a setting is a plain number, true or fal",
        ),
        ('["own_models:net", { width = [8] }]', "task.model: width is [8]: a setting is a plain number"),
        ('["own_models:net", { width = nan }]', "task.model: width is nan: a setting is a plain number"),
        ('["own_models:net"]\nnormalise = "fleet"', 'task.normalise is "fleet", which cannot be put before the code'),
    ],
)
def test_what_is_no_name_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "fed.toml").write_text(f'[task]\nloss = "cross_entropy"\nmodel = {text}\n')
    with pytest.raises(SpecError) as told:
        ft.load(tmp_path / "fed.toml")
    assert said in str(told.value)


def test_what_is_no_name_is_told_in_python_too() -> None:
    with pytest.raises(SpecError, match=r"own names 'by_hand': write it as \"package.module:factory\""):
        ft.own("by_hand")
    with pytest.raises(SpecError, match=r"own: width is np.int64\(3\): a setting is a plain number"):
        ft.own("own_models:net", width=np.int64(3))
    with pytest.raises(SpecError, match=r"task\.model is Lifted"):
        federation(MODEL.made)
    with pytest.raises(SpecError, match=r"task\.model is 3: give ft\.mlp"):
        federation(3)


# ------------------------------------------------------------- it is imported


def test_it_is_made_once_for_the_same_settings() -> None:
    assert MODEL.made is ft.own("own_models:by_hand").made
    assert ft.own("own_models:by_hand", inputs=4).made is not MODEL.made
    assert (MODEL.input, MODEL.outputs, MODEL.layout.dim) == ((6,), (3,), 21)
    assert ft.own("own_models:by_hand", inputs=4).layout.dim == 15
    assert MODEL.flops == 2 * 21 and MODEL.training_flops == 3 * MODEL.flops


CODE = {
    "no module": (
        "",
        "absent:net",
        "is not installed here: there is no module absent; install the package that holds it",
    ),
    "no package": ("", "absent.models:net", "there is no module absent; install the package that holds it, or put its"),
    "no library": (
        "import no_such_library\n",
        "kitchen_code:net",
        "there is no module no_such_library; install it, which the mod",
    ),
    "not Python": ("def net(:\n", "kitchen_code:net", "the model kitchen_code:net cannot be imported: SyntaxError: "),
    "no factory": ("def nett(): ...\n", "kitchen_code:net", "kitchen_code has no function 'net'; did you mean `nett`?"),
    "a number": (
        "net = 3\n",
        "kitchen_code:net",
        "the model kitchen_code:net is not there: kitchen_code has no function 'net'",
    ),
    "no model": (
        "def net(): return 3\n",
        "kitchen_code:net",
        "the factory kitchen_code:net returned int: return what ft.lift or ft.with",
    ),
    "it raises": (
        "def net():\n    return {}['width']\n",
        "kitchen_code:net",
        "the factory kitchen_code:net, called with (), raised KeyError: 'width' (line 2 of kitchen_code.py): repair",
    ),
}


@pytest.mark.parametrize("name", CODE)
def test_what_cannot_be_had_is_told(package: Path, name: str) -> None:
    code, factory, said = CODE[name]
    (package / "kitchen_code.py").write_text(code)
    with pytest.raises(SpecError) as told:
        phases(federation(ft.own(factory)))
    assert said in str(told.value)


def test_settings_that_the_factory_does_not_take_are_told() -> None:
    with pytest.raises(SpecError) as told:
        phases(federation(ft.own("own_models:by_hand", width=3)))
    said = (
        "the factory own_models:by_hand cannot be called with (width=3): got an unexpected keyword argument 'width'; "
    )
    assert str(told.value).startswith(said + "it takes (inputs")


def test_the_loss_and_the_data_must_fit_what_it_gives() -> None:
    with pytest.raises(SpecError, match=r"task.loss is 'binary_cross_entropy' and the model's outputs are \(3,\)"):
        phases(federation(loss="binary_cross_entropy"))
    rows = arrays()
    for change, said in [
        ({"X": rows["X"][:, :4]}, r"samples of shape \(4,\), the model takes \(6,\)"),
        ({"y": rows["y"] + 1}, "has the label 3, the model has 3 outputs"),
        ({"X": np.where(rows["X"] > 2, np.nan, rows["X"])}, r"missing \(NaN\): fill the gaps first"),
    ]:
        changed = {**rows, **change}
        fleet = ft.Fleet.from_arrays(changed["X"], changed["y"], changed["device"], changed["split"])
        with pytest.raises(DataError, match=said):
            ft.simulate(federation(), fleet, rounds=1)


def test_an_engine_of_ours_is_refused() -> None:
    rows = arrays()
    fleet = ft.Fleet.from_arrays(rows["X"], rows["y"], rows["device"])
    with pytest.raises(SpecError, match='engine is "numpy", and the model is Python code of one\'s own: use "auto"'):
        ft.simulate(federation(), fleet, rounds=1, engine="numpy")


# ------------------------------------------------------------------- commands


def test_check_says_what_a_device_needs(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "check", files[0], "--data", files[1])
    assert code == 0
    assert "21 parameters" in out and "this would work" in out
    assert "each device needs it installed, and joins with --allow own_models:by_hand" in out
    files[0].write_text(files[0].read_text().replace("by_hand", "by_had"))
    code, _, err = told(capsys, "check", files[0], "--data", files[1])
    assert code == 2 and "own_models has no function 'by_had'; did you mean `by_hand`?" in err


def test_check_says_it_to_the_owner_of_one_device(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    rows = {name: array for name, array in arrays().items() if name != "device"}
    np.savez(files[1], **rows)
    code, out, _ = told(capsys, "check", files[0], "--data", files[1])
    assert code == 0 and "joins with --allow own_models:by_hand" in out


def test_a_run_by_toml_is_kept_exported_and_predicts(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    code, shown, _ = told(capsys, "simulate", files[0], "--fleet", files[1], "--rounds", 20, "--out", out)
    assert code == 0 and "own" in shown
    run = runs.read(out)
    assert run.model == ft.own("own_models:by_hand", inputs=6)
    assert run.summary["metrics"]["accuracy"] > 0.7
    assert run.summary["engine"]["trains"] == "own"
    rows = arrays()
    fleet = ft.Fleet.from_arrays(rows["X"], rows["y"], rows["device"], rows["split"])
    same = ft.simulate(ft.load(files[0]), fleet, rounds=20)
    np.testing.assert_array_equal(run.row, same.row)
    assert run.history == same.history

    for kind, load in (("safetensors", load_file), ("npz", np.load)):
        file = tmp_path / f"model.{kind}"
        code, shown, _ = told(capsys, "export", out, "--to", kind, "--out", file)
        assert code == 0 and "21 parameters" in shown
        exported = load(file)
        assert {name: exported[name].shape for name in exported} == {"W": (6, 3), "b": (3,)}
        np.testing.assert_allclose(run.predict(rows["X"]), rows["X"] @ exported["W"] + exported["b"], atol=1e-5)

    np.savez(tmp_path / "today.npz", X=rows["X"][:3])
    imports = []
    monkeypatch.setattr(own, "import_module", lambda name: imports.append(name))
    own._made.cache_clear()
    code, _, err = told(capsys, "predict", "--state", out, "--data", tmp_path / "today.npz")
    assert code == 2 and "give --allow own_models:by_hand if it is to run here" in err
    assert not imports
    monkeypatch.undo()
    code, answers, _ = told(
        capsys, "predict", "--state", out, "--data", tmp_path / "today.npz", "--allow", "own_models:by_hand"
    )
    assert code == 0
    found = np.array([line.split(",") for line in answers.splitlines()[1:]], float)
    np.testing.assert_allclose(found, run.predict(rows["X"][:3]), rtol=1e-5)


def test_a_model_file_begins_another_run_of_the_same_model_only(tmp_path: Path) -> None:
    row, path = MODEL.init(5), tmp_path / "model.safetensors"
    save.save(path, MODEL, row, {"version": "3"})
    model, found, notes = save.load(path)
    assert model == MODEL and notes == {"version": "3"}
    np.testing.assert_array_equal(found, row)
    np.testing.assert_array_equal(save.warm(path, MODEL), row)
    for other in (ft.own("own_models:by_hand", inputs=6), ft.own("own_models:net"), ft.mlp(6, 3)):
        with pytest.raises(SpecError, match="has other layers than the task"):
            save.warm(path, other)
    save.save(path, ft.mlp(6, 3), ft.mlp(6, 3).init(0), {})
    with pytest.raises(SpecError, match="has other layers than the task"):
        save.warm(path, MODEL)


def test_a_model_file_is_read_without_an_import_and_a_damaged_one_told(package: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    for model, names, good in (
        (["loud:net", {}], ["w"], True),
        (["loud:net", {"width": "wide"}], ["w"], False),
        (["loud", {}], ["w"], False),
        (["loud:net", {}], ["v"], False),
    ):
        header = msgspec.json.encode({"model": model, "arrays": names, "metadata": {}}).decode()
        save_file({"w": np.ones((2, 2), "f4")}, path, {save.ENTRY: header})
        if good:
            assert save.load(path)[1].tolist() == [1, 1, 1, 1]
        else:
            with pytest.raises(DataError, match="is no model file of fedthings, or is cut short"):
                save.load(path)


def test_a_run_goes_on_after_it_was_stopped(tmp_path: Path) -> None:
    rows = arrays()
    fleet = ft.Fleet.from_arrays(rows["X"], rows["y"], rows["device"], rows["split"])
    spec = federation(recipe=Recipe(lr=0.3, batch=5, keep=0.4))
    whole = ft.simulate(spec, fleet, rounds=8)

    def stop(line: dict) -> None:
        if line["version"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ft.simulate(spec, fleet, rounds=8, out=tmp_path / "run", on_version=stop)
    again = ft.simulate(spec, fleet, rounds=8, out=tmp_path / "run")
    np.testing.assert_array_equal(again.row, whole.row)
    assert again.history == whole.history


def test_a_stop_at_a_metric_of_its_own_and_the_best_by_it() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 6)).astype("f4")
    fleet = ft.Fleet.from_arrays(X, np.zeros(80, "f4"), np.arange(80) % 4, (np.arange(80) % 5 == 0).astype(int))
    task = Task(model=ft.own("own_models:center"), loss="mse", metrics=("apart", "within"), recipe=Recipe(lr=0.5))
    spec = ft.Federation(task, pace=ft.Pace(goal=4))
    run = ft.simulate(spec, fleet, rounds=30, stop={"apart": 6.0})
    distances = [line["metrics"]["apart"] for line in run.history]
    assert run.summary["reason"] == "target"
    assert run.summary["best"]["metrics"]["apart"] == min(distances) <= 6.0 < distances[0]


def test_join_allows_what_the_rules_and_the_command_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedthings.device.join import Attended

    given = []

    def join(*arguments: object, rules: Rules, **more: object) -> Attended:
        given.append(rules.allow)
        return Attended(0, 0, 0, 0, 0, 0, 0, 0)

    monkeypatch.setattr("fedthings.device.join.join", join)
    monkeypatch.setattr("fedthings.commands.join.one_thread", lambda: None)
    np.savez(tmp_path / "rows.npz", **{name: arrays()[name] for name in ("X", "y")})
    (tmp_path / "rules.toml").write_text('allow = ["cellar.models:net"]\n')
    words = ["join", "--broker", "mqtt://127.0.0.1:1", "--name", "a", "--data", tmp_path / "rows.npz"]
    assert told(capsys, *words)[0] == 0
    assert told(capsys, *words, "--allow", "a:b", "--allow", "c.d:e", "--rules", tmp_path / "rules.toml")[0] == 0
    assert given == [(), ("cellar.models:net", "a:b", "c.d:e")]
    code, _, err = told(capsys, *words, "--allow", "kitchen.models")
    assert code == 2 and "rules.allow names 'kitchen.models': write it as \"package.module:factory\"" in err
    (tmp_path / "rules.toml").write_text('allow = ["kitchen"]\n')
    code, _, err = told(capsys, *words, "--rules", tmp_path / "rules.toml")
    assert code == 2 and "rules.toml: rules.allow names 'kitchen'" in err


# ------------------------------------------------------------- documentation

ROOT = Path(__file__).parents[2]


def test_the_model_in_the_pages_toml_is_one() -> None:
    page = (ROOT / "docs" / "own_models.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.S | re.M)
    assert Task(loss="mse", model=decode(tomllib.loads(text)["task"]["model"], own.Own)).model == ft.own(
        "kitchen.models:net", width=64, bias=True
    )
