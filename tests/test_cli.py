"""The command line: what commands print, how they end, and that asking for help costs little."""

import json
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.cli import COMMANDS, HOMES, fedthings, main
from fedthings.progress import Progress


@pytest.fixture
def fed(tmp_path: Path) -> Path:
    federation = ft.Federation(
        task=ft.Task(model=ft.mlp(2, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.5, batch=8)),
        pace=ft.Pace(goal=3),
        name="two-blobs",
    )
    path = tmp_path / "fed.toml"
    path.write_text(ft.dumps(federation))
    return path


def blobs(path: Path, devices: int = 3, **other: np.ndarray) -> Path:
    """Write two blobs of 20 samples a device, of which 4 are to test."""
    n = 20 * devices
    y = np.arange(n) % 2
    X = np.random.default_rng(0).normal(size=(n, 2)) + 4 * y[:, None]
    arrays = {"X": X, "y": y, "device": np.arange(n) // 20, "split": np.arange(n) % 20 >= 16, **other}
    np.savez(path, **arrays)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return blobs(tmp_path / "blobs.npz")


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command; return its exit code, standard output and standard error."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


# ------------------------------------------------------------- the group


def test_help_takes_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-m", "fedthings", "--help"], check=True, capture_output=True)
    code = (
        "import sys, fedthings.cli\n"
        "assert fedthings.cli.main(['--help']) == 0\n"
        "heavy = {'numpy', 'rich', 'msgspec', 'paho', 'sqlalchemy', 'cryptography'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_command_file_is_listed_and_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {name for names in COMMANDS.values() for name in names}
    folder = Path(ft.__file__).parent / "commands"
    modules = {path.stem: import_module(f"fedthings.commands.{path.stem}") for path in folder.glob("[a-z]*.py")}
    assert {name for name, module in modules.items() if hasattr(module, "command")} == listed - HOMES.keys()
    _, out, _ = told(capsys, "--help")
    for name in sorted(listed):
        assert f"  {name} " in out
        code, page, _ = told(capsys, name, "--help")
        assert code == 0
        assert "Example" in page
        if "command" not in page.split("\n")[0].lower():  # a group has commands of its own
            assert "--json" in page


def test_misspelt_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, "simulat")
    assert code == 2
    assert "no command 'simulat': did you mean `simulate`?" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--version") == (0, f"fedthings, version {ft.__version__}\n", "")


@pytest.mark.parametrize("error", [ft.SpecError, ft.DataError, ft.TransportError, ft.StoreError])
def test_errors_end_with_a_message_and_their_code(
    error: type[ft.FedthingsError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("the thing is 3: make it 4")

    monkeypatch.setattr(fedthings, "main", fail)
    assert told(capsys, "runs") == (error.exit_code, "", "fedthings: the thing is 3: make it 4\n")


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fedthings, "main", interrupt)
    assert main(["runs"]) == 130


def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path) -> None:
    for run in range(2000):
        (tmp_path / f"run-{run}").mkdir()
        (tmp_path / f"run-{run}" / "federation.toml").touch()
    command = [sys.executable, "-m", "fedthings", "runs", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


# ----------------------------------------------------------------- check


def test_check_tells_what_would_be_sent(fed: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "check", fed, "--data", data)
    assert code == 0
    assert "3 devices with 48 training and 12 test samples" in out
    assert "this would work" in out
    code, out, _ = told(capsys, "check", fed, "--data", data, "--json")
    facts = json.loads(out.splitlines()[-1])
    assert facts["parameters"] == 6
    assert facts["report_bytes"] == {"train": 24}
    assert facts["problems"] == []


def test_check_names_every_device_that_does_not_fit(
    fed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = blobs(tmp_path / "bad.npz", y=np.repeat([0, 1, 7], 20))
    code, out, err = told(capsys, "check", fed, "--data", data)
    assert code == 3
    assert "device-2" in out
    assert "label 7" in out
    assert "1 problem in" in err


def test_check_notes_a_fleet_that_is_too_small(fed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "check", fed, "--data", blobs(tmp_path / "two.npz", devices=2))
    assert code == 0
    assert "pace.concurrency is 3, but the fleet has 2 devices" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["check", "none.toml", "--data", "none.npz"], 2, "there is no file none.toml"),
        (["check", "{fed}", "--data", "none.npz"], 3, "there is no file none.npz"),
        (["check", "{fed}"], 2, "Missing option '--data'"),
        (["simulate", "{fed}", "--fleet", "{data}", "--rounds", "0"], 2, "0 is not in the range"),
        (["simulate", "{fed}", "--fleet", "{data}", "--stop", "accuracy"], 2, "is not like accuracy=0.97"),
        (["simulate", "{fed}", "--fleet", "{data}", "--init", "none.safetensors"], None, "none.safetensors"),
        (["predict", "--state", "nowhere", "--data", "{data}"], 5, "there is no model nowhere"),
        (["runs", "nowhere"], 5, "there is no directory nowhere"),
        (["models", "nowhere"], 5, "nowhere is no run directory"),
        (["export", "nowhere", "--out", "m.npz"], 5, "there is no model nowhere"),
    ],
)
def test_bad_input_is_a_message(
    arguments: list[str],
    code: int | None,
    said: str,
    fed: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended, _, err = told(capsys, *(argument.format(fed=fed, data=data) for argument in arguments))
    assert ended == code if code else ended > 0
    assert said in err


def test_misspelt_field_names_the_nearest(fed: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fed.write_text(fed.read_text().replace("patience", "pacience"))
    code, _, err = told(capsys, "check", fed, "--data", data)
    assert code == 2
    assert "unknown field `pace.pacience`: did you mean `patience`?" in err


# --------------------------------------------- a run, from first to last


def test_simulate_then_look_and_take_the_model_out(
    fed: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "blobs"
    code, printed, err = told(
        capsys, "simulate", fed, "--fleet", data, "--test", data, "--rounds", 4, "--out", out, "--json"
    )
    assert code == 0, err
    assert "version 4/4" in err
    summary = json.loads(printed.splitlines()[-1])
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["rounds"] == 4
    assert summary["test"]["accuracy"] > 0.9

    code, printed, _ = told(capsys, "runs", tmp_path / "runs")
    assert code == 0
    assert "accuracy" in printed
    assert "done" in printed
    code, printed, _ = told(capsys, "runs", tmp_path / "runs", "--json")
    assert [run["version"] for run in json.loads(printed)["runs"]] == [4]

    code, printed, _ = told(capsys, "models", out, "--last", 2)
    assert code == 0
    assert "model.safetensors" in printed
    assert len([row for row in printed.splitlines() if row[:1].isdigit()]) == 2

    assert told(capsys, "export", out, "--to", "npz", "--out", tmp_path / "model.npz")[0] == 0
    with np.load(tmp_path / "model.npz") as arrays:
        assert sum(arrays[name].size for name in arrays.files) == 6
    assert told(capsys, "export", out, "--out", tmp_path / "model.safetensors")[0] == 0
    assert (tmp_path / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()

    questions = tmp_path / "questions.csv"
    questions.write_text("a,b\n0,0\n4,4\n")
    code, printed, _ = told(capsys, "predict", "--state", out, "--data", questions)
    assert code == 0
    header, *answers = (row.split(",") for row in printed.splitlines())
    assert header == ["output_0", "output_1"]
    assert [max((float(v), i) for i, v in enumerate(row))[1] for row in answers] == [0, 1]
    told(capsys, "predict", "--state", out, "--data", questions, "--out", tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text() == printed

    init = out / "model.safetensors"
    code, printed, _ = told(
        capsys,
        "simulate",
        fed,
        "--fleet",
        data,
        "--rounds",
        9,
        "--init",
        init,
        "--stop",
        "accuracy=0.9",
        "--json",
    )
    assert code == 0
    assert json.loads(printed.splitlines()[-1])["rounds"] < 9


def test_seed_goes_before_the_federations(fed: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, printed, _ = told(capsys, "simulate", fed, "--fleet", data, "--rounds", 1, "--seed", 5, "--json")
    assert json.loads(printed.splitlines()[-1])["seed"] == 5


def test_ctrl_c_leaves_a_run_to_go_on_with(
    fed: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that was stopped and taken up again ends in the same model as one that was not."""
    rounds = 300
    arguments = ["simulate", fed, "--fleet", data, "--rounds", rounds, "--out"]
    command = [sys.executable, "-m", "fedthings", *map(str, arguments), str(tmp_path / "stopped")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        history = tmp_path / "stopped" / "history.jsonl"
        while process.poll() is None and not (history.exists() and history.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on with the run" in err
    assert "Traceback" not in err
    assert 0 < len(history.read_text().splitlines()) < rounds
    for name in ("stopped", "whole"):
        assert told(capsys, *arguments, tmp_path / name)[0] == 0
    stopped, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole"))
    assert stopped == whole


def test_unfinished_run_is_listed_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "one"
    run.mkdir()
    (run / "federation.toml").touch()
    (run / "history.jsonl").write_text('{"version": 1}\n{"version": 2}\n{"vers')
    _, printed, _ = told(capsys, "runs", tmp_path, "--json")
    assert json.loads(printed)["runs"][0] | {"date": ""} == {
        "run": str(run),
        "version": 2,
        "best": None,
        "state": "stopped",
        "date": "",
    }
    (run / "history.jsonl").write_text("[]\n")
    code, _, err = told(capsys, "runs", tmp_path)
    assert code == 5
    assert "history.jsonl is damaged" in err


def test_progress_sums_the_bytes_and_ends_with_the_last_version(capsys: pytest.CaptureFixture[str]) -> None:
    line = {
        "version": 1,
        "updates": 3,
        "dropped": {"late": 2},
        "loss": 0.5,
        "metrics": {"accuracy": 0.9},
        "bytes_up": 1500,
        "bytes_down": 2_000_000,
    }
    with Progress(2) as progress:
        progress.show(line)
        progress.show({**line, "version": 2}, "4 at work")
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert "version 1/2  accuracy 0.9000  loss 0.5000  3 reports  left out: 2 late" in err[0]
    assert err[1].endswith("3 kB up, 4 MB down  4 at work")
