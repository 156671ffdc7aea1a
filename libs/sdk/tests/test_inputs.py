"""What people have at hand, as named tensors."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moorage_common.contracts.tensors import TensorSpec
from moorage_sdk.inputs import WrongInputs, named_arrays, read_inputs

MATRIX = [TensorSpec(name="input", datatype="FP32", shape=[-1, 2], columns=["a", "b"])]
COLUMNS = [
    TensorSpec(name="colour", datatype="BYTES", shape=[-1]),
    TensorSpec(name="size", datatype="FP64", shape=[-1]),
]


def test_an_array_goes_to_the_only_input_in_its_datatype() -> None:
    arrays = named_arrays([[1, 2], [3, 4]], MATRIX)
    assert arrays["input"].dtype == np.float32
    assert arrays["input"].shape == (2, 2)


def test_a_data_frame_is_put_into_training_order() -> None:
    frame = pd.DataFrame({"b": [2.0], "extra": [9.0], "a": [1.0]})
    np.testing.assert_array_equal(named_arrays(frame, MATRIX)["input"], [[1.0, 2.0]])
    with pytest.raises(WrongInputs, match="lacks columns that the model takes: b"):
        named_arrays(frame[["a", "extra"]], MATRIX)


def test_a_data_frame_goes_column_by_column_where_the_model_takes_columns() -> None:
    arrays = named_arrays(pd.DataFrame({"colour": ["red"], "size": [1]}), COLUMNS)
    assert arrays["size"].dtype == np.float64
    assert arrays["colour"].tolist() == ["red"]


def test_an_array_for_several_inputs_names_them() -> None:
    with pytest.raises(WrongInputs, match="colour, size"):
        named_arrays([1, 2], COLUMNS)


def test_inputs_are_read_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(2))
    np.savez(tmp_path / "x.npz", a=np.eye(2))
    (tmp_path / "x.json").write_text("[[1, 2]]")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    np.testing.assert_array_equal(read_inputs(tmp_path / "x.npy"), np.eye(2))
    assert list(read_inputs(tmp_path / "x.npz")) == ["a"]
    assert read_inputs(tmp_path / "x.json") == [[1, 2]]
    assert list(read_inputs(tmp_path / "x.csv").columns) == ["a", "b"]
    with pytest.raises(WrongInputs, match=r"give \.npy"):
        read_inputs(tmp_path / "x.bin")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(WrongInputs, match="cannot be read"):
        read_inputs(tmp_path / "objects.npy")


def test_pandas_own_types_go_as_the_model_declares() -> None:
    matrix = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.array([0.5, 2], dtype="Float64")})
    array = named_arrays(matrix, MATRIX)["input"]
    assert array.dtype == np.float32
    assert np.isnan(array[1, 0])
    columns = pd.DataFrame({"colour": pd.Categorical(["red"]), "size": pd.array([3], dtype="Int64")})
    arrays = named_arrays(columns, COLUMNS)
    assert arrays["size"].dtype == np.float64
    assert arrays["colour"].tolist() == ["red"]


def test_a_text_that_is_missing_is_refused_rather_than_sent_as_text() -> None:
    with pytest.raises(WrongInputs, match="colour: a text is missing"):
        named_arrays(pd.DataFrame({"colour": ["red", None], "size": [1.0, 2.0]}), COLUMNS)


def test_whole_numbers_are_not_made_of_halves() -> None:
    whole = [TensorSpec(name="count", datatype="INT64", shape=[-1])]
    halves = pd.DataFrame({"count": pd.array([1.5, 2.0], dtype="Float64")})
    assert named_arrays(halves, whole)["count"].dtype == np.float64
