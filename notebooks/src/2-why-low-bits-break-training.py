# %% [markdown] budget=3
# # 2 · Why low bits break training
#
# After this notebook you can
#
# - find the bit-width at which a network falls off the cliff, before any training,
# - measure a network's **gradient norms** layer by layer, without disturbing its training,
# - tell a gradient that *explodes* from one that is large because the *loss* is large.
#
# You need notebook 1: fake quantization, frozen ranges, the straight-through gradient. The
# computing takes two minutes, the reading about forty.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl")

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from akt_course import checks
from akt_course.show import predict, show
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.figures.style import STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% smoke="STEPS, BATCH, EVALUATED = 3, 8, 100"
STEPS, BATCH = 40, 32  # training steps for each student, images in a step
EVALUATED = 2000  # real images that accuracy is measured on, at most
BITS = (0, 8, 5, 4, 3, 2)  # 0 stands for full precision

# %% [markdown]
# ## Teacher and student
#
# The **teacher** is the trained network of notebook 1. A **student** starts as a copy of it in which
# the weights of every convolution and linear layer, and every ReLU's output, are rounded to $k$ bits.
# (The input, batch norms, the sums of residual units and biases are not.) Its activation ranges must be observed
# on images. The training images are gone, so a **generator**, a small network that turns noise into
# images, makes some up. How it learns to do that is the next notebook; take them as given.

# %%
from akt_lab.analysis.gradients import Case, make_student, study, synthetic_batches

bench = load_bench(BenchSpec(BENCH))
teacher = bench.teacher
print("training a generator for 200 steps: half a minute ...")
images = synthetic_batches(bench, STEPS, BATCH)
print(f"{len(images)} batches of {BATCH} images, each image with the class that was asked for")

# %% [markdown]
# ## The cliff
#
# Notebook 1 ended with a doubt: one wants a network that works, not a small squared error.
# **Accuracy** is the share of real images that are classified correctly. Before the picture: at how
# many bits do you expect trouble?

# %%
from dataclasses import replace

from akt_lab.runs.training import evaluate

few = replace(bench, images=bench.images[:EVALUATED], labels=bench.labels[:EVALUATED])
accuracy = {}
for bits in BITS:
    accuracy[bits] = evaluate(make_student(teacher, Case(bits), images), few)
    print(f"{bits or 'full':>4} bits: {accuracy[bits]:.1f}%")

# %%
from akt_lab.analysis.intervals import proportion_interval
from akt_lab.figures.style import bit_name

listed = ", ".join(f"{bit_name(b)}: {v:.0f}%" for b, v in accuracy.items())
values = np.array(list(accuracy.values()))
drop = -np.diff(values)
edge = BITS[int(drop.argmax()) + 1]
ends = np.array([proportion_interval(v, len(few.images)) for v in values])

# %%
figure, axes = plt.subplots(figsize=(6.5, 3))
axes.errorbar(
    range(len(BITS)), values, np.abs(ends.T - values), fmt="o-", color="#0072b2", capsize=3
)
axes.axhline(100 / bench.num_classes, color="0.4", linestyle=":")
axes.text(0, 100 / bench.num_classes + 2, "guessing", color="0.3")
axes.set_xticks(range(len(BITS)), [bit_name(b) for b in BITS])
axes.set(xlabel="bits of weights and activations", ylabel="accuracy (%)", ylim=(0, 103))
show(figure, alt=f"Accuracy by bits without any training. {listed}.",
     reading=f"Largest drop: {drop.max():.0f} points, down to {edge} bits. Bars: 95% intervals.")  # fmt: skip

# %% [markdown]
# Beyond the cliff rounding alone is not enough: the student has to *learn* to live with its grid.
# There the paper of this course sees the problem.
#
# ## What the paper says
#
# The student learns by **distillation**: it is pulled towards the teacher's outputs. The **logits**
# are a network's last numbers, one for each class, before the softmax: $s$ the student's, $t$ the
# teacher's. Both are divided by a **temperature** $T = 20$, which makes their softmaxes flatter. The
# **Kullback-Leibler divergence** $KL(p\,\|\,q)=\sum_k p_k \ln(p_k/q_k)$ then says how far $q$ is from
# $p$ (notebook 4 has more of it):
#
# $$L_{KL} = T^2 \; KL\big(\mathrm{softmax}(t/T)\;\|\;\mathrm{softmax}(s/T)\big)$$
#
# which is 0 exactly where the softened outputs agree. The AKT paper says that at 3 to 5 bits this
# plain distillation makes the student's gradients **explode**, so that it learns badly. Let us see.

# %% [markdown]
# ## Predict first
#
# The **gradient norm** of a layer is one number: the root of the sum of its squared gradient
# entries. Times the learning rate it is how far plain gradient descent moves that layer in a step.
#
# **Rank the bit-widths before you look:** whose gradient is smallest, whose largest? The order below
# is nobody's guess: make it yours.

# %% tags=["prediction"]
my_ranking = [8, 2, 0, 5, 3, 4]  # smallest gradient first; 0 is full precision

# %% [markdown]
# ## Exercise: measure without touching
#
# `gradient_norms(network, loss)` gives back a dictionary: for each **weight** of the network
# (each parameter with two dimensions or more, by its name in `network.named_parameters()`) the L2
# norm of the gradient of `loss`. A weight that the loss does not reach has norm 0.
#
# It is a *measurement* and leaves no trace: every `.grad` stays as it is, and the same loss can be
# asked again.
#
# <details><summary>Hint 1: which function</summary>
#
# `loss.backward()` adds to `.grad`.
# `torch.autograd.grad(loss, list_of_weights)` returns the gradients instead.
#
# </details>
#
# <details><summary>Hint 2: two options</summary>
#
# `retain_graph=True` keeps the graph for another call;
# `allow_unused=True` gives None where the loss does not reach.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# Collect `{name: w ...  if w.ndim >= 2}`, ask for
# all gradients at once, and zip names and gradients: `0.0 if g is None else g.norm().item()`.
#
#
# </details>


# %% tags=["exercise"]
def gradient_norms(network, loss):
    """{name: L2 norm of d loss / d weight} for each parameter of 2 dimensions or more."""
    # SOLUTION
    weights = {name: w for name, w in network.named_parameters() if w.ndim >= 2}
    found = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
    return {
        name: 0.0 if g is None else g.norm().item() for name, g in zip(weights, found, strict=True)
    }
    # END


# %% tags=["check"]
checks.gradient_norms(gradient_norms)

# %% [markdown]
# ## Train, and measure on the way
#
# From here on the package measures. Every student starts as the teacher, sees the
# same images in the same order, and learns with the papers' learning rate. Two losses:
#
# - `kd`: the distillation loss above,
# - `ce`: **cross-entropy** with the class that the generator was asked for. It compares with classes
#   and not with the teacher, so it is not 0 for a student that equals its teacher.

# %%
cases = [Case(bits, loss) for loss in ("kd", "ce") for bits in BITS]
cases += [Case(bits, "kd", gradient="clipped") for bits in (4, 3, 2)]
found = study(bench, cases, images)
plain = found[found["gradient"] == "identity"]
print(f"{len(found):,} gradient norms: {len(cases)} students, {STEPS} steps")

# %% [markdown]
# ## See it
#
# One heat map holds a whole step: a row for each layer, a column for each bit-width, bright for a
# large gradient. The colour is the **logarithm** to base 10: one unit more is ten times the gradient. Grey:
# smaller than any gradient of a rounded student.

# %%
layers = list(dict.fromkeys(found["layer"]))
maps = plain.assign(log=np.log10(plain["norm"].clip(lower=1e-9)))
rounded = maps.loc[maps["bits"] > 0, "log"]
colours = plt.get_cmap("cividis").with_extremes(under="0.8")
scale = {"vmin": rounded.min(), "vmax": rounded.max(), "cmap": colours, "aspect": "auto"}


def heat(axes, loss, step):
    rows = maps[(maps["loss"] == loss) & (maps["step"] == step)]
    cells = rows.pivot(index="layer", columns="bits", values="log").reindex(layers, columns=BITS)
    axes.grid(False)
    axes.set_xticks(range(len(BITS)), [bit_name(b) for b in BITS], fontsize=8)
    axes.set_yticks(range(len(layers)), [n.removesuffix(".weight") for n in layers], fontsize=8)
    axes.set(xlabel="bits", title=f"{loss}, step {step}")
    return axes.imshow(cells.to_numpy(float), **scale)


# %%
shown = np.unique(np.linspace(0, STEPS - 1, 4).round().astype(int))
size = (2.1 * len(shown) + 2.5, 0.24 * len(layers) + 1.2)
figure, grid = plt.subplots(1, len(shown), figsize=size, sharey=True, layout="constrained")
for axes, step in zip(grid, shown, strict=True):
    drawn = heat(axes, "kd", step)
figure.colorbar(drawn, ax=grid, label="log10 of gradient norm")
top = maps[maps["loss"] == "kd"].nlargest(1, "norm").iloc[0]
show(
    figure,
    alt=f"Distillation's gradient norms at {len(shown)} steps, layer by bits. The largest of all, "
    f"{top.norm:.3g}, is in {top.layer} at {top.bits} bits and step {top.step}.",
    reading="From left to right through training; within a map, fewer bits to the right.",
)

# %% [markdown]
# Look at the first column of the first map. A full-precision "student" *is* its teacher: there is
# nothing to distil, and its gradient is zero. So with this loss full precision is no yardstick.
#
# Now scrub through training yourself, two bit-widths side by side, and switch one side to
# cross-entropy (`ce`). (Without a kernel: see the strip above.)

# %%
from akt_lab.explorers import gradient_explorer

gradient_explorer(table=found)

# %% [markdown]
# Is any *layer* special, or does the whole map brighten at once? And was your ranking right, by the
# median over the steps of all layers together?

# %%
from itertools import combinations

from akt_lab.analysis.gradients import summarise

table = summarise(found)
main = table[table["gradient"] == "identity"].set_index(["loss", "bits"])
for loss in ("kd", "ce"):
    norms = main.loc[loss, "norm"]
    right = sum(norms[a] < norms[b] for a, b in combinations(my_ranking, 2))
    order = " < ".join(bit_name(b) for b in norms.sort_values().index)
    print(f"{loss}: {right} of 15 pairs as you said.  Measured: {order}")

# %% [markdown]
# ## Large, compared with what?
#
# A raw gradient norm has a **unit**, the loss's. Weigh the same loss twice, and its gradient is twice
# as large. And a loss that is *large* may have a large gradient for no other reason. Is the loss
# larger at low bits?
#
# In a bowl of the shape $L = a x^2$ the gradient is $2 a x$, which is $2\sqrt{a L}$: it grows like
# the **root** of the loss. So if the last column below hardly changes while the loss climbs, the
# students sit at different heights of bowls of much the same shape.

# %%
from akt_lab.losses import kd_loss

x, _ = images[0]
with torch.no_grad():
    t = teacher(x)
for bits in BITS[1:]:
    student = make_student(teacher, Case(bits), images).requires_grad_()
    weights = [w for w in student.parameters() if w.ndim >= 2]
    loss = kd_loss(student(x), t)
    parts = torch.autograd.grad(loss, weights, retain_graph=True)
    twice = torch.autograd.grad(2 * loss, weights)
    norm, double = (torch.stack([g.norm() for g in group]).norm() for group in (parts, twice))
    print(f"{bits} bits: loss {loss:8.4f}, gradient norm {norm:8.3f}, of twice the loss", end=" ")
    print(f"{double:8.3f}, norm / root of loss {norm / loss.sqrt():5.1f}")

# %% [markdown]
# Twice the loss, twice the norm, to the digit.
#
# ## A fairer yardstick
#
# So at every step the study also took the same loss, on the same images, of the **full-precision
# network with the student's present weights**. Two numbers come out of that:
#
# - the **ratio** of the two norms. Above 1, rounding made the gradient larger,
# - the **cosine** between the two gradients: 1 is the same direction, 0 is unrelated.
#
# The cleanest comparison is `ce` at the *first* step: both networks still have the teacher's weights.
# Later the weights have been trained for the rounded network, and the full-precision one that borrows
# them is off its own course.
#
# **Predict:** below the cliff, is the ratio above 1? And the cosine?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.analysis.gradients import by_step

first = by_step(plain[(plain["loss"] == "ce") & (plain["step"] == 0)]).set_index("bits")
first = first.assign(ratio=first["norm"] / first["reference_norm"])
lines = {
    "kd, median of the steps": (main.loc["kd"], "#0072b2", "o--"),
    "ce, median of the steps": (main.loc["ce"], "#d55e00", "s-"),
    "ce, first step": (first, "#009e73", "^:"),
}


def describe(name):
    rows = lines[name][0]
    parts = [
        f"{n} {rows.loc[8, n]:.3g} to {rows.loc[2, n]:.3g}" for n in ("norm", "ratio", "cosine")
    ]
    return f"{name}, from 8 bits to 2: {', '.join(parts)}."


# %%
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
places = range(len(BITS) - 1)
for name, (rows, colour, mark) in lines.items():
    for axes, value in zip(panels, ("norm", "ratio", "cosine"), strict=True):
        axes.plot(places, rows.loc[list(BITS[1:]), value], mark, color=colour, label=name)
        axes.set_xticks(places, [str(b) for b in BITS[1:]])
        axes.set(xlabel="bits of weights and activations", title=value)
panels[0].set(yscale="log", title="raw gradient norm")
panels[1].axhline(1, color="0.4", linewidth=1)
panels[2].axhline(0, color="0.4", linewidth=1)
names = panels[0].get_legend_handles_labels()
figure.legend(*names, loc="outside lower center", ncols=3, frameon=False)
show(figure, alt=f"Raw norm, ratio and cosine by bits. {' '.join(map(describe, lines))}",
     reading="Left: the raw norm. Middle and right: against full precision at the same weights.")  # fmt: skip

# %% [markdown]
# Read them together, the first step of `ce` first:
#
# - There the yardstick is one number, and `ce`'s ratio grows exactly as its raw norm does. Compare that with the raw norm of `kd`: what `kd`
#   climbs beyond it goes with `kd`'s own loss, which is almost 0 at 8 bits. (Part of `ce`'s climb may
#   be its loss's, too.)
# - If the cosine falls towards 0, the gradient has lost its *direction*: the student is sent
#   somewhere else than the network that it imitates.
#
# With `kd` at many bits both networks are near the bottom of the bowl: a low cosine means little
# there.

# %%
print(*map(describe, lines), sep="\n")
for name, (rows, *_) in lines.items():
    print(f"{name}: the raw norm grows {rows.norm[2] / rows.norm[8]:.1f}-fold,", end=" ")
    print(f"the ratio {rows.ratio[2] / rows.ratio[8]:.1f}-fold")

# %% [markdown]
# ## A suspect: the straight-through rule
#
# Notebook 1 had two rules. `identity` lets the gradient through even where a value was clipped, as
# all methods here do; `clipped` stops it there. If large gradients came from clipped
# values, `clipped` should tame them.

# %%
clipped = table[table["gradient"] == "clipped"].set_index("bits")
for bits in (4, 3, 2):
    one, other = main.norm["kd", bits], clipped.norm[bits]
    print(
        f"{bits} bits: identity {one:8.3f}, clipped {other:8.3f}: {other / one:.2f} times as large"
    )

# %% [markdown]
# ## Does it explode?
#
# An explosion is an *event*: the norm leaves its usual value far behind. So compare a run's largest
# step with its usual one. A loss that counts twice then gives the same number.
#
# ## Stretch exercise: an explosion detector
#
# `explosion_ratio(norms)` takes a list of gradient norms, one for each step, and gives back the
# largest over the **median** (for an even number, halfway between the two in the middle). If any
# norm is not finite (`nan` or `inf`), the answer is `math.inf`.
#
# <details><summary>Hint 1: why the median</summary>
#
# A burst lifts the mean that it is compared with.
# The median hardly moves. Python has `statistics.median`.
#
# </details>
#
# <details><summary>Hint 2: nan is sly</summary>
#
# `max([1.0, nan])` and `max([nan, 1.0])` differ,
# because every comparison with nan is false. Ask `math.isfinite` first.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# `if not all(math.isfinite(n) for n in norms)` the
# answer is `math.inf`, else `max(norms) / statistics.median(norms)`.
#
# </details>

# %%
import math
import statistics


# %% tags=["exercise"]
def explosion_ratio(norms):
    """The largest of a list of norms over their median; inf if one of them is not finite."""
    # SOLUTION
    if not all(math.isfinite(norm) for norm in norms):
        return math.inf
    return max(norms) / statistics.median(norms)
    # END


# %% tags=["check"]
checks.explosion_ratio(explosion_ratio)

# %%
from matplotlib.ticker import MaxNLocator

from akt_lab.analysis.gradients import explosion

looks = {8: ("#009e73", "-."), 4: ("#0072b2", "-"), 3: ("#e69f00", "--"), 2: ("#d55e00", ":")}

# %%
steps = by_step(plain[plain["loss"] == "kd"])
figure, axes = plt.subplots(figsize=(8, 3.4))
said = []
for bits, (colour, dash) in looks.items():
    norms = steps.loc[steps["bits"] == bits, "norm"].to_numpy()
    burst = explosion(norms)
    said.append(f"{bits} bits: {burst.ratio:.1f} at step {burst.step}")
    axes.plot(norms, dash, color=colour, label=f"{bits} bits: {burst.ratio:.1f} times its median")
    axes.plot(burst.step, norms[burst.step], "o", color=colour)
axes.set(yscale="log", xlabel="training step", ylabel="norm of the whole gradient (kd)")
axes.xaxis.set_major_locator(MaxNLocator(integer=True))
axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), title="largest (dot)")
show(figure, alt=f"Gradient norm through training. Largest over median: {'; '.join(said)}.",
     reading="Ask where the dot is: a large first step is a far start, a late one is a burst.")  # fmt: skip

# %% [markdown]
# We call it an explosion above 10 times the median; the number is ours. These are short runs of one
# seed: they can show an explosion, but not rule one out.
#
# ## Another suspect: the range
#
# So far an activation's grid ended where its values end. One that cuts off the few largest is finer
# for all others. The rule `pnorm` takes the cut with the least $\sum |\hat x - x|^{2.4}$, layer by
# layer, on synthetic images, without training. **Predict:** what is that worth at 2 bits? At 8?

# %% tags=["prediction"]
predict("""
...
""")

# %%
ended = {"ema": ("where the values end", "o--", "#0072b2"), "pnorm": ("chosen", "D-", "#d55e00")}
by_rule = {
    rule: [evaluate(make_student(teacher, Case(b, ranges=rule), images), few) for b in BITS[1:]]
    for rule in ended
}

# %%
figure, axes = plt.subplots(figsize=(6.5, 3))
for rule, (name, look, colour) in ended.items():
    axes.plot(range(len(BITS[1:])), by_rule[rule], look, color=colour, label=name)
axes.set_xticks(range(len(BITS[1:])), [bit_name(b) for b in BITS[1:]])
axes.set(xlabel="bits of weights and activations", ylabel="accuracy (%)", ylim=(0, 103))
axes.legend(frameon=False, title="the range ends", loc="lower left")
pairs = zip(BITS[1:], by_rule["ema"], by_rule["pnorm"], strict=True)
said = "; ".join(f"{b} bits: {old:.0f}% to {new:.0f}%" for b, old, new in pairs)
show(figure, alt=f"Accuracy without training, by bits and range rule. {said}.",
     reading=f"From the values' own range to the chosen one. {said}.")  # fmt: skip

# %% [markdown]
# The same weights, the same number of levels. Before asking how a student *learns*, ask what grid
# it was given.
#
# ## What would prove this wrong?
#
# The reading that we offer: *at low bits the gradient of plain distillation is large mostly because
# the loss is large, and its lost direction is the greater trouble.* Three findings would speak against it:
#
# 1. a **ratio** at the first step that climbs as steeply as the raw norm of `kd`, over several
#    seeds,
# 2. bursts in the **middle** of training, at low bits only,
# 3. a student whose gradient is cut to a fixed length (`torch.nn.utils.clip_grad_norm_`) and which
#    then learns as well as one with 5 bits.
#
# The first two take one changed line each (`seed=` in `synthetic_batches`, a larger STEPS).

# %% [markdown]
# ## Recap
#
# - Accuracy by bits has a cliff. Where it is depends on network and data; look before you train.
# - A gradient norm is a measurement: `torch.autograd.grad`, and no trace left behind.
# - A full-precision student of itself has no distillation gradient, so it is no yardstick for `kd`.
# - Raw norms carry the loss's unit. Compare with the full-precision network *at the same weights*.
# - Length and direction are different troubles: a ratio tells one, a cosine the other.
# - An explosion is a step that leaves the run's own median far behind.
# - Where a grid ends is a choice, and at low bits a large one.
#
# The paper's remedy, distilling feature maps as well, comes in notebook 5.
#
# **Next:** the images that we took as given. How does a network draw what it was trained on?
