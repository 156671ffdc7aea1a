"""Whether lists nest as a shape says, compared as text: the commas and brackets that nested data must consist of."""

from collections.abc import Iterator, Sequence

from moorage_runtime.v2.datatypes import WINDOW_BYTES

WHITESPACE = b" \t\r\n"
NOT_NESTING = bytes(set(range(256)) - set(b"[],"))


def nesting_dims(shape: Sequence[int]) -> tuple[int, ...]:
    """The dimensions that brackets can show: none within an empty list."""
    dims = tuple(shape)
    return dims[: dims.index(0) + 1] if 0 in dims else dims


def openings(shape: Sequence[int]) -> int:
    """How many lists data nested as `shape` consists of."""
    total = product = 1
    for d in nesting_dims(shape)[:-1]:
        product *= d
        total += product
    return total


def leading_lists(head: bytes) -> int:
    """How many lists open before the first element in `head`, the begin of the data without white space."""
    return len(head) - len(head.lstrip(b"["))


class Nesting:
    """The commas and brackets of data of some dimensions, made as far as they are compared."""

    def __init__(self, dims: Sequence[int]) -> None:
        self._parts = _brackets(tuple(dims))
        self._made = b""

    def goes_on(self, found: bytes) -> bool:
        """Whether `found` is what comes next."""
        while len(self._made) < len(found):
            part = next(self._parts, None)
            if part is None:
                return False
            self._made += part
        agrees = self._made.startswith(found)
        self._made = self._made[len(found) :]
        return agrees

    def ended(self) -> bool:
        """Whether nothing is left to come."""
        return not self._made and next(self._parts, None) is None


def _size(dims: tuple[int, ...]) -> int:
    inner = _size(dims[1:]) if len(dims) > 1 else 0
    return 2 + dims[0] * inner + max(0, dims[0] - 1)


def _built(dims: tuple[int, ...]) -> bytes:
    inner = _built(dims[1:]) if len(dims) > 1 else b""
    return b"[" + b",".join([inner] * dims[0]) + b"]"


def _brackets(dims: tuple[int, ...]) -> Iterator[bytes]:
    """`_built(dims)` in parts of about a window; a loop in Python is over parts as large as that only."""
    if _size(dims) <= WINDOW_BYTES:
        yield _built(dims)
        return
    first, rest = dims[0], dims[1:]
    yield b"["
    if rest and _size(rest) > WINDOW_BYTES:
        for i in range(first):
            yield from _brackets(rest)
            yield b"," if i + 1 < first else b""
    else:
        inner = _built(rest) if rest else b""
        left, unit = first - 1, inner + b","
        most = WINDOW_BYTES // len(unit) + 1
        while left:
            yield unit * min(left, most)
            left -= min(left, most)
        yield inner
    yield b"]"
