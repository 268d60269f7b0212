import pytest
import torch

from akt_lab.export.ties import TIE, apart, follows, on_grid, rounding, tips

NAME = "activation_quantizers.stem_2"


@pytest.fixture
def images(digits):
    return digits.normalise(digits.images[:100])


@pytest.fixture
def student(digits, images, student_of):
    return student_of(digits.teacher, images, 3)


def tipped(student, images, *names):
    """Logits and roundings where quantizers round their value nearest to a tie the other way.

    Also how far those values lie from a tie, at most, in steps, (B,).
    """
    taken, far = {}, []

    def rounded(use, quantizer, x):
        steps, scale = on_grid(quantizer, x)
        whole = steps.round()
        if use in names:
            away, at = (0.5 - (steps - whole).abs()).flatten(1).min(1, keepdim=True)
            far.append(away.flatten())
            flat, own = whole.flatten(1), steps.flatten(1)
            off = (own - flat).gather(1, at).sign()
            flat.scatter_(1, at, flat.gather(1, at) + off)
            whole = flat.view_as(whole)
        taken[f"rounded/{use}"] = (whole * scale).numpy()
        return whole * scale

    with torch.no_grad(), rounding(student, rounded):
        logits = student(images)
    return logits, taken, torch.stack(far).amax(0)


def test_a_student_that_rounds_by_hand_is_the_student(student, images):
    def own(name, quantizer, x):
        steps, scale = on_grid(quantizer, x)
        return steps.round() * scale

    with torch.no_grad():
        expected = student(images)
        with rounding(student, own):
            assert apart(student(images), expected).max() < 1e-5
        assert torch.equal(student(images), expected)  # the hooks are gone


def test_a_rounding_at_a_tie_is_no_mistake_and_any_other_is(student, images):
    logits, taken, away = tipped(student, images, NAME)
    allowed = follows(student, images, taken, logits)
    at_tie, elsewhere = away < TIE / 2, away > TIE * 2
    assert at_tie.any()
    assert allowed[at_tie].all()
    assert not allowed[elsewhere].any()
    assert not follows(student, images, taken, logits * 1.001).any()


def test_a_tie_is_found_without_the_roundings(student, images):
    logits, _, away = tipped(student, images, NAME)
    with torch.no_grad():
        moved = apart(logits, student(images)) > 1e-3
    chosen = (moved & (away < TIE / 2)).nonzero().flatten()
    assert len(chosen)
    for i in chosen:
        assert tips(student, images[i], logits[i])
        assert not tips(student, images[i], logits[i], most=0)
        assert not tips(student, images[i], logits[i] * 1.001, most=1)
    for i in (moved & (away > TIE * 2)).nonzero().flatten()[:5]:
        assert not tips(student, images[i], logits[i], most=1)


def test_two_ties_are_found(student, images):
    """One in the stem and one after it, which only the search's second round can find."""
    names = [n for n, _ in student.named_modules() if n.startswith("activation_quantizers.")]
    found = 0
    for later in names[names.index(NAME) + 1 :]:
        logits, _, away = tipped(student, images, NAME, later)
        for i in (away < TIE / 2).nonzero().flatten()[:5]:
            if not tips(student, images[i], logits[i], most=1):
                found += 1
                assert tips(student, images[i], logits[i])
    assert found


def test_how_far_logits_are_apart():
    expected = torch.tensor([[4.0, -8.0], [0.0, 0.0]])
    off = apart(torch.tensor([[4.0, -7.0], [float("nan"), 0.0]]), expected)
    assert off.tolist() == [0.125, float("inf")]
