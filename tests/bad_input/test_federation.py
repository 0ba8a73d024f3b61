"""A federation that cannot be: told with the field's path, its value, and the nearest that is valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft

from .conftest import Command, federation, fleet

# What is replaced in the file (first place), by what, and what is said.
FIELDS = {
    "top": ("seed =", "sede =", "unknown field `sede`: did you mean `seed`?"),
    "task": ("loss =", "los =", "unknown field `task.los`: did you mean `loss`?"),
    "recipe": ("lr = 0.3", "ler = 0.3", "unknown field `task.recipe.ler`: did you mean `lr`?"),
    "model": ("input =", "inputs =", "unknown field `task.model.inputs`: did you mean `input`?"),
    "layer": ("units = 5", "unitz = 5", "unknown field `task.model.layers[0].unitz`: did you mean `units`?"),
    "strategy": ("mu =", "my =", "unknown field `strategy.my`: did you mean `mu`?"),
    "step": (
        "momentum = 0.9\n\n[strategy.staleness]",
        "momentun = 0.9\n\n[strategy.staleness]",
        "unknown field `strategy.step.momentun`: did you",
    ),
    "pace": ("patience =", "pacience =", "unknown field `pace.pacience`: did you mean `patience`?"),
    "stage": ("bound =", "bond =", "unknown field `stages[0].bond`: did you mean `bound`?"),
    "a table": ("[task]", "[tusk]", "unknown field `tusk`: did you mean `task`?"),
    "a layer's type": ('"dense", units = 5', '"dens", units = 5', "task.model.layers[0].type is 'dens': did you mean"),
    "a stage's type": ('"clip"', '"clap"', "stages[0].type is 'clap': did you mean `clip`?"),
    "a step's kind": ('kind = "momentum"', 'kind = "momentun"', "strategy.step.kind is 'momentun': did you mean"),
    "a choice": ('"samples"', '"sampels"', "strategy.weight is 'sampels': did you mean `samples`?"),
    "an activation": ('"relu"', '"rely"', "task.model.layers[0].activation is 'rely': did you mean `relu`?"),
    "a loss": ("cross_entropy", "cross_entrpy", "task.loss is 'cross_entrpy': did you mean `cross_entropy`?"),
    "an optimiser": ('"sgd"', '"sdg"', "recipe.optimizer is 'sdg': did you mean `sgd`?"),
    "a metric": ("metrics = []", 'metrics = ["acuracy"]', "task.metrics has 'acuracy': did you mean `accuracy`?"),
    "left out": ('loss = "cross_entropy"\n', "", "`task.loss` is missing: add it"),
    "text for a number": ("lr = 0.3", 'lr = "fast"', "task.recipe.lr is 'fast': give a number"),
    "half an epoch": ("epochs = 1", "epochs = 1.5", "task.recipe.epochs is 1.5: give a whole number"),
    "text for a list": ("metrics = []", 'metrics = "accuracy"', "task.metrics is 'accuracy': give a list in [ ]"),
    "a number for text": ('name = "bad"', "name = 3", "name is 3: give text in quotes"),
    "text in a list": ("    4,\n", '    "four",\n', "task.model.input[0] is 'four': give a whole number"),
    "a negative rate": ("lr = 0.3", "lr = -0.3", "recipe.lr is -0.3: it must be above 0"),
    "no rate": ("lr = 0.3", "lr = nan", "recipe.lr is nan: it must be above 0"),
    "an infinite rate": ("lr = 0.3", "lr = inf", "recipe.lr is inf: it must be above 0, and finite"),
    "a negative bound": ("bound = 5.0", "bound = -5.0", "stages.clip.bound is -5.0: it must be above 0"),
    "no goal": ("goal = 3", "goal = 0", "pace.goal is 0: it must be at least 1"),
    "no patience": (
        "patience = 60.0",
        "patience = 0.0",
        "pace.patience is 0.0: give the seconds a device has, above 0",
    ),
    "a quorum above": ("quorum = 1", "quorum = 9", "pace.quorum is 9, above pace.goal 3: it could never be met"),
    "a negative seed": ("seed = 3", "seed = -3", "seed is -3: it must be from 0"),
    "a name with blanks": ('"bad"', '"very bad"', "name is 'very bad': use 1 to 32 letters, digits, - and _"),
    "no units": ("units = 5", "units = 0", "layer 0 (dense), with input (4,): units is 0: it must be above 0"),
    "too many units": ("units = 5", "units = 999999999", "model.layers has 6999999995 parameters: use fewer units"),
    "layers that do not fit": (
        "    4,\n",
        "    4,\n    4,\n",
        "layer 0 (dense), with input (4, 4): it takes flat samples",
    ),
    "a loss that does not fit": ('"cross_entropy"', '"binary_cross_entropy"', "outputs are (2,): it needs 1 output"),
    "too few outputs": ("units = 2", "units = 1", "outputs are (1,): it needs one output for each class, at least 2"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_that_is_wrong(case: str, tmp_path: Path, command: Command) -> None:
    old, new, said = FIELDS[case]
    text = ft.dumps(federation(3))
    assert old in text
    file = tmp_path / "fed.toml"
    file.write_text(text.replace(old, new, 1))
    ended = command("simulate", file, "--fleet", "none.npz", "--out", tmp_path / "run")
    assert ended.code == 2
    assert f"{file}: " in ended.err
    assert said in ended.err
    assert not (tmp_path / "run").exists()


FILES = {
    "no.toml": (None, "there is no file"),
    "cut.toml": (b'[task]\nloss = "cross', "is not TOML: "),
    "bytes.toml": (b"\xff\xfe\x00", "is not TOML: "),
    "empty.toml": (b"", "`task` is missing: add it"),
    "list.toml": (b"[[task]]\n", "task is [{}]: give a table of fields"),
    "syntax.py": (b"x = = 2", "cannot be run: SyntaxError: invalid syntax (syntax.py, line 1)"),
    "fails.py": (b"import os\n\n1 / 0\n", "cannot be run: ZeroDivisionError in line 3: division by zero"),
    "leaves.py": (b"import sys\nsys.exit(3)\n", "cannot be run: SystemExit in line 2: 3"),
    "lacks.py": (b"import nothing_of_this_name\n", "cannot be run: ModuleNotFoundError in line 1: No module named"),
    "none.py": (b"x = 1\n", "defines no `federation = ft.Federation(...)` at its top level"),
    "other.py": (b"federation = 3\n", "defines no `federation = ft.Federation(...)` at its top level"),
    "rate.py": (b"import fedthings as ft\nft.Recipe(lr=-1)\n", "rate.py: recipe.lr is -1: it must be above 0"),
    "field.py": (b"import fedthings as ft\nft.Recipe(rate=1)\n", "TypeError in line 2: Unexpected keyword argument"),
    "type.py": (
        b"import fedthings as ft\n"
        b"task = ft.Task(model=ft.mlp(4, 2), loss='cross_entropy', recipe=ft.Recipe(epochs=1.5))\n"
        b"federation = ft.Federation(task)\n",
        "type.py: task.recipe.epochs is 1.5: give a whole number",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none(name: str, tmp_path: Path, command: Command) -> None:
    data, said = FILES[name]
    file = tmp_path / name
    if data is not None:
        file.write_bytes(data)
    for words in (("check", file, "--data", "none.npz"), ("serve", file, "--out", tmp_path / "run")):
        ended = command(*words)
        assert ended.code == 2
        assert str(file) in ended.err
        assert said in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stop", "acuracy=0.9"), "stop names the metric 'acuracy': did you mean `accuracy`?"),
        (("--stop", "rmse=0.9"), "stop names the metric 'rmse': valid are: accuracy, macro_f1"),
        (("--stop", "accuracy=nan"), "'accuracy=nan' is not like accuracy=0.97"),
        (("--stop", "accuracy"), "'accuracy' is not like accuracy=0.97"),
        (("--rounds", "0"), "Invalid value for '--rounds': 0 is not in the range x>=1"),
        (("--init", "nothing.safetensors"), "there is no model file nothing.safetensors"),
    ],
)
def test_a_run_that_cannot_be(words: tuple[str, str], said: str, fed: Path, tmp_path: Path, command: Command) -> None:
    data = tmp_path / "data.npz"
    shards = [fleet(3).shard(name) for name in fleet(3).names]
    X, y = (np.concatenate([shard[i] for shard in shards]) for i in (0, 1))
    np.savez(data, X=X, y=y, device=np.arange(len(X)) % 3)
    code = 3 if words[0] == "--init" else 2
    ended = command("simulate", fed, "--fleet", data, *words, "--out", tmp_path / "run")
    assert (ended.code, said in ended.err) == (code, True), ended.err
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_the_same_in_python() -> None:
    with pytest.raises(ft.SpecError, match="rounds is 0: give a whole number, at least 1"):
        ft.simulate(federation(3), fleet(3), 0)
    path: Any = "a.path"
    for words, said in (
        ((path, fleet(3), 1), "federation is 'a.path': give a Federation, such as fedthings.federation.load"),
        ((federation(3), path, 1), "fleet is 'a.path': give a Fleet, such as Fleet.read"),
    ):
        with pytest.raises(ft.SpecError, match=said):
            ft.simulate(*words)
    with pytest.raises(ft.SpecError, match=r"world is 'a\.path': give a World, such as fedthings"):
        ft.simulate(federation(3), fleet(3), 1, world=path)
    with pytest.raises(ft.SpecError, match=r"the warm start is 'a\.path': .* fedthings\.learn\.save\.warm"):
        ft.simulate(federation(3), fleet(3), 1, init=path)
    with pytest.raises(ft.SpecError, match="did you mean `accuracy`"):
        ft.simulate(federation(3), fleet(3), 1, stop={"acuracy": 1.0})
    with pytest.raises(ft.SpecError, match=r"task\.recipe\.epochs is 1\.5: give a whole number"):
        federation(3, epochs=1.5)
    with pytest.raises(ft.SpecError, match=r"task is not plain data .*numpy"):
        federation(3, lr=np.float32(0.3))
