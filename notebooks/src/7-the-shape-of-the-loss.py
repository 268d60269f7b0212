# %% [markdown] budget=4
# # 7 · The shape of the loss
#
# After this notebook you can
#
# - draw the loss around a trained network, so that networks can be compared,
# - estimate the **trace** of a matrix with millions of columns that nobody can write down,
# - say why a quantized network has no Hessian, and what can be measured in its place,
# - say which part of a rounding error is the costly one, per square and in all.
#
# You need notebooks 2 and 5: the straight-through gradient, distillation, attention maps. The
# computing takes two to three minutes, the reading about forty-five.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl")

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from akt_course import checks
from akt_course.show import predict, read_back, show
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.figures.style import STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% smoke="STEPS, POINTS, PROBES, IMAGES, COST_BITS = 2, 3, 2, 8, (4, 3)"
STEPS = 40  # training steps in each of 4 epochs
POINTS = 15  # along each side of a loss surface
PROBES = 8  # of Hutchinson's estimate, for whole networks
IMAGES = 32  # synthetic images that every loss below is taken on
COST_BITS = (8, 5, 4, 3, 2)

# %% [markdown]
# ## Three networks
#
# - the **teacher**, in full precision,
# - a 3-bit student trained by **plain distillation** (the method AdaDFQ: teacher and student are
#   compared by their outputs alone),
# - a 3-bit student trained by the same method **with AKT**: spatial and channel attention of the
#   feature maps are compared as well.
#
# Both students get the same few steps and the same seed: enough for pictures, not enough to say
# which method is better. That was notebook 6.

# %%
from akt_lab.graph import trace as graph_of
from akt_lab.runs.training import evaluate, train
from akt_lab.settings import Settings

bench = load_bench(BenchSpec(BENCH))
teacher = graph_of(bench.teacher)
networks, names = {"teacher": teacher}, {"adadfq": "plain 3-bit", "adadfq+akt": "AKT 3-bit"}
for method, name in names.items():
    settings = Settings(method, 3, 3, batch_size=32, epochs=4, steps=STEPS, warmup_epochs=2)
    trained = train(bench, settings)
    networks[name] = trained.student
for name, network in networks.items():
    print(f"{name:15} {evaluate(network, bench):6.2f}%")

# %% [markdown]
# Every loss below is plain distillation's, $T^2\,KL$ at $T = 20$, between a network and the teacher,
# on one batch of images from the second student's generator. So the teacher's own loss is 0: it
# agrees with itself.

# %%
generator = trained.generator.eval()
with torch.no_grad():
    images = generator(*generator.draw(IMAGES, torch.Generator().manual_seed(1))).contiguous()
    logits = teacher(images)

# %% [markdown]
# ## A walk in weight space
#
# A network's weights are one point in a space of many thousand dimensions. A picture has two. So draw
# two random **directions**, walk along both, and look at the loss on the way: its **surface**.
#
# How long is a step? Multiply all weights of a filter by 10 and divide the batch norm after it by
# 10: the network computes the same, but a step of length 1 now means a tenth as much. So each filter
# of a direction gets the length of the teacher's own filter (*filter normalisation*, Li et al.,
# 2018). All three networks are walked along the *same* two directions, and share one colour scale.
#
# ## Predict first
#
# **Write down:** whose middle is lowest? Whose surface is the flattest, and whose is rough?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.analysis.curvature import filter_normalised_directions, loss_surface

directions = filter_normalised_directions(teacher)
tables = []
for name, network in networks.items():
    offsets, losses = loss_surface(network, images, logits, directions, points=POINTS)
    a, b = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    tables.append(pd.DataFrame({"network": name, "a": a, "b": b, "loss": losses.ravel()}))
    print(f"{name}: loss from {losses.min():.3g} to {losses.max():.3g}")
surfaces = pd.concat(tables, ignore_index=True)

# %%
from akt_lab.figures.curvature import draw_loss_surface
from akt_lab.figures.error_cost import draw_error_cost

drawn = draw_loss_surface(surfaces, f"{IMAGES} synthetic images.")
show(
    drawn.figure,
    alt=drawn.alt,
    reading="One scale for all: the same colour is the same loss. The cross is the network itself.",
)

# %% [markdown]
# Two random directions of many thousand: another pair gives another picture. And a basin that *looks*
# wide is not a better network; it is one whose weights may be moved in those two directions.
#
# ## Explore
#
# A cut through all three surfaces at once, on one scale. The slider moves the cut along the second
# direction. (Without a running kernel: each cut is a horizontal line through the surfaces above.)

# %%
import ipywidgets

looks = dict(zip(networks, (("0.3", ":"), ("#0072b2", "--"), ("#d55e00", "-")), strict=True))
top = surfaces["loss"].max()


# %%
def cut(at=0.0):
    figure, axes = plt.subplots(figsize=(7, 3))
    b = offsets[np.abs(offsets - at).argmin()]
    for name, (colour, dash) in looks.items():
        rows = surfaces[(surfaces["network"] == name) & (surfaces["b"] == b)]
        axes.plot(rows["a"], rows["loss"].clip(lower=0.1), dash, color=colour, label=name)
    axes.set(xlabel="offset along the first direction", ylabel="distillation loss")
    axes.set(yscale="log", ylim=(0.08, 1.3 * top))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    text = f"Loss of three networks along the first direction, at {b:.2f} along the second."
    show(
        figure,
        alt=text,
        reading=f"The second direction stands at {b:.2f}. Losses below 0.1 are drawn at 0.1.",
    )


# %%
at = ipywidgets.FloatSlider(value=0, min=-1, max=1, step=1 / 7, description="second")
at.continuous_update = False
_ = ipywidgets.interact(cut, at=at)

# %% [markdown]
# ## From a picture to a number
#
# Close to a point $w$ a smooth loss is a plane plus a bowl:
#
# $$L(w + v) \approx L(w) + g \cdot v + \tfrac12\, v \cdot H v$$
#
# $g$ is the gradient. $H$, the **Hessian**, holds all second derivatives: for $P$ weights a matrix of
# $P \times P$. Along a direction $v$ of length 1 the curvature is $v \cdot Hv$. Its **eigenvalues**
# are the curvatures along the bowl's own axes, and its **trace**, the sum of its diagonal, is their
# sum: the curvature in all directions together. Nobody writes $H$ down. But $Hv$, for one vector,
# costs two backward passes: differentiate the number $g \cdot v$ once more. (That is all that
# `akt_lab.analysis.curvature.Hessian`, which is used below, does.)

# %%
w = torch.tensor([1.0, 2.0], requires_grad=True)
loss = w[0] ** 3 + 5 * w[0] * w[1]  # Hessian at (1, 2): [[6, 5], [5, 0]]
(g,) = torch.autograd.grad(loss, w, create_graph=True)
(hv,) = torch.autograd.grad(g @ torch.tensor([1.0, 0.0]), w)
print("H times (1, 0) =", hv.tolist())

# %% [markdown]
# ## Exercise: a trace without the matrix
#
# Hutchinson (1989): let $v$ have **random signs**, each entry $+1$ or $-1$. Then $v \cdot Hv$ is
# $\sum_i H_{ii}$, because $v_i^2 = 1$, plus terms $v_i v_j H_{ij}$ that are as often positive as
# negative. *On average* it is the trace. So draw some such probes and take the mean.
#
# `hutchinson_trace(product, size, probes)` gets a function $v \mapsto Hv$ for tensors of shape
# `(size,)`, and gives back a pair: the estimate, and its **standard error**, the standard deviation
# of the probes' values over the root of their number. Two probes or more.
#
# <details><summary>Hint 1: signs</summary>
#
# `torch.randint(0, 2, (size,))` gives 0 and 1. Twice that
# minus 1 gives signs; make it a float.
#
# </details>
#
# <details><summary>Hint 2: one probe</summary>
#
# `v @ product(v)` is one value, and calls `product`
# once. Draw a new `v` for each.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# `torch.stack(values)` has `.mean()` and `.std()`,
# which divides by probes − 1, as it should. Then `std / probes**0.5`.
#
# </details>


# %% tags=["exercise"]
def hutchinson_trace(product, size, probes):
    """(estimate, standard error) of the trace of H, from `probes` products v -> Hv."""
    # SOLUTION
    values = []
    for _ in range(probes):
        v = 2.0 * torch.randint(0, 2, (size,)) - 1
        values.append(v @ product(v))
    values = torch.stack(values)
    return values.mean(), values.std() / probes**0.5
    # END


# %% tags=["check"]
checks.hutchinson_trace(hutchinson_trace)

# %% [markdown]
# ## See it
#
# For the weights of the teacher's last layer alone, $H$ is small enough to be written down, so the
# estimate can be held against the truth. The grey line is the exact trace.

# %%
from akt_lab.analysis.curvature import distillation_hessian, trace
from akt_lab.analysis.smooth import private_copy

copy = private_copy(teacher)
last = [m for m in copy.modules() if isinstance(m, torch.nn.Linear)][-1]
small = distillation_hessian(copy, list(last.parameters()), images, logits, 20.0)
exact = float((small @ torch.eye(small.shape[0])).trace())
counts = (2, 4, 8, 16, 32, 64)
found = [trace(small, probes) for probes in counts]

# %%
figure, axes = plt.subplots(figsize=(7, 3))
values, errors = ([e[n] for e in found] for n in (0, 1))
axes.errorbar(counts, values, 3 * np.array(errors), fmt="o", color="#0072b2", capsize=4)
axes.axhline(exact, color="0.4", linewidth=1)
axes.set(xscale="log", xlabel="probes", ylabel="trace", xticks=counts, xticklabels=counts)
axes.minorticks_off()
inside = sum(abs(v - exact) <= 3 * e for v, e in zip(values, errors, strict=True))
show(
    figure,
    alt=f"Estimates from {counts[0]} to {counts[-1]} probes; {inside} of {len(counts)} within three "
    f"standard errors of the exact trace {exact:.3g}.",
    reading="Bars: three standard errors. On average, four times the probes halve them.",
)

# %% [markdown]
# ## A student has no Hessian
#
# Now the students. True rounding is flat almost everywhere: its second derivative is 0, and says
# nothing. The straight-through rule makes up a first derivative. Is what comes out the gradient of
# *any* function? A gradient passes a simple test: its derivative $J$ is a Hessian, and that is
# **symmetric**. For any two directions, $v \cdot Ju = u \cdot Jv$.
#
# `asymmetry` draws pairs of directions and measures how far this fails: 0 for a gradient, 1 at
# most, and $\sqrt{1/2} \approx 0.71$ if $J$ and its mirror image have nothing in common.
#
# **Predict:** what will it be for the teacher, and for a student?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.analysis.curvature import asymmetry
from akt_lab.analysis.smooth import smooth_student

plain = networks["plain 3-bit"]
three = {
    "teacher": teacher,
    "student, straight-through": plain,
    "the student's smooth stand-in": smooth_student(plain, 0.5),
}
for name, network in three.items():
    found = asymmetry(network, images[:8], logits[:8], pairs=4)
    print(
        f"{name:30} {found.value:.2g} ± {found.error:.1g} (half the step: {found.step_error:.0g})"
    )
read_back()

# %% [markdown]
# If the straight-through number is far from 0, what trains the student is *no function's gradient*:
# there is no surface whose steepest descent it follows. That is the white lie of notebook 1,
# measured. Training need not fail; but "the student's Hessian" has no meaning as it stands.
#
# ## A smooth stand-in
#
# So we replace rounding by a smooth staircase. Its **sharpness** runs from 0 (no rounding at all,
# only the clipping) towards 1 (true rounding). It is *another* network, close to the student.

# %%
from akt_lab.analysis.smooth import soft_round

x = torch.linspace(-1.5, 1.5, 400)
figure, axes = plt.subplots(figsize=(6.5, 3))
for sharpness, colour, dash in ((0, "0.5", ":"), (0.5, "#0072b2", "--"), (0.95, "#d55e00", "-")):
    axes.plot(x, soft_round(x, sharpness), dash, color=colour, label=f"sharpness {sharpness}")
axes.set(xlabel="x, in steps of the grid", ylabel="softly rounded x")
axes.legend(frameon=False)
show(
    figure,
    alt="A straight line, a gentle wave around it, and a staircase with rounded corners.",
    reading="The sharper, the nearer to rounding, and the more curvature in the corners.",
)

# %%
from akt_lab.analysis.curvature import hessian

cases = {"teacher": teacher}
for name in ("plain 3-bit", "AKT 3-bit"):
    cases |= {f"{name}, sharpness {k:g}": smooth_student(networks[name], k) for k in (0.0, 0.5)}
traces = {}
for name, network in cases.items():
    traces[name] = trace(hessian(network, images, logits), PROBES)
    print(f"{name:30} {traces[name].value:10.4g} ± {traces[name].error:.2g}")

# %%
from scipy.stats import t as student_t

figure, axes = plt.subplots(figsize=(7.5, 2.8))
marks = "oDsDs"
factor = student_t.ppf(0.975, PROBES - 1)  # Student's t, as in notebook 6
for place, (name, estimate) in enumerate(traces.items()):
    colour = looks[name.split(", sharp")[0]][0]
    bar = factor * estimate.error
    axes.errorbar(estimate.value, place, xerr=bar, fmt=marks[place], color=colour, capsize=3)
axes.set_yticks(range(len(traces)), list(traces))
axes.invert_yaxis()
axes.set_xlabel(f"trace of the Hessian, {PROBES} probes")
listed = "; ".join(f"{n} {e.value:.3g} ± {factor * e.error:.2g}" for n, e in traces.items())
show(figure, alt=f"Traces with 95% bars: {listed}.",
     reading="Bars: 95%, of the probes only. Compare students at the same sharpness.")  # fmt: skip

# %% [markdown]
# **Be careful with this picture.** Compare a student's two sharpnesses. If they differ by more than
# the networks do, the figure speaks about the stand-in. Overlapping bars do not say which network is
# flatter; and the bars know nothing of other seeds.
#
# ## Stretch exercise: the steepest curvature
#
# The trace is a sum. The **top eigenvalue**, here the largest *by size*, is the strongest curvature
# in any one direction. **Power iteration** finds it: multiply a vector by $H$ again and again. The
# part along the top direction grows fastest, and is soon all that is left.
#
# `top_eigenvalue(product, size, steps)` gives back that eigenvalue, with its sign.
#
# <details><summary>Hint 1: where to start</summary>
#
# A random vector, `torch.randn(size)`: a fixed one
# may have no part along the top direction.
#
# </details>
#
# <details><summary>Hint 2: keep it finite</summary>
#
# After each product divide the vector by its
# norm.
#
# </details>
#
# <details><summary>Hint 3: the sign</summary>
#
# The norm of $Hv$ has none. At the end return
# `v @ product(v)`, for $v$ of norm 1.
#
# </details>


# %% tags=["exercise"]
def top_eigenvalue(product, size, steps):
    """The eigenvalue of H that is largest by size, with its sign, from products v -> Hv."""
    # SOLUTION
    v = torch.randn(size)
    for _ in range(steps):
        v = v / v.norm()
        v = product(v)
    v = v / v.norm()
    return v @ product(v)
    # END


# %% tags=["check"]
checks.top_eigenvalue(top_eigenvalue)

# %%
from akt_lab.analysis.curvature import top_eigenvalues

values, residuals = top_eigenvalues(small, 3)
exact_values = torch.linalg.eigvalsh(small @ torch.eye(small.shape[0])).flip(0)[:3]
print("of the last layer, by Lanczos' method:", [f"{v:.4g}" for v in values])
print("of the matrix, written down:          ", [f"{v:.4g}" for v in exact_values.tolist()])
print(f"the first is {100 * values[0] / exact:.0f}% of the trace, of {small.shape[0]} in all")

# %% [markdown]
# ## Which error is the costly one?
#
# AKT distils spatial and channel attention. That pays if errors *there* are the costly ones, which can
# be asked without a smooth staircase: take a feature map of the full-precision teacher, round it, and
# call the change $e$. (Our students do not round at this place; $e$ stands for the error that arrives
# here from rounded weights and activations, and the real one may point elsewhere.) The loss has its
# minimum there, so to second order the error costs
#
# $$\tfrac12\, e \cdot H e \qquad \text{with } H \text{ taken in the map, not in the weights.}$$
#
# Now split $e$: the **spatial** part changes the energy at each place, the **channel** part the
# energy of each channel (the two overlap), and the **rest** changes neither, to first order: a large
# rest adds its own squares to both.
#
# **Predict:** which part holds most of the squared error? And which costs most *per square*?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.analysis.error_cost import cost_of_error, map_hessian, rounding_error
from akt_lab.graph import residual_bodies

few, tables = images[:8], []
for layer in residual_bodies(teacher):
    operator, x = map_hessian(teacher, layer, few)
    random = len(few) * trace(operator, max(PROBES, 2)).value / (2 * operator.shape[0])
    for bits in COST_BITS:
        table = cost_of_error(teacher, layer, few, rounding_error(x, bits)).reset_index()
        tables.append(table.assign(layer=layer, bits=bits, random=random))
    print(f"{layer}: {operator.shape[0]:,} numbers in the map of {len(few)} images")
costs = pd.concat(tables, ignore_index=True)

# %%
drawn = draw_error_cost(costs, f"{len(few)} synthetic images.")
show(
    drawn.figure,
    alt=drawn.alt,
    reading="Left: how much of the error. Right: how dear each unit of it; 1 is a random error.",
)

# %% [markdown]
# The right panel's unit is an error of *random direction*; what that costs follows from Hutchinson's
# trace. What a part costs **in all** is its size times its price. The parts do not add up to the
# whole: spatial and channel overlap, and two errors that push the same way cost more together.

# %%
costs["price"] = costs["cost_per_square"] / costs["random"]
for bits in COST_BITS:
    rows = costs[costs["bits"] == bits].set_index(["part", "layer"])
    parts = ("spatial", "channel", "rest")
    shares = {p: float((rows["cost"][p] / rows["cost"]["all"]).mean()) for p in parts}
    prices = {p: float(np.exp(np.log(rows["price"][p]).mean())) for p in parts}
    listed = ", ".join(f"{p} {100 * shares[p]:3.0f}%" for p in parts)
    most, dearest = max(shares, key=shares.get), max(prices, key=prices.get)
    print(f"{bits} bits, of the whole cost: {listed}.", end=" ")
    print(f"Most in all: {most}. Dearest per square: {dearest} ({prices[dearest]:.3g})")

# %% [markdown]
# ## What would prove this wrong?
#
# Suppose your run says that the attention parts are dearer per square. Does it follow that AKT
# helps? Three ways in which it need not:
#
# 1. The cost is of *second order*. At 2 bits errors are large: take the true loss of the map with
#    each part added, and compare. If the order changes, the Hessian was the wrong ruler.
# 2. Dear is not the same as *curable*. A part may cost most and yet be what training cannot change.
# 3. One batch, one teacher, one set of synthetic images. Another seed of the generator, or real
#    images, may give another order. Try `BENCH = "cifar10"`.
#
# And for the surfaces: draw them again with `filter_normalised_directions(teacher, seed=1)`. A claim
# that does not survive another pair of directions was about the pair.

# %% [markdown]
# ## Recap
#
# - Surfaces can be compared only on shared directions of normalised length, and one scale.
# - $Hv$ costs two backward passes; random signs turn such products into a trace, with an error bar.
# - Every gradient passes the symmetry test. Where the straight-through field fails it, a quantized
#   network as such has no Hessian.
# - A smooth stand-in has one, but part of its curvature is its own. Report more than one sharpness.
# - What an error costs is its size times its price, and the price depends on its direction. The
#   paper's reason for distilling attention can be measured in this way, on the teacher itself.
#
# **Next:** the student leaves the laboratory, as a file that a small device can run.
