"""Law 1: the round logic reads no clock, opens no socket, sees no array, and draws only by key."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import fedthings.protocol

FORBIDDEN = {"time", "socket", "random", "secrets", "threading", "asyncio", "numpy", "os", "pathlib", "datetime"}


def test_the_protocol_imports_nothing_that_could_do_io():
    for file in Path(fedthings.protocol.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not FORBIDDEN & {name.split(".")[0] for name in names}, file.name


def test_no_array_comes_in_with_it():
    code = "import sys, fedthings.protocol.coordinator; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
