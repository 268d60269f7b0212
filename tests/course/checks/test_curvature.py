import math
import random
import statistics
from functools import cache, partial

import numpy as np
import pytest
import torch

from akt_course.checks import hutchinson_trace
from tests.course.checks import accepted, mutants, refused


def signs(size):
    return torch.randint(0, 2, (size,)) * 2.0 - 1


def standard_error(draws):
    return draws.std() / len(draws) ** 0.5


def trace(product, size, probes, probe=signs, mean=torch.mean, error=standard_error):
    draws = torch.stack([v @ product(v) for v in (probe(size) for _ in range(probes))])
    return mean(draws), error(draws)


wrong = mutants("hutchinson_trace")
wrong("None", forgets_to_return=lambda *given: print(trace(*given)))
wrong("no pair", estimate_only=lambda *given: trace(*given)[0])
wrong("which normal numbers are not", normal_probes=partial(trace, probe=torch.randn))
wrong(
    "0 and 1: twice that",
    zeros_and_ones=partial(trace, probe=lambda n: torch.randint(0, 2, (n,)).float()),
)
wrong("do not normalise", unit_probes=partial(trace, probe=lambda n: signs(n) / n**0.5))
wrong("not their sum", adds_up=partial(trace, mean=torch.sum))
wrong("spread of one probe", standard_deviation=partial(trace, error=torch.std))
wrong("take its root", variance=partial(trace, error=lambda draws: draws.var() / len(draws)))
wrong(
    "probes - 1",
    mean_counts_as_known=partial(trace, error=lambda d: d.std(correction=0) / len(d) ** 0.5),
)
wrong(
    "new v for every probe",
    one_probe_again_and_again=lambda *given: trace(*given, probe=cache(signs)),
)
wrong(
    "each probe takes one", two_products_a_probe=lambda *given: (trace(*given)[0], trace(*given)[1])
)


wrong("probes - 1 is there twice", probes_less_one=partial(
    trace, error=lambda d: d.std() / (len(d) - 1) ** 0.5
))  # fmt: skip
wrong("by its root", over_the_number=partial(trace, error=lambda d: d.std() / len(d)))
wrong("a sign for each", one_sign_a_probe=partial(trace, probe=lambda n: signs(1).expand(n)))
wrong("go together", signs_in_pairs=partial(
    trace, probe=lambda n: signs(n // 2).repeat_interleave(2)
))  # fmt: skip
wrong("make it once, before", made_anew=partial(
    trace, probe=lambda n: torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], n))
))  # fmt: skip


@wrong("one vector")
def all_at_once(product, size, probes):
    v = torch.stack([signs(size) for _ in range(probes)], dim=1)
    draws = (v * product(v)).sum(0)
    return draws.mean(), standard_error(draws)


def iterate(
    product,
    size,
    steps,
    start=torch.randn,
    normalise=lambda v: v / v.norm(),
    read=lambda v, hv: v @ hv,
):
    v = start(size)
    for _ in range(steps):
        v = normalise(product(v))
    return read(v, product(v))


wrong = mutants("top_eigenvalue")
wrong("None", prints=lambda *given: print(iterate(*given)))
wrong("not its vector", the_vector=partial(iterate, read=lambda v, hv: v))
wrong("has no sign", the_norm=partial(iterate, read=lambda v, hv: hv.norm()))
wrong(
    "beyond all numbers",
    never_normalises=partial(iterate, normalise=lambda v: v, read=lambda v, hv: v @ hv / (v @ v)),
)
wrong("random vector", starts_from_ones=partial(iterate, start=torch.ones))
wrong("again and again", one_step=lambda product, size, steps: iterate(product, size, 1))


@wrong("most positive")
def most_positive(product, size, steps):
    hessian = torch.stack([product(e) for e in torch.eye(size)])
    return torch.linalg.eigvalsh(hessian)[-1]


wrong("square of the eigenvalue", length_squared=partial(iterate, read=lambda v, hv: hv @ hv))

test_mutants = refused("hutchinson_trace", "top_eigenvalue")


# ---- right, in other ways


def numpy_choice(size):
    return torch.from_numpy(np.random.default_rng().choice([-1.0, 1.0], size))


def numpy_float32(size):
    return torch.tensor(2 * np.random.default_rng().integers(2, size=size) - 1, dtype=torch.float32)


def its_own_seed(product, size, probes):
    rng = np.random.default_rng(0)  # once a call
    probe = lambda n: torch.from_numpy(rng.choice([-1.0, 1.0], n)).float()  # noqa: E731
    return trace(product, size, probes, probe=probe)


def seeds_pytorch(product, size, probes):
    torch.manual_seed(1)
    return trace(product, size, probes)


def plain_sums(product, size, probes):
    total = squares = 0.0
    for _ in range(probes):
        v = torch.rand(size).sub(0.5).sign().double()
        value = (v * product(v)).sum().item()
        total, squares = total + value, squares + value**2
    mean = total / probes
    return mean, (max(squares / probes - mean**2, 0) / (probes - 1)) ** 0.5


def in_place(product, size, probes):
    v, found = torch.empty(size), []
    for _ in range(probes):
        v.bernoulli_().mul_(2).sub_(1)  # the same memory for all
        found.append(float(torch.dot(v, product(v))))
    return [statistics.mean(found), statistics.stdev(found) / math.sqrt(probes)]


@pytest.mark.parametrize("probe", [numpy_choice, numpy_float32])
def test_probes_from_numpy_pass_forty_times_of_forty(probe):
    assert [str(r) for _ in range(40) if not (r := hutchinson_trace(partial(trace, probe=probe)))
            .passed] == []  # fmt: skip


def remembers_the_length(product, size, steps):
    v, length = torch.rand(size), 1.0
    for _ in range(steps):
        v = product(v)
        length = v.norm()
        v /= length
    return torch.dot(v, product(v)).item()


def two_vectors(product, size, steps):
    v, last = torch.randn(size, dtype=torch.float64), None
    for _ in range(steps + 1):
        last = v / torch.linalg.norm(v)
        v = product(last)
    return last @ v


def from_numpy(product, size, steps):
    v = torch.from_numpy(np.random.default_rng(0).normal(size=size))
    return iterate(product, size, steps, start=lambda _: v)


test_right = accepted(
    hutchinson_trace=[
        trace, its_own_seed, seeds_pytorch, plain_sums, in_place,
        partial(trace, probe=numpy_choice),
        partial(trace, probe=numpy_float32),
        partial(trace, probe=lambda n: torch.randn(n).sign()),
        partial(trace, probe=lambda n: torch.where(torch.rand(n) < 0.5, 1.0, -1.0)),
        partial(trace, probe=lambda n: torch.tensor(random.choices([-1.0, 1.0], k=n))),
        partial(trace, error=lambda d: d.std(correction=0) / (len(d) - 1) ** 0.5),
        partial(trace, error=lambda d: (d.var() / len(d)).sqrt()),
        partial(trace, error=lambda d: np.std(d.numpy(), ddof=1) / np.sqrt(len(d))),
    ],
    top_eigenvalue=[
        iterate, remembers_the_length, two_vectors, from_numpy,
        partial(iterate, start=torch.rand),
        partial(iterate, start=signs),
        partial(
            iterate, normalise=lambda v: v / v.abs().max(), read=lambda v, hv: v @ hv / (v @ v)
        ),
        partial(iterate, normalise=lambda v: torch.nn.functional.normalize(v, dim=0)),
        partial(iterate, read=lambda v, hv: torch.sign(v @ hv) * hv.norm()),
        lambda product, size, steps: iterate(product, size, 2 * steps),
    ],
)  # fmt: skip
