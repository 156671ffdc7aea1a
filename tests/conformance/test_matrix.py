"""Every datatype in every form, asked over plain HTTP."""

import pytest
from conformance.cells import Ledger, assert_no_red, grid
from conformance.models import TOGETHER, WIDE, identity_of
from conformance.raw import LENGTH, RAW, Wire, infer_path, run_cell
from conformance.tensors import DATATYPES, answer, first_difference, request, sample, widened


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_form_of_a_datatype_is_answered_bit_by_bit(wire: Wire, ledger: Ledger, datatype: str) -> None:
    assert_no_red([run_cell(wire, cell, ledger) for cell in grid(datatype)])


def test_raw_and_json_tensors_of_all_datatypes_share_a_request(wire: Wire, ledger: Ledger) -> None:
    inputs = {d.lower(): sample(d, beyond_json=False, rows=8) for d in TOGETHER}
    raw = {name: at % 2 == 0 or name == "fp16" for at, name in enumerate(inputs)}
    outputs = [{"name": f"{name}_out", "parameters": {"binary_data": raw[name]}} for name in reversed(inputs)]
    text = ""
    try:
        body, length = request(inputs, binary=raw, outputs=outputs)
        got = wire.ask("POST", infer_path(WIDE), body, {LENGTH: str(length)})
        assert got.status == 200, f"status {got.status}: {got.body[:300]!r}"
        found = answer(got.body, int(got.headers[LENGTH]))
        assert found.binary == {f"{name}_out": raw[name] for name in inputs}
        differences = {name: first_difference(sent, found.tensors[f"{name}_out"]) for name, sent in inputs.items()}
        text = "; ".join(f"{name}: {difference}" for name, difference in differences.items() if difference)
    except (AssertionError, KeyError) as error:
        text = str(error)
    assert_no_red([ledger.note(RAW, "infer", "all datatypes in one request", text)])


def test_bf16_is_widened_for_a_model_of_fp32(wire: Wire, ledger: Ledger) -> None:
    inputs = {name: sample("BF16", beyond_json=True, rows=6) for name in ("x", "y")}
    text = ""
    try:
        body, length = request(inputs, binary=dict.fromkeys(inputs, True), parameters={"binary_data_output": True})
        got = wire.ask("POST", infer_path(identity_of("FP32")), body, {LENGTH: str(length)})
        assert got.status == 200, f"status {got.status}: {got.body[:300]!r}"
        found = answer(got.body, int(got.headers[LENGTH]))
        text = first_difference(widened(inputs["x"]), found.tensors["x_out"])
    except (AssertionError, KeyError) as error:
        text = str(error)
    assert_no_red([ledger.note(RAW, "infer", "BF16 to a model of FP32", text)])
