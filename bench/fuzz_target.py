"""The fuzzed side of fuzz_codec.py: makes inputs, decodes them, counts. Run by it, in a process of its own.

An input is four bytes and a body: the first says by its lowest bit whether a length header comes with the body, the
other three are that length. `--atheris` lets coverage choose what is mutated, else all seeds are equal.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CODEC = "moorage_runtime.v2"
LIMIT_BYTES = 8 * 1024 * 1024
MAX_INPUT_BYTES = 128 * 1024
SLOW_S = 0.05
INTERESTING: list[Any] = [
    None, True, False, 0, 1, -1, 2, 127, 128, 255, 256, -129, 65504, 65520, 65536, 2**31, 2**32,
    -(2**31) - 1, 2**53 + 1,
    2**63, 2**64 - 1, -(2**63), 0.5, -0.0, 1e-320, 3.5e38, 1.7e308, "", "x", "é", "😀", "\\", '"', "[", "],[", "null",
    "a" * 300, [], {}, [[]], [{}], [[], []], [0, 1], [[0, 1], [2, 3]], ["a", "b"], [["a"], ["b"]], {"a": 1},
    {"binary_data_size": 4}, {"binary_data_size": -1}, {"binary_data": True}, {"binary_data_output": 1},
]  # fmt: skip
NAMES = ["inputs", "outputs", "name", "datatype", "shape", "data", "parameters", "id", "binary_data_size", "unknown"]
TOKENS = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"0", b"-", b"1e9", b"e", b".", b"null", b"true", b"\xff",
          b"\\ud83d", b"\\u0000", b" ", b"\n", b'""', b"[]", b"NaN", b"\0"]  # fmt: skip


class Mutator:
    """Changes a message's structure where it can be read, else its bytes."""

    def __init__(self, dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any], datatypes: list[str]) -> None:
        self._dumps, self._loads, self._datatypes = dumps, loads, datatypes

    def __call__(self, data: bytes, draw: random.Random) -> bytes:
        told, length = data[:1] and data[0] & 1, int.from_bytes(data[1:4], "little")
        body = data[4:]
        end = min(length, len(body)) if told else len(body)
        head, raw = body[:end], body[end:]
        if draw.random() < 0.75:
            try:
                document = self._loads(head)
                for _ in range(draw.choice((1, 1, 1, 2, 4))):
                    document = self._changed(document, draw)
                head = self._dumps(document)
            except (ValueError, TypeError, RecursionError):
                head = self._scratched(head, draw)
        else:
            head = self._scratched(head, draw)
        if draw.random() < 0.1:
            raw = self._scratched(raw, draw)
        if draw.random() < 0.002:
            head += b" " * draw.randrange(70_000)
        length = len(head) if draw.random() < 0.95 else draw.randrange(2 * len(head) + 2)
        if draw.random() < 0.02:
            told = not told
        return (bytes([1 if told else 0]) + length.to_bytes(4, "little")[:3] + head + raw)[:MAX_INPUT_BYTES]

    @staticmethod
    def _scratched(text: bytes, draw: random.Random) -> bytes:
        for _ in range(draw.choice((1, 1, 2, 8))):
            at = draw.randrange(len(text) + 1)
            if draw.random() < 0.5:
                text = text[:at] + draw.choice(TOKENS) * draw.choice((1, 1, 1, 3, 20)) + text[at + draw.randrange(3) :]
            else:
                other = draw.randrange(len(text) + 1)
                text = text[:at] + text[min(at, other) : other + draw.randrange(8)] + text[at:]
        return text[:MAX_INPUT_BYTES]

    def _changed(self, value: Any, draw: random.Random) -> Any:
        """`value` with one place of it changed; it is fresh and may be changed itself."""
        place: Any = value
        for _ in range(draw.randrange(6)):
            children = list(place.values()) if isinstance(place, dict) else place if isinstance(place, list) else []
            deeper = [c for c in children if isinstance(c, dict | list)]
            if not deeper:
                break
            place = draw.choice(deeper)
        if isinstance(place, dict):
            self._in_object(place, draw)
        elif isinstance(place, list):
            self._in_list(place, draw)
        return value

    def _in_object(self, place: dict[str, Any], draw: random.Random) -> None:
        key = draw.choice([*place, draw.choice(NAMES)])
        match draw.randrange(6):
            case 0:
                place.pop(key, None)
            case 1 if "datatype" in place:
                place["datatype"] = draw.choice(self._datatypes)
            case 2 if isinstance(place.get("shape"), list):
                self._in_list(place["shape"], draw)
            case 3:
                place[key] = self._nested(draw)
            case _:
                place[key] = draw.choice(INTERESTING)

    def _in_list(self, place: list[Any], draw: random.Random) -> None:
        at = draw.randrange(len(place) + 1)
        match draw.randrange(6):
            case 0:
                del place[at : at + draw.randrange(3)]
            case 1:
                place[at:at] = place[: draw.choice((1, 8, 64, 2000))]
            case 2 if place:
                place[at - 1] = [place[at - 1]]
            case 3:
                place[at:at] = [self._nested(draw)]
            case _:
                place[at : at + 1] = [draw.choice(INTERESTING)] * draw.choice((1, 1, 1, 5, 70))

    @staticmethod
    def _nested(draw: random.Random) -> Any:
        value: Any = draw.choice(INTERESTING)
        for _ in range(draw.choice((1, 3, 12, 20))):
            value = [value] if draw.random() < 0.7 else {draw.choice(NAMES): value}
        return value


class Target:
    """Decodes inputs and keeps what the report says, in a file that its reader may find at any time."""

    def __init__(self, codec: Any, refused: type[Exception], args: argparse.Namespace) -> None:
        self._codec, self._refused = codec, refused
        self._until = time.monotonic() + args.seconds
        self._wanted, self._out = args.inputs, Path(args.out)
        self._began_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._began = time.monotonic()
        self.stats: dict[str, Any] = {
            "engine": "atheris" if args.atheris else "seeded mutator, no coverage", "seed": args.seed, "inputs": 0,
            "accepted": 0, "crashes": 0, "slowest_cpu_ms": 0.0, "largest_input_bytes": 0, "first_crashes": [],
        }  # fmt: skip

    def one(self, data: bytes) -> None:
        """Decode one input both as a request and as a response."""
        stats = self.stats
        stats["inputs"] += 1
        length = str(int.from_bytes(data[1:4], "little")) if data[:1] and data[0] & 1 else None
        body = data[4:]
        began = time.thread_time()
        self._decode(body, length)
        took = time.thread_time() - began
        if took > max(SLOW_S, stats["slowest_cpu_ms"] / 1000):  # a busy machine slows memory down too: the best of four
            took = min(took, *(self._timed(body, length) for _ in range(3)))
        if took * 1000 > stats["slowest_cpu_ms"]:
            stats["slowest_cpu_ms"] = round(took * 1000, 3)
            stats["slowest_input"] = body[:200].decode("latin-1")
        stats["largest_input_bytes"] = max(stats["largest_input_bytes"], len(body))
        if stats["inputs"] % 1000 == 0 or stats["inputs"] >= self._wanted:
            self.keep()

    def _timed(self, body: bytes, length: str | None) -> float:
        began = time.thread_time()
        self._decode(body, length)
        return time.thread_time() - began

    def _decode(self, body: bytes, length: str | None) -> None:
        for decode in (self._codec.decode_request, self._codec.decode_response):
            try:
                found = decode(body, length, limit_bytes=LIMIT_BYTES)
                if decode is self._codec.decode_request:
                    self.stats["accepted"] += 1
                    if self.stats["accepted"] % 8 == 0:
                        self._again(found)
            except self._refused as error:
                if not 400 <= error.status < 500:  # type: ignore[attr-defined]
                    self._crashed(body, length)
            except Exception:  # noqa: BLE001 - that is what is looked for
                self._crashed(body, length)

    def _again(self, request: Any) -> None:
        """What was decoded is encoded, decoded and encoded to the same bytes."""
        sent = self._codec.encode_request(request.inputs, binary=True, datatypes=request.datatypes)
        found = self._codec.decode_request(sent.body, sent.headers.get(self._codec.HEADER_LENGTH))
        again = self._codec.encode_request(found.inputs, binary=True, datatypes=found.datatypes)
        if sent.body != again.body:
            raise AssertionError("decoded and encoded again, it is another message")

    def _crashed(self, body: bytes, length: str | None) -> None:
        self.stats["crashes"] += 1
        if len(self.stats["first_crashes"]) < 10:
            text = {"body": body[:5000].decode("latin-1"), "length": length, "error": traceback.format_exc()[-2000:]}
            self.stats["first_crashes"].append(text)

    def keep(self) -> None:
        """Write the report; end the process when it has done what was wanted."""
        now = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.stats["seconds"] = round(now - self._began, 1)
        self.stats["peak_over_start_mib"] = round((peak - self._began_kib) / 1024, 1)
        self._out.write_text(json.dumps(self.stats))
        if self.stats["inputs"] >= self._wanted or now > self._until:
            os._exit(0)  # libFuzzer would go on, and report the interpreter's own memory as leaked


def seeds(codec: Any, numpy: Any, draw: random.Random) -> list[bytes]:
    """Messages as clients make them, of every datatype."""
    found = []
    for binary in (True, False):
        for datatype, dtype in codec.DTYPES.items():
            if datatype == "BF16" and not binary:
                continue
            for shape in ([], [3], [2, 3], [1, 64], [2, 0], [2, 1, 2]):
                values = [draw.randrange(2) for _ in range(int(numpy.prod(shape)))]
                array = numpy.array([str(v) for v in values] if datatype == "BYTES" else values).astype(dtype)
                tensors = {"x": array.reshape(shape), "y": numpy.array([1, 2])}
                sent = codec.encode_request(
                    tensors, binary=binary, datatypes={"x": datatype}, id="7", outputs=["a"] if binary else None
                )
                length = (
                    len(sent.body)
                    if codec.HEADER_LENGTH not in sent.headers
                    else int(sent.headers[codec.HEADER_LENGTH])
                )
                found.append(bytes([binary]) + length.to_bytes(3, "little") + sent.body)
                if shape and not binary and datatype != "BYTES":
                    tensor = {"name": "x", "datatype": datatype, "shape": shape, "data": array.reshape(shape).tolist()}
                    body = json.dumps(
                        {"inputs": [tensor], "outputs": [{"name": "a", "parameters": {"binary_data": True}}]}
                    )
                    found.append(b"\0\0\0\0" + body.encode())
                    found.append(
                        b"\0\0\0\0" + body.replace('"outputs"', '"x"').replace('"inputs"', '"outputs"').encode()
                    )
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--seed", type=int, required=True)
    options.add_argument("--out", required=True)
    options.add_argument("--atheris", action="store_true")
    args = options.parse_args()
    instrumented: Any = contextlib.nullcontext()
    if args.atheris:
        import atheris  # type: ignore[import-not-found]

        instrumented = atheris.instrument_imports(include=[CODEC])
    with instrumented:
        from moorage_runtime import v2
    import numpy
    import orjson

    from moorage_common.errors import MoorageError

    draw = random.Random(args.seed)
    mutate = Mutator(orjson.dumps, orjson.loads, [*v2.DTYPES, "FP8"])
    corpus = seeds(v2, numpy, draw)
    target = Target(v2, MoorageError, args)
    if not args.atheris:
        while True:
            target.one(mutate(draw.choice(corpus), draw))

    def custom(data: bytes, max_size: int, seed: int) -> bytes:
        made = random.Random(seed)
        if made.random() < 0.1:
            return bytes(atheris.Mutate(data, max_size))
        fresh = not data or made.random() < 0.5  # what coverage keeps is mostly refused
        return mutate(made.choice(corpus) if fresh else data, made)[:max_size]

    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate(corpus):
            Path(directory, str(number)).write_bytes(seed)
        command = [
            sys.argv[0],
            directory,
            f"-seed={args.seed}",
            f"-max_len={MAX_INPUT_BYTES}",
            "-len_control=0",
            "-rss_limit_mb=0",
        ]
        atheris.Setup([*command, "-timeout=60", "-verbosity=0"], target.one, custom_mutator=custom)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
