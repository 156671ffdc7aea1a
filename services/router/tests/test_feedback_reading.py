"""Whatever a body of labels holds, each item is taken or refused, once, and what is taken fits the bus."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from test_labels import SECRET, an_id

from moorage_common.contracts.feedback import FeedbackChunk
from moorage_common.errors import BadRequest, TooLarge
from moorage_router.feedback.reading import MOST_ITEMS, Reader, Taken, chunks_of, items_of

GOOD = [an_id() for _ in range(6)]
FOREIGN = an_id("other")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=30),
    st.sampled_from([*GOOD, FOREIGN, "a" * 2000, "\0", "\u0661" * 9]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
ITEMS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"id": st.sampled_from([*GOOD, FOREIGN, "", None])},
        optional={"label": VALUES, "correct": VALUES, "loss": VALUES},
    ),
)
BODIES = st.one_of(
    st.binary(max_size=200),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.lists(ITEMS, max_size=12).map(lambda items: json.dumps({"feedback": items}).encode()),
    ITEMS.map(lambda item: json.dumps(item).encode()),
)


def read(items: list[Any]) -> Taken:
    taken, reader = Taken(), Reader(SECRET, "demo", "m")
    for index, item in enumerate(items):
        reader.read(index, item, 5.0, taken)
    return taken


@given(BODIES)
def test_any_body_is_items_or_a_refusal_and_each_item_is_taken_or_refused_once(body: bytes) -> None:
    try:
        items = items_of(body)
    except (BadRequest, TooLarge):
        return
    taken = read(items)
    assert len(taken.feedback) + len(taken.refused) == len(items) <= MOST_ITEMS
    assert {one.ulid for one in taken.feedback.values()} <= {text[:26] for text in GOOD}
    json.dumps(taken.answer())
    chunks = list(chunks_of(list(taken.feedback.values())))
    assert [one for chunk in chunks for one in chunk.feedback] == list(taken.feedback.values())
    for chunk in chunks:
        text = chunk.model_dump_json()
        assert len(text.encode()) < 1_000_000
        assert FeedbackChunk.model_validate_json(text) == chunk
        for one in chunk.feedback:
            assert (one.label, one.correct, one.loss) != (None, None, None)
            assert "\0" not in str(one.label)
            assert one.loss is None or abs(one.loss) <= 1e300


@given(st.lists(st.sampled_from(GOOD), min_size=1, max_size=12))
def test_the_first_of_several_labels_of_one_answer_counts(ids: list[str]) -> None:
    taken = read([{"id": text, "label": str(place)} for place, text in enumerate(ids)])
    assert {one.ulid: one.label for one in taken.feedback.values()} == {text[:26]: str(ids.index(text)) for text in ids}
    assert {one.code for one in taken.refused} <= {"label_repeated"}


def test_the_same_answers_make_the_same_message_whatever_is_said_of_them() -> None:
    once, again = ([{"id": text, "label": label} for text in GOOD] for label in ("a", "b"))
    (first,), (second,) = (list(chunks_of(list(read(items).feedback.values()))) for items in (once, again))
    (fewer,) = chunks_of(list(read(once[:-1]).feedback.values()))
    assert first.chunk_id == second.chunk_id != fewer.chunk_id
