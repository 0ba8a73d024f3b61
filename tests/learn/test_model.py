"""A model is data: its shapes, names, first parameters, what is refused, and its file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedthings.errors import DataError, SpecError
from fedthings.learn import save
from fedthings.learn.layers import Layer
from fedthings.learn.model import (
    Sequential,
    avg_pool,
    conv1d,
    conv2d,
    dense,
    dropout,
    flatten,
    impute,
    layer_norm,
    max_pool,
    mlp,
    outputs,
    relu,
    sequential,
    softmax,
    standardise,
    tanh,
)

IMAGES = sequential(
    (8, 8, 1), standardise(np.zeros((8, 8, 1)), np.full((8, 8, 1), 2)), conv2d(4, 3, padding="same"), relu(),
    max_pool(2), layer_norm(), flatten(), dropout(0.1), dense(10, "softmax"),
)  # fmt: skip


def test_shapes_and_names() -> None:
    assert mlp(43, 64, 6) == sequential(43, dense(64, "relu"), dense(6))
    names = [(part.name, part.shape) for part in IMAGES.layout.parts]
    assert names == [
        ("1.conv2d.weight", (3, 3, 1, 4)),
        ("1.conv2d.bias", (4,)),
        ("4.layer_norm.weight", (4,)),
        ("4.layer_norm.bias", (4,)),
        ("7.dense.weight", (64, 10)),
        ("7.dense.bias", (10,)),
    ]
    assert IMAGES.layout.dim == 36 + 4 + 4 + 4 + 640 + 10
    assert IMAGES.shapes[3:6] == ((8, 8, 4), (4, 4, 4), (4, 4, 4))
    assert IMAGES.outputs == (10,)
    assert sequential((7, 2), conv1d(3, 2, 2), avg_pool(2, 1)).outputs == (2, 3)


@pytest.mark.parametrize(
    ("input", "layers", "words"),
    [
        ((4, 4, 1), [relu(), dense(3)], r"layer 1 \(dense\), with input \(4, 4, 1\): .*put flatten\(\) before"),
        ((4,), [conv2d(3, 3)], r"layer 0 \(conv2d\), with input \(4,\): .*\(height, width, channels\)"),
        ((4, 4, 1), [conv1d(3, 3)], r"layer 0 \(conv1d\).*\(steps, channels\)"),
        ((4, 4, 1), [conv2d(3, 5)], r"layer 0 \(conv2d\).*kernel is 5.*make it 4 or less"),
        ((4, 2), [conv1d(3, 1), max_pool(5)], r"layer 1 \(max_pool\), with input \(4, 3\): size is 5"),
        ((4,), [max_pool(2)], r"layer 0 \(max_pool\).*leave it out"),
        ((4,), [dense(0)], r"layer 0 \(dense\).*units is 0"),
        ((4,), [dense(2), dropout(1.0)], r"layer 1 \(dropout\).*rate is 1.0"),
        ((4,), [standardise([1, 2], [1, 1]), dense(2)], r"layer 0 \(standardise\).*mean has 2 numbers: give 4"),
        ((2,), [standardise([1, 2], [1, 0]), dense(2)], r"deviation is not above 0"),
        ((2,), [impute(float("nan")), dense(2)], r"layer 0 \(impute\).*finite"),
        ((4,), [relu()], "nothing to train: add a dense layer"),
        ((0,), [dense(1)], r"model.input is \(0,\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(input: tuple[int, ...], layers: list[Layer], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        sequential(input, *layers)


def test_too_few_sizes() -> None:
    with pytest.raises(SpecError, match=r"mlp\(43, 64, 6\)"):
        mlp(4)


def test_the_first_parameters_depend_on_seed_and_name_alone() -> None:
    model = sequential(50, dense(40, "relu"), dense(30), relu(), dense(20), layer_norm())
    row = model.init(1)
    assert row.dtype == np.float32
    np.testing.assert_array_equal(row, model.init(1))
    assert (row != model.init(2)).any()
    parts = model.layout.views(row)
    limits = {"0": np.sqrt(6 / 50), "1": np.sqrt(6 / 40), "3": np.sqrt(6 / 50)}  # relu after 0 and 1, not after 3
    for index, limit in limits.items():
        size = np.abs(parts[f"{index}.dense.weight"]).max()
        assert 0.95 * limit < size <= limit
        assert not parts[f"{index}.dense.bias"].any()
    assert (parts["4.layer_norm.weight"] == 1).all()
    assert not parts["4.layer_norm.bias"].any()


def test_a_model_is_the_same_after_a_journey() -> None:
    plain = msgspec.to_builtins(IMAGES, builtin_types=(bytes,))
    assert [layer["type"] for layer in plain["layers"]][1:5] == ["conv2d", "relu", "max_pool", "layer_norm"]
    assert msgspec.convert(plain, Sequential) == IMAGES
    assert msgspec.json.decode(msgspec.json.encode(IMAGES), type=Sequential) == IMAGES
    assert b"null" not in msgspec.json.encode(IMAGES)  # which TOML does not have
    with pytest.raises(msgspec.ValidationError, match="unknown field `unit`"):
        msgspec.convert({"input": [3], "layers": [{"type": "dense", "units": 3, "unit": 3}]}, Sequential)
    with pytest.raises(SpecError, match=r"layer 0 \(dense\)"):
        msgspec.convert({"input": [3, 3], "layers": [{"type": "dense", "units": 3}]}, Sequential)


def test_outputs_are_predictions_in_any_number() -> None:
    rng = np.random.default_rng(0)
    row, X = IMAGES.init(0), rng.normal(size=(2500, 8, 8, 1))
    found = outputs(IMAGES, row, X)
    assert found.shape == (2500, 10)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[2400:], outputs(IMAGES, row, X[2400:]), rtol=1e-4)
    assert outputs(IMAGES, row, X[:0]).shape == (0, 10)
    with pytest.raises(SpecError, match=r"\(8, 8\).*\(8, 8, 1\)"):
        outputs(IMAGES, row, X[..., 0])


def test_a_file_holds_all_and_is_the_same_each_time(tmp_path: Path) -> None:
    row, path = IMAGES.init(3), tmp_path / "model.safetensors"
    metadata = {"version": 7, "metrics": {"accuracy": 0.5}, "classes": ["a", "b"]}
    save.save(path, IMAGES, row, metadata)
    first = path.read_bytes()
    save.save(path, IMAGES, row, {"classes": ["a", "b"], "metrics": {"accuracy": 0.5}, "version": 7})
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    model, loaded, found = save.load(path)
    assert model == IMAGES
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, row)
    assert found == metadata
    from safetensors.numpy import load_file

    assert set(load_file(path)) == {part.name for part in IMAGES.layout.parts} | {
        f"0.standardise.{field}" for field in ("mean", "deviation", "fill")
    }


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match="there is no model file"):
        save.load(path)
    save.save(path, mlp(3, 2), mlp(3, 2).init(0), {})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="cut short"):
        save.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(DataError, match="no model file of fedthings"):
        save.load(path)


def test_a_model_hashes_and_compares_by_what_it_says() -> None:
    assert mlp(3, 2) == mlp(3, 2) and hash(mlp(3, 2)) == hash(mlp(3, 2))
    assert sequential(3, dense(2), tanh()) != sequential(3, dense(2), softmax())


def test_a_model_file_is_written_as_safetensors_itself_writes_it() -> None:
    from safetensors.numpy import save as written

    from fedthings.learn.save import packed

    arrays = {name: np.array(view) for name, view in IMAGES.layout.views(IMAGES.init(3)).items()}
    words = {"fedthings": '{"name": "k\u00fcche \\n / x"}'}
    assert b"".join(packed(arrays, words)) == written(arrays, words)
