"""Keys: what is held, told and imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedthings.errors import SpecError, StoreError
from fedthings.identity.keys import held, parsed, spelled


def test_a_key_is_made_once_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "new" / "device.key"
    key = held(path)
    assert len(key) == 32 and held(path) == key and path.stat().st_mode & 0o777 == 0o600
    assert parsed(spelled(key), "it", "nobody") == key
    path.write_bytes(key[:31])
    with pytest.raises(StoreError, match="has 31 bytes, not 32"):
        held(path)
    with pytest.raises(SpecError, match="the helper is 'short': give a public key"):
        parsed("short", "the helper", "`fedthings helper`")


def test_who_only_describes_a_phase_imports_no_cryptography() -> None:
    code = "import sys, fedthings.phase; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
