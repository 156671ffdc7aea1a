"""Small ONNX classifiers with a known right answer, and versions of them that are worse in one way each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES = 3
_FEATURES = 4
WIDTH = _FEATURES + 2
"""Of a row: the features, what decides whether the model fails on it, and whether it is wrong about it."""
_SIDE = 160
_WEIGHTS = np.random.default_rng(5).normal(size=(_FEATURES, CLASSES)).astype(np.float32)

Row = NDArray[np.float32]


@dataclass(frozen=True)
class Behaviour:
    """How a version answers.

    Attributes:
        work: products of two 160 x 160 matrices before each answer.
        failing: share of the rows that it fails on, with an error of its runtime.
        wrong: share of the rows that it is wrong about; how often it answers each class stays the same.
        seed: versions of another seed have another digest and answer alike.
    """

    work: int = 1
    failing: float = 0.0
    wrong: float = 0.05
    seed: int = 0


def rows(random: np.random.Generator, count: int) -> Row:
    """`count` rows, [count, WIDTH]."""
    made = random.random(size=(count, WIDTH), dtype=np.float32)
    made[:, :_FEATURES] = random.normal(size=(count, _FEATURES))
    return made


def example() -> Row:
    """Rows that no version fails on."""
    made = rows(np.random.default_rng(1), 8)
    made[:, _FEATURES] = 0.5
    return made


def truth(row: Row) -> int:
    """The right class of a row."""
    return int(np.argmax(row[:_FEATURES] @ _WEIGHTS))


def made(behaviour: Behaviour) -> Any:
    """The graph: `x` FP32 [rows, WIDTH] to `class` INT64 [rows]."""
    square = np.linalg.qr(np.random.default_rng(behaviour.seed).normal(size=(_SIDE, _SIDE)))[0].astype(np.float32)
    constants = {
        "weights": _WEIGHTS,
        "square": square,
        "nothing": np.float32(0),
        "one": np.array([1]),
        "zero": np.array([0]),
        "classes": np.array([CLASSES]),
        "failing": np.float32(1 - behaviour.failing),
        "wrong": np.float32(behaviour.wrong),
        **{f"at_{column}": np.array([column]) for column in (0, _FEATURES, _FEATURES + 1, WIDTH)},
    }
    nodes = [*_answering(), *_failing(), *_working(behaviour.work)]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("class", TensorProto.INT64, [None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _column(name: str, first: int, end: int) -> Any:
    return helper.make_node("Slice", ["x", f"at_{first}", f"at_{end}", "one"], [name])


def _answering() -> list[Any]:
    """`answer`: the likeliest class, or the next one where the row's last number says so."""
    return [
        _column("features", 0, _FEATURES),
        helper.make_node("MatMul", ["features", "weights"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["likeliest"], axis=1, keepdims=0),
        _column("luck_", _FEATURES + 1, WIDTH),
        helper.make_node("Squeeze", ["luck_", "one"], ["luck"]),
        helper.make_node("Less", ["luck", "wrong"], ["is_wrong"]),
        helper.make_node("Cast", ["is_wrong"], ["shift"], to=TensorProto.INT64),
        helper.make_node("Add", ["likeliest", "shift"], ["shifted"]),
        helper.make_node("Mod", ["shifted", "classes"], ["answer"]),
    ]


def _failing() -> list[Any]:
    """`passed` is 0, or cannot be made: one number does not fill a shape of two."""
    return [
        _column("strain", _FEATURES, _FEATURES + 1),
        helper.make_node("Greater", ["strain", "failing"], ["is_over"]),
        helper.make_node("Cast", ["is_over"], ["over"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["over"], ["any_over"], keepdims=0),
        helper.make_node("Add", ["one", "any_over"], ["length"]),
        helper.make_node("Reshape", ["zero", "length"], ["passed"]),
    ]


def _working(work: int) -> list[Any]:
    """`class`: the answer, after products whose outcome is added to it as 0. They start from the input, so that none
    is made ahead."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "nothing"], ["none"]),
        helper.make_node("Add", ["square", "none"], ["product_0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"product_{n}", "square"], [f"product_{n + 1}"]) for n in range(work)]
    return [
        *nodes,
        helper.make_node("ReduceMax", [f"product_{work}"], ["last"], keepdims=0),
        helper.make_node("Mul", ["last", "nothing"], ["no_number"]),
        helper.make_node("Cast", ["no_number"], ["no_class"], to=TensorProto.INT64),
        helper.make_node("Add", ["answer", "passed"], ["sure"]),
        helper.make_node("Add", ["sure", "no_class"], ["class"]),
    ]
