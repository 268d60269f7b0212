from akt_lab.runs.progress import Live, Report


def test_progress_is_told_and_shown(capsys):
    events = []
    with Report(events.append, "a", steps=2, total=4, initial=0) as report:
        report.told = float("-inf")
        report.set_postfix({"accuracy": "91.00%"})
        report.update()
    assert events[1]["note"] == "epoch 0/2 step 1 91.00%"
    with Live(total=3, ended=1, show=True) as live:
        for event in (*events, events[0]):  # its images come first, with a bar of their own
            live.tell({**event, "worker": "0", "process": "tcp://first"})
        assert "lost" not in capsys.readouterr().err
        live.tell({**events[0], "epoch": 1, "worker": "0", "process": "tcp://second"})
        live.end("a", {"status": "done", "accuracy": {"last": 91.0}, "seconds": 2.0})
        live.end("b", ValueError("why"))
    shown = capsys.readouterr().err
    assert "its worker was lost: a goes on from epoch 1" in shown
    assert "2/3  a  91.00% after the last epoch, 2 s" in shown
    assert "3/3  b  did not end: ValueError: why" in shown


def test_what_comes_late_does_no_harm(capsys):
    """Events come in Dask's thread, whenever it gets to them."""
    event = {"run": "a", "process": "", "epoch": 0, "done": 1, "total": 4, "note": ""}
    with Live(total=1, ended=0, show=True) as live:
        live.tell(event)
        live.end("a", ValueError("why"))
        live.tell({**event, "process": "another"})
        assert live.bars.keys() == {""}
    live.tell(event)
    live.tell({**event, "run": "b"})
    assert live.bars.keys() == {""}
    assert capsys.readouterr().err == "1/1  a  did not end: ValueError: why\n"
