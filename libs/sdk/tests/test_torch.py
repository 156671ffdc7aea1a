"""Torch modules; runs where torch is installed (`moorage-sdk[torch]`)."""

import numpy as np
import pytest

from moorage_runtime.v2 import decode_json_tensors
from moorage_sdk.models.packaging import package

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("default")


def test_a_module_goes_as_onnx_with_a_free_batch_and_its_own_answers() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    rows = np.random.default_rng(0).normal(size=(8, 4))
    packaged = package(module, rows)
    assert packaged.format == "onnx"
    assert packaged.signature.inputs[0].shape == [-1, 4]
    assert module.training
    assert packaged.examples is not None
    answers = decode_json_tensors(packaged.examples.examples[0].outputs)["predict"]
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(rows).float()).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-6)
