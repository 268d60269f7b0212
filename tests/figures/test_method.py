from akt_lab.figures.method import ARROWS, BOXES, method


def test_every_box_is_on_the_way_from_noise_to_the_loss():
    drawing = method()
    texts = {text.get_text() for text in drawing.figure.axes[0].texts}
    assert {text for *_, text, _ in BOXES.values()} <= texts
    reached = {"noise"}
    for _ in BOXES:
        reached |= {end for start, end in ARROWS if start in reached}
    assert reached == set(BOXES)
    assert list(map(tuple, drawing.data.to_numpy())) == list(ARROWS)
