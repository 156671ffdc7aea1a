"""A warm host: no tenant's, until it is assigned to one, once."""

import json
from typing import Any

import pytest

from moorage_common.contracts import host_calls
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import Conflict
from moorage_runtime.config import HostConfig
from moorage_runtime.host import ReplicaHost

SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 2])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1, 2])],
)


def test_a_warm_host_serves_nobody_until_it_is_assigned_and_then_one_tenant_for_good(
    blobs: Any, doubling: bytes, tmp_path: Any, until_ready: Any
) -> None:
    cache = str(tmp_path / "cache")
    host = ReplicaHost(HostConfig(host_id="w1", cache_dir=cache, warm=["onnx"]).model_dump_json())
    try:
        identity = host.identity()
        assert (identity["tenant"], identity["address"], identity["versions"]) == ("", "", [])
        with pytest.raises(Conflict):
            host.load("{}")
        spec = blobs.spec(blobs.put(doubling), "onnx", SIGNATURE)
        ours = HostConfig(host_id="w1", tenant="demo", cache_dir=cache, loads=[spec]).model_dump_json()
        client = until_ready(host, ours)
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
        assert json.loads(client.infer(body).content)["outputs"][0]["data"] == [2.0, 4.0]
        assert client.infer(body, {host_calls.TENANT: "other"}).status_code == 404
        assert host.assign(ours)["generation"] == identity["generation"], "the same again changes nothing"
        theirs = HostConfig(host_id="w1", tenant="other", cache_dir=cache)
        with pytest.raises(Conflict, match="assigned already"):
            host.assign(theirs.model_dump_json())
        client.http.close()
    finally:
        host.stop()
