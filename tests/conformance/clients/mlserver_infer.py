"""The command `mlserver infer`: requests as lines of a file, answers as lines of another."""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from job import Json, array, packed, run
from mlserver.cli.main import root


def line(item: Json) -> str:
    """A request. Without named outputs the command asks for raw bytes; with them, for what its switch says."""
    inputs = []
    for tensor in item["inputs"]:
        elements = array(tensor).ravel().tolist()
        data = [e.decode() if isinstance(e, bytes) else e for e in elements]
        inputs.append({"name": tensor["name"], "shape": tensor["shape"], "datatype": tensor["datatype"], "data": data})
    document: Json = {"id": item["id"], "inputs": inputs}
    if not all(item["answered"].values()):
        document["outputs"] = [{"name": name} for name in item["answered"]]
    return json.dumps(document)


def arguments(job: Json, model: str, source: Path, target: Path, binary: bool) -> list[str]:
    header = f"Authorization: {job['headers']['authorization']}"
    switches = ["--binary-data"] if binary else []
    return ["infer", "-u", job["host"], "-m", model, "-i", str(source), "-o", str(target), "-w", "2", "-r", "1", "-H",
            header, *switches]  # fmt: skip


def result(document: Any) -> Json:
    if "error" in document:
        return {"error": str(document["error"]["msg"])[:500]}
    tensors = {o["name"]: packed(o["data"], o["datatype"], o["shape"]) for o in document["outputs"]}
    return {"outputs": tensors, **{key: document.get(key) for key in ("model_name", "model_version", "id")}}


def answer(job: Json) -> list[Json]:
    """One run of the command for each model and form, in this process; the last one as a process of its own."""
    groups = defaultdict(list)
    for item in job["infer"]:
        groups[item["model"], item["inputs"][0]["binary"]].append(item)
    results = []
    for (model, binary), items in groups.items():
        with tempfile.TemporaryDirectory() as directory:
            source, target = Path(directory) / "requests", Path(directory) / "answers"
            source.write_text("".join(f"{line(item)}\n" for item in items))
            root.main(arguments(job, model, source, target, binary), standalone_mode=False)
            lines = [json.loads(one) for one in target.read_text().splitlines()]
        by_id = {one.get("id"): one for one in lines}
        failed = [one for one in lines if "error" in one]
        for at, item in enumerate(items):
            own = by_id.get(item["id"]) or next((f for f in failed if f["parameters"]["batch_index"] == at), None)
            found = {"error": "the command wrote no answer"} if own is None else result(own)
            results.append({"cell": item["cell"], **found})
    results.append({"cell": "micro-batches as a command", **as_a_command(job)})
    return results


def as_a_command(job: Json) -> Json:
    """`mlserver infer` as a user types it, eight requests sent as batches of four; the ids that were answered."""
    item = next(item for item in job["infer"] if not item["inputs"][0]["binary"])
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "requests", Path(directory) / "answers"
        source.write_text("".join(line(item | {"id": f"batch-{at}"}) + "\n" for at in range(8)))
        command = [str(Path(sys.executable).with_name("mlserver"))]
        command += [*arguments(job, item["model"], source, target, False), "-s", "4"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if ended.returncode or not target.exists():
            return {"error": ended.stderr[-500:]}
        return {"value": sorted(str(json.loads(one).get("id")) for one in target.read_text().splitlines())}


if __name__ == "__main__":
    run("mlserver", answer)
