import pytest

from akt_lab.errors import AktError
from akt_lab.export import accounted_bytes
from akt_lab.figures import size
from akt_lab.quantizer import quantize_model


@pytest.fixture
def students(digits, monkeypatch):
    """Runs' students: the teacher at their bits."""

    def load(run, bench):
        bits = run.settings.weight_bits
        return quantize_model(bench.teacher, bits, bits), "student"

    monkeypatch.setattr(size, "load_student", load)
    monkeypatch.setattr(size, "bench_of", lambda runs: digits)
    return {bits: accounted_bytes(quantize_model(digits.teacher, bits, bits)) for bits in (2, 4)}


def test_dots_lie_at_their_bytes(made, students):
    runs = [made(bits=b, seed=s, last=80.0 + b + s) for b in (2, 4) for s in (0, 1)]
    drawing = size.accuracy_by_bytes([*runs, made("gdfq", bits=2, last=70.0)])
    lines = {line.get_label(): line for line in drawing.figure.axes[0].lines}
    assert list(lines["adadfq"].get_ydata()) == [82.5, 84.5]
    assert list(lines["adadfq"].get_xdata()) == [students[b] / 1000 for b in (2, 4)]
    assert list(lines["gdfq"].get_ydata()) == [70]
    (full,) = lines["teacher, float32"].get_xdata()
    assert full > 3 * students[4] / 1000
    assert sorted(drawing.data["kB"].unique()) == [students[b] / 1000 for b in (2, 4)]
    assert f"adadfq: 2 bits {students[2] / 1000:.1f} kB 82.5%" in drawing.alt


def test_runs_without_an_accuracy(made, students):
    with pytest.raises(AktError, match="needs runs that ended and were evaluated"):
        size.accuracy_by_bytes([made(last=None, status="failed")])
