import pytest

from akt_lab.runs.in_turns import in_turns, whole


def steps(seen, name, count, fails=False):
    try:
        for n in range(count):
            seen.append(f"{name}{n}")
            yield
        if fails:
            raise ValueError(name)
        return count
    finally:
        seen.append(f"{name} ends")


def test_whole():
    seen = []
    assert whole(steps(seen, "a", 3)) == 3
    assert seen == ["a0", "a1", "a2", "a ends"]


def test_a_step_of_each_in_turn():
    seen = []
    many = {name: steps(seen, name, count) for name, count in (("a", 3), ("b", 1), ("c", 2))}
    assert list(in_turns(many, 2)) == [("b", 1), ("a", 3), ("c", 2)]
    assert [s for s in seen if "ends" not in s] == ["a0", "b0", "a1", "a2", "c0", "c1"]


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
def test_all_end_however_many_at_once(at_once):
    many = {name: steps([], name, name) for name in (0, 2, 0, 5, 1)}
    assert dict(in_turns(many, at_once)) == {name: name for name in many}
    assert list(in_turns({}, at_once)) == []


def test_an_error_ends_the_others_tidily():
    seen = []
    many = {
        "a": steps(seen, "a", 9),
        "b": steps(seen, "b", 2, fails=True),
        "c": steps(seen, "c", 1),
    }
    with pytest.raises(ValueError, match="b"):
        list(in_turns(many, 2))
    assert seen[-2:] == ["b ends", "a ends"]
    assert "c0" not in seen


def test_closed_early_all_are():
    seen = []
    turns = in_turns({name: steps(seen, name, n) for name, n in (("a", 9), ("b", 1))}, 2)
    assert next(turns) == ("b", 1)
    turns.close()
    assert seen[-1] == "a ends"


def test_each_has_its_place():
    """As each has a stream of its own on a GPU: entered for each of its steps, and no other."""
    inside, made = [], []

    class Place:
        def __init__(self):
            self.me = len(made)
            made.append(self)

        def __enter__(self):
            inside.append(self.me)

        def __exit__(self, *_):
            inside.append(-1)

    seen = []
    many = {name: steps(seen, name, 2) for name in "ab"}
    list(in_turns(many, 2, Place))
    assert inside == [0, -1, 1, -1] * 3  # the third time is the end
