"""Law 5: randomness is keyed and counter-based, never global."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

import fedthings
from fedthings.vector import Key, digest, keyed

SOURCE = Path(fedthings.__path__[0])


def test_equal_keys_draw_alike_and_others_do_not():
    key = Key(1, "device", 2, 0)
    assert np.array_equal(key.rng("shuffle").random(8), key.rng("shuffle").random(8))
    others = [key.rng("noise"), key._replace(seed=2).rng("shuffle"), key._replace(device="other").rng("shuffle")]
    others += [key._replace(version=3).rng("shuffle"), key._replace(attempt=1).rng("shuffle")]
    draws = [tuple(rng.random(4)) for rng in [key.rng("shuffle"), *others]]
    assert len(set(draws)) == len(draws)
    assert isinstance(keyed(0).bit_generator, np.random.Philox)
    whole = np.random.Generator(np.random.Philox(key=digest(7, "purpose")))
    assert np.array_equal(keyed(7, "purpose").random(9), whole.random(9))


KEYED = {("with_sklearn.py", "RandomState")} | {("with_keras.py", name) for name in ("seed", "get_state", "set_state")}
"""What is made of a key too: scikit-learn takes no other generator, and Keras the global ones, put back afterwards."""


def test_nothing_draws_from_a_global_generator():
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("np.random."):
                known = file.name == "philox.py" or node.attr == "Generator" or (file.name, node.attr) in KEYED
                assert known, f"{file}: {ast.unparse(node)}"
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert "random" not in names or file.name in ("mqtt.py", "with_keras.py"), file  # the jitter of a reconnect
