"""Files of their owner's only."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedthings.errors import StoreError
from fedthings.identity.files import private


def test_it_is_private_and_whole_also_over_what_was_left(tmp_path: Path) -> None:
    path = tmp_path / "word"
    path.write_text("before")
    path.chmod(0o644)
    (tmp_path / "word.new").write_text("of one that was killed while it wrote")
    private(path, "wörd\n", fsync=True)
    assert path.read_bytes() == "wörd\n".encode() and path.stat().st_mode & 0o777 == 0o600
    private(path, b"\0\n")
    assert path.read_bytes() == b"\0\n" and sorted(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*word: No such file or directory; make room, or check"):
        private(tmp_path / "none" / "word", "")
