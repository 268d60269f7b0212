from dataclasses import replace

import pytest
import torch
from torch import nn

from akt_lab import step
from akt_lab.graph import capture_bn_inputs
from akt_lab.losses import VARIANTS
from akt_lab.methods import METHODS, get_method
from akt_lab.quantizer import freeze_ranges
from akt_lab.runs.networks import prepare
from akt_lab.settings import Settings
from akt_lab.step import as_shared_graph, balanced_lambda, losses_and_gradients, train_step

TRAINED = [
    (name, variant)
    for name, method in METHODS.items()
    if method.trains
    for variant in (VARIANTS if method.akt else ("paper",))
]


class TinyResNet(nn.Module):
    """Two residual units, for 8 x 8 grey images of ten classes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        for n in (1, 2):
            convs = [nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2)]
            unit = [convs[0], nn.BatchNorm2d(4), nn.ReLU(), convs[1], nn.BatchNorm2d(4)]
            setattr(self, f"body{n}", nn.Sequential(*unit))
        self.output = nn.Linear(4, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.body1(x))
        x = torch.relu(x + self.body2(x))
        return self.output(x.mean((2, 3)))


def weights_of(network):
    return [w.detach().clone() for w in network.parameters()]


def moved(before, network):
    return [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]


def past_warm_up(bench, **values):
    few = {"pool": 64, "pool_steps": 10} if get_method(values["method"]).pool else {}
    run = prepare(bench, Settings(batch_size=32, **few, **values))
    for _ in range(2):
        train_step(run, *run.generator.draw(32, run.rng))
    with torch.no_grad():
        freeze_ranges(run.student, run.generator(*run.generator.draw(32, run.rng)))
    run.epoch = run.settings.warmup_epochs
    return run


def gradients_of(terms, network):
    weights = list(network.parameters())
    found = torch.autograd.grad(terms, weights, retain_graph=True, allow_unused=True)
    return sum(float(g.abs().sum()) for g in found if g is not None)


@pytest.mark.parametrize(("method", "variant"), TRAINED)
def test_every_term_is_alive_and_reaches_what_it_should_train(digits, monkeypatch, method, variant):
    """The test that would have caught the released AKT: its feature loss was silently zero."""
    run = past_warm_up(digits, method=method, variant=variant)
    seen = {}

    def spy(function):
        def wrapped(terms):
            for name, term in terms.items():
                reach = {
                    kind: gradients_of(term, getattr(run, kind))
                    for kind in ("student", "generator", "teacher")
                    if any(w.requires_grad for w in getattr(run, kind).parameters())
                }
                seen[name] = (term.item(), reach, term.requires_grad)
            return function(terms)

        return wrapped

    monkeypatch.setattr(step, "total", spy(step.total))
    teacher, student = weights_of(run.teacher), weights_of(run.student)
    terms = train_step(run, *run.generator.draw(32, run.rng))
    of_student = [n.removeprefix("student/") for n in terms if n.startswith("student/")]
    of_generator = [n.removeprefix("generator/") for n in terms if n.startswith("generator/")]
    of_student.remove("gradient_norm")
    features = {"placebo"} if variant == "placebo" else {"spatial", "channel"}
    features = features if run.settings.uses_features else set()
    assert {"spatial", "channel", "placebo"} & set(of_student) == features
    for name in of_student:
        value, reach, _ = seen[name]
        assert value != 0, name
        assert reach["student"] > 0, name
        assert reach.get("generator", 0) == 0, name  # the images were detached
    assert bool(of_generator) == run.method.generates
    assert all(seen[name][2] for name in of_generator)  # what they reach: the next test
    assert all(not w.requires_grad and w.grad is None for w in run.teacher.parameters())
    assert all(moved(student, run.student))
    assert not any(moved(teacher, run.teacher))


@pytest.mark.parametrize("method", ["gdfq", "adadfq"])
def test_every_generator_term_is_alive_at_the_images(digits, method):
    """Non-zero, with a gradient at the pixels, and none at the student's weights by the step.

    Two of AdaDFQ's terms are hinges: one acts on a student far from the teacher (2 bits), the
    other on one close to it (8 bits), so both students are looked at.
    """
    alive = {}
    for bits in (2, 8):
        run = past_warm_up(digits, method=method, weight_bits=bits, act_bits=bits)
        pixels = run.generator(*run.generator.draw(64, run.rng)).detach().requires_grad_()
        y = torch.randint(10, (64,))
        with capture_bn_inputs(run.teacher) as statistics:
            t = run.teacher(pixels)
        for name, term in run.method.image_terms(t, run.student(pixels), y, statistics).items():
            (gradient,) = torch.autograd.grad(term, pixels, retain_graph=True)
            alive[name] = alive.get(name, False) or (term != 0 and gradient.abs().sum() > 0)
        assert all(w.grad is None for w in run.student.parameters())
    assert all(alive.values()), alive


@pytest.mark.parametrize("method", ["gdfq", "adadfq+akt"])
def test_warm_up_trains_the_generator_only(digits, method):
    run = prepare(digits, Settings(method=method, batch_size=8))
    student, generator = weights_of(run.student), weights_of(run.generator)
    terms = train_step(run, *run.generator.draw(8, run.rng))
    assert not any(name.startswith("student/") for name in terms)
    assert any(moved(generator, run.generator))
    assert not any(moved(student, run.student))
    assert all(m.updates == 1 for m in run.student.modules() if hasattr(m, "updates"))


def test_lambda_balances_the_gradients(digits, monkeypatch):
    run = past_warm_up(digits, method="adadfq+akt", student_lr=1e-4)
    norms = []
    original = step.akt_terms

    def spy(logit_terms, *rest):
        terms = original(logit_terms, *rest)
        if logit_terms:
            weights = list(run.student.parameters())
            for names in (["difference_entropy"], ["spatial", "channel"]):
                loss = sum(terms[n] for n in names)
                found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
                norms.append(torch.cat([g.flatten() for g in found if g is not None]).norm())
        return terms

    monkeypatch.setattr(step, "akt_terms", spy)
    train_step(run, *run.generator.draw(32, run.rng))
    assert run.lam > 0
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=1e-3)  # alpha is 1/2


@pytest.fixture(scope="module")
def in_double(digits):
    """A run whose networks compute in double precision, where rounding tips no activation."""
    run = past_warm_up(digits, method="adadfq+akt", variant="code", weight_bits=4, act_bits=4)
    for network in (run.teacher, run.student, run.generator):
        network.double()
    z, y = run.generator.draw(8, run.rng)
    return run, z.double(), y


@pytest.mark.slow
def test_the_compiled_step_is_the_step(in_double):
    run, z, y = in_double
    before = {k: v.clone() for k, v in run.generator.state_dict().items()}
    plain = losses_and_gradients(run, z, y)
    after = {k: v.clone() for k, v in run.generator.state_dict().items()}
    run.generator.load_state_dict(before)
    compiled = as_shared_graph(run, z, y)
    assert all(torch.equal(v, before[k]) for k, v in run.generator.state_dict().items())
    fast = compiled(z, y)
    for name, term in plain[0].items():
        torch.testing.assert_close(fast[0][name], term, rtol=1e-5, atol=1e-9)
    for ours, theirs in zip((*plain[1], *plain[2]), (*fast[1], *fast[2]), strict=True):
        assert (ours - theirs).norm() <= 1e-4 * max(ours.norm(), 1e-6)
    for name, value in run.generator.state_dict().items():  # the batch norms' running statistics
        torch.testing.assert_close(value, after[name], rtol=1e-5, atol=1e-9)

    run.generator.linear.weight.data.mul_(1.1)  # a later step sees the weights as they are then
    plain, fast = losses_and_gradients(run, z, y), compiled(z, y)
    spatial = "student/spatial"
    torch.testing.assert_close(fast[0][spatial], plain[0][spatial], rtol=1e-5, atol=0)


IN_SETTINGS = [
    ("gdfq", "paper", {"low_pass": 3.0, "min_confidence": 0.2}),
    ("adadfq", "paper", {"ranges": "learned", "weight_ranges": "learned", "gradient": "clipped"}),
    ("gdfq", "paper", {"ranges": "pnorm", "weight_ranges": "pnorm"}),
    ("adadfq+akt", "paper", {"parts": "spatial", "lam": 3.0, "average": 0.9}),
    ("adadfq+akt", "code", {"lam": 30.0, "maps": "relu"}),
    ("adadfq+akt", "placebo", {"lam": 0.5}),
]


@pytest.mark.parametrize(
    ("method", "variant", "more"), [*((m, v, {}) for m, v in TRAINED), *IN_SETTINGS]
)
def test_shared_graph_of_every_kind_of_step(digits, monkeypatch, method, variant, more):
    """A student by a graph that was traced for another, of another seed, rate and lambda.

    Run as traced: what Inductor makes of it is tested above. In double precision, where a rounding
    that is done in another order tips no activation.
    """
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    torch.manual_seed(0)
    tiny = replace(digits, teacher=TinyResNet().eval())

    def a_run(seed, **values):
        lam = {"lam": more["lam"] * (1 + seed)} if "lam" in more else {}
        rate = get_method(method).student_lr * (1 + seed)
        asked = {**more, **lam, "seed": seed, "student_lr": rate, **values}
        run = past_warm_up(tiny, method=method, variant=variant, **asked)
        for network in (run.teacher, run.student, run.generator):
            network.double()
        for optimizer in filter(None, (run.generator_optimizer, run.student_optimizer)):
            optimizer.load_state_dict(optimizer.state_dict())  # its averages become double, too
        return run

    def steps(run, count):
        for _ in range(count):
            x, y = run.generator.draw(8, run.rng)
            terms = train_step(run, x.double(), y)
        return terms

    other, plain, shared = a_run(0, compile=True), a_run(1), a_run(1, compile=True)
    steps(other, 2)
    shared.graphs = other.graphs
    expected, terms = steps(plain, 20), steps(shared, 20)
    assert plain.compiled is None
    assert shared.compiled is not None
    assert len(shared.graphs) == 1
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-9, atol=1e-9)
    for a, b in zip(plain.weights, shared.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(plain.generator.buffers(), shared.generator.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("network", ["generator", "student"])
def test_fused_optimisers_update_the_right_elements(digits, network):
    """They do not look at strides: a contiguous gradient misleads them."""
    run = past_warm_up(digits, method="adadfq")
    optimizer = getattr(run, f"{network}_optimizer")
    weights = [w for w in optimizer.param_groups[0]["params"] if w.ndim == 4]
    before = [w.detach().clone() for w in weights]
    z, y = run.generator.draw(32, run.rng)
    _, for_generator, for_student = losses_and_gradients(run, z, y)
    gradients = for_generator if network == "generator" else for_student
    copies = [torch.nn.Parameter(w.detach().clone()) for w in optimizer.param_groups[0]["params"]]
    options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    plain = type(optimizer)(copies, **{**options, "fused": False, "foreach": False})
    fused = type(optimizer)(optimizer.param_groups[0]["params"], **options)
    for _ in range(2):  # the second reads the first one's momentum
        for copy, gradient in zip(copies, gradients, strict=True):
            copy.grad = None if gradient is None else gradient.clone()
        plain.step()
        step.apply_gradients(fused, [None if g is None else g.contiguous() for g in gradients])
    assert any(not torch.equal(w, b) for w, b in zip(weights, before, strict=True))
    for ours, theirs in zip(fused.param_groups[0]["params"], copies, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_lambda_is_the_paper_s_where_the_features_say_nothing():
    weight = torch.nn.Parameter(torch.ones(3))
    student = torch.nn.ParameterList([weight])
    terms, silent = {"kd": weight.sum()}, {"spatial": 0 * weight.sum()}
    assert balanced_lambda(student, terms, silent) == 1.0
    assert balanced_lambda(student, terms, {"spatial": 4 * weight.sum()}) == pytest.approx(0.25)


def test_averages_by_hand(digits):
    """d a + (1 - d) w after each step, from the first step's weights on."""
    run = past_warm_up(digits, method="gdfq", average=0.75, student_lr=1e-2)
    assert run.judged is run.student
    seen = []
    for _ in range(3):
        train_step(run, *run.generator.draw(32, run.rng))
        seen.append(weights_of(run.student))
    for average, *weights in zip(run.judged.parameters(), *seen, strict=True):
        expected = weights[0]
        for weight in weights[1:]:
            expected = 0.75 * expected + 0.25 * weight
        torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-7)
    assert all(moved(weights_of(run.student), run.judged))
    assert run.compiled is None
    for mine, theirs in zip(run.judged.buffers(), run.student.buffers(), strict=True):
        assert mine is theirs  # ranges, and the batch norms' statistics


def test_averages_change_no_step(digits):
    runs = [past_warm_up(digits, method="adadfq", average=decay) for decay in (0.0, 0.9)]
    for run in runs:
        for _ in range(2):
            train_step(run, *run.generator.draw(32, run.rng))
    assert not any(moved(weights_of(runs[0].student), runs[1].student))
    assert runs[0].averaged is None


def test_a_step_leaves_hard_labels_of_hard_images_out(digits):
    ces = []
    for confidence in (0.0, 0.5, 1.0):
        run = past_warm_up(digits, method="gdfq", min_confidence=confidence)
        ces.append(train_step(run, *run.generator.draw(32, run.rng))["student/ce"].item())
    assert ces[0] > ces[1] >= ces[2]


def test_teacher_and_student_see_filtered_images(digits):
    run = past_warm_up(digits, method="adadfq", low_pass=2.0)
    seen = []
    for network in (run.teacher, run.student):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    losses_and_gradients(run, *run.generator.draw(32, run.rng))
    assert torch.equal(*seen)
    spectrum = torch.fft.rfft2(seen[0]).abs()
    assert spectrum[..., 8, 8].max() < 1e-3 * spectrum[..., 1, 1].max()
