"""Which predictions of a rollout are told, and as what."""

from test_signals_book import CANDIDATE, STABLE, Room, answered, good

from moorage_common.contracts.feedback import Output
from moorage_common.contracts.signals import CLASSES, OTHER, SAMPLED
from moorage_router.signals.batch import CLASS_CHARACTERS


def test_a_sticky_keys_prediction_counts_once_under_a_revision() -> None:
    room = Room()
    judged = room.judged()
    for number in range(3):
        answered(judged.begin(STABLE, "a", key=7), Output(kind="class", value="always this"))
        answered(judged.begin(STABLE, "a", key=number), Output(kind="class", value=str(number)))
        room.pass_s(2)
    counted = [dict(batch.stable.predictions.classes) for batch in room.taken]
    assert counted == [{"always this": 1, "0": 1}, {"1": 1}, {"2": 1}]


def test_the_sample_of_predictions_is_the_first_of_each_version_by_order_of_routing() -> None:
    room = Room()
    judged = room.judged()
    marks = [judged.begin(STABLE if n % 2 else CANDIDATE, "a") for n in range(2 * SAMPLED + 20)]
    assert [mark is not None and mark.wants_output for mark in marks] == [True] * 2 * SAMPLED + [False] * 20
    for number, mark in reversed(list(enumerate(marks))):
        answered(mark, Output(kind="number", value=repr(float(number))))
    room.pass_s(2)
    assert sorted(room.batch.stable.predictions.numbers) == [float(n) for n in range(1, 2 * SAMPLED, 2)]
    assert sorted(room.batch.candidate.predictions.numbers) == [float(n) for n in range(0, 2 * SAMPLED, 2)]


def test_predictions_are_sampled_by_the_second_however_many_batches_it_has() -> None:
    room = Room()
    judged = room.judged()

    def asked(requests: int) -> int:
        marks = [judged.begin(STABLE, "a") for _ in range(requests)]
        for mark in marks:
            good(mark)
        return sum(mark is not None and mark.wants_output for mark in marks)

    assert [asked(500), asked(250), asked(250)] == [SAMPLED, 0, 0]
    room.pass_s(1.1)
    assert asked(500) == SAMPLED


def test_classes_beyond_those_told_are_one() -> None:
    room = Room()
    judged = room.judged()
    for number in range(SAMPLED):
        answered(judged.begin(STABLE, "a"), Output(kind="class", value=f"c{min(number, CLASSES + 10)}"))
    room.pass_s(2)
    classes = room.batch.stable.predictions.classes
    assert len(classes) == CLASSES + 1
    assert (classes["c0"], classes[OTHER], sum(classes.values())) == (1, SAMPLED - CLASSES, SAMPLED)


def test_what_a_model_says_neither_makes_batches_large_nor_is_taken_for_the_platforms_own() -> None:
    room = Room()
    judged = room.judged()
    said = ["spam", "s" * 1024, "s" * 1023 + "t", "a\0b\n", OTHER]
    for value in said:
        answered(judged.begin(STABLE, "a"), Output(kind="class", value=value))
    room.pass_s(2)
    classes = room.batch.stable.predictions.classes
    assert (len(classes), "spam" in classes, OTHER in classes) == (len(said), True, False)
    assert all(name.isprintable() and len(name) <= CLASS_CHARACTERS for name in classes)
