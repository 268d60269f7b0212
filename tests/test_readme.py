"""What README shows runs as it stands there."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_ten_lines_of_python(cache, capsys):
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    small, changed = re.subn(r"epochs=8, steps=50", "epochs=2, steps=2", first)
    assert changed == 1  # as it is but for its length
    exec(compile(small, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "% teacher" in printed
    assert "'label_free'" in printed
    assert "QuantizedConv2d" in printed
    compile(second, "README.md", "exec")  # it needs a Slurm cluster
