import subprocess
import sys

import pytest
import torch

from akt_lab.speed import laid_out_as

KEPT = """
import resource, torch
from akt_lab.speed import keep_freed_memory
assert {keep}
pages = []
for _ in range(20):  # it takes some until a freed block lies where the next one fits
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12_500_000).sum()  # 50 MB
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(pages[1:]))
"""


def faults(keep):
    """Page faults that a tensor costs which lies where one was freed."""
    check = [sys.executable, "-c", KEPT.format(keep=keep)]
    return int(subprocess.run(check, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_freed_memory_is_used_again():
    assert faults("keep_freed_memory()") < 20 < faults("True")


def test_keeping_twice_is_keeping_once():
    check = (
        "from akt_lab.speed import keep_freed_memory as keep\n"
        "assert keep() == keep(); print(keep.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "1"


def test_a_gradient_is_laid_out_as_its_weight():
    weight = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    gradient = torch.rand(4, 3, 5, 5)
    laid = laid_out_as(weight, gradient)
    assert laid.stride() == weight.stride()
    assert torch.equal(laid, gradient)
    assert laid_out_as(gradient, laid).is_contiguous()
    assert laid_out_as(weight, laid) is laid
