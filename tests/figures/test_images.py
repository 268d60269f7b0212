import numpy as np

from akt_lab.analysis.studies import SyntheticImages
from akt_lab.figures.images import draw_synthetic_images


def test_a_row_a_class():
    images = np.random.default_rng(0).random((2, 3, 4, 4))
    confidence = np.array([[0.5, 0.6, 0.7], [0.8, 0.9, 1.0]])
    drawing = draw_synthetic_images(SyntheticImages(images, ["cat", "dog"], confidence, "A"))
    shown = [axes.images[0].get_array() for axes in drawing.figure.axes]
    np.testing.assert_array_equal(np.stack(shown), images.reshape(6, 4, 4))
    assert [drawing.figure.axes[n].get_ylabel() for n in (0, 3)] == ["cat  (60%)", "dog  (90%)"]
    assert drawing.data["teacher_probability"].tolist() == confidence.ravel().tolist()
    assert "probability 75%" in drawing.alt
