import subprocess
import sys
from contextlib import suppress

import pytest
import torch

from akt_lab.graph import residual_bodies, trace
from akt_lab.runs.training import evaluate
from akt_lab.speed import (
    EvalBatchNorm2d,
    keep_freed_memory,
    laid_out_as,
    one_order,
    speed_up,
    tf32,
)

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


def test_an_evaluation_leaves_the_process_as_it_is(digits):
    """A notebook's kernel, say: malloc's settings would be changed for good."""
    before = keep_freed_memory.cache_info()
    evaluate(digits.teacher, digits)
    assert keep_freed_memory.cache_info() == before


def test_how_a_gpu_adds_is_asked_for_a_block_alone():
    def now():
        products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        return (*products, torch.are_deterministic_algorithms_enabled())

    before = now()
    for allowed in (True, False):
        with suppress(KeyError), tf32(allowed), one_order(allowed):
            assert now() == (allowed, allowed, allowed)
            raise KeyError
        assert now() == before
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_gradient_is_laid_out_as_its_weight():
    weight = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    gradient = torch.rand(4, 3, 5, 5)
    laid = laid_out_as(weight, gradient)
    assert laid.stride() == weight.stride()
    assert torch.equal(laid, gradient)
    assert laid_out_as(gradient, laid).is_contiguous()
    assert laid_out_as(weight, laid) is laid


def test_speed_up_changes_no_number():
    from pytorchcv.model_provider import get_model

    torch.manual_seed(1)
    net = get_model("resnet20_cifar10").train()
    for _ in range(3):
        net(torch.randn(8, 3, 32, 32))
    plain = trace(net).requires_grad_(False)
    fast = trace(net).requires_grad_(False)
    speed_up(fast, keep=residual_bodies(fast))
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    a, b = plain(x), fast(y)
    a.square().sum().backward()
    b.square().sum().backward()
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert torch.allclose(x.grad, y.grad, rtol=1e-3, atol=1e-4 * x.grad.abs().max().item())
    assert any(getattr(m, "inplace", False) for m in fast.modules())
    assert any(isinstance(m, EvalBatchNorm2d) for m in fast.modules())
