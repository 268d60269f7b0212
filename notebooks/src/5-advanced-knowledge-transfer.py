# %% [markdown] budget=5
# # 5 · Advanced knowledge transfer
#
# After this notebook you can
#
# - write the loss that gives AKT its name, and show that each of its terms **does** something,
# - find a loss that is always 0 in code that runs without a complaint,
# - train two students at an equal budget, watch them learn, and say what that does not prove.
#
# You know attention maps (notebook 4), and images without data (notebook 3). The computing takes
# three or four minutes, the reading about forty.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl")

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from akt_course import checks
from akt_course.show import predict, read_back, show
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.figures.style import STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% smoke="STEPS, LOOK = 2, 16"
STEPS = 40  # in each of the 8 epochs of a run; the first 2 train the generator only
LOOK = 128  # real images, to look at: no student learns from them
REDRAW = 2.0  # seconds from one picture to the next while a student learns

# %% [markdown]
# ## A teacher and a student that disagree
#
# The **teacher** is the full-precision network, the **student** its copy at 3 bits. **Plain
# distillation** compares their **logits**, the numbers before the last softmax. AKT also compares
# what happens on the way there: at the end of each residual unit's body stands a **feature map**
# of shape (images, channels, height, width). ResNet-20 has nine of them.

# %%
from akt_lab.analysis.gradients import Case, make_student
from akt_lab.graph import capture_maps, residual_bodies, trace

bench = load_bench(BenchSpec(BENCH))
x, y = bench.normalise(bench.images[:LOOK]), bench.labels[:LOOK]
teacher = trace(bench.teacher).requires_grad_(False)
student = make_student(bench.teacher, Case(bits=3), [(x, y)]).requires_grad_()
layers = residual_bodies(teacher)
with capture_maps(teacher, layers) as kept_t, capture_maps(student, layers) as kept_s:
    t, s = teacher(x), student(x)
teacher_maps, student_maps = [*kept_t.values()], [*kept_s.values()]
print(*(f"{name:16} {tuple(m.shape)}" for name, m in kept_t.items()), sep="\n")

# %% [markdown]
# ## Predict first
#
# Notebook 4 made two distributions of each map: *where* it is active (**spatial attention**) and
# *which channels* are active (**channel attention**).
#
# The **Kullback-Leibler divergence** $KL(p\,\|\,q) = \sum_k p_k \ln (p_k / q_k)$ says how badly $q$
# stands in for $p$: 0 if they are equal, and larger the more $q$ neglects what $p$ finds likely. It
# is not symmetric. Here $p$ is the teacher's, $q$ the student's.
#
# **Write down:** after rounding to 3 bits, does the student look at wrong *places*, or at wrong
# *channels*? In the first map or in the last?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.attention import attention_divergences

apart = [attention_divergences([a], [b]) for a, b in zip(student_maps, teacher_maps, strict=True)]
spatial, channel = (torch.stack(part).detach() for part in zip(*apart, strict=True))

# %%
numbers = range(1, len(layers) + 1)
figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(numbers, spatial, "o-", color="#0072b2", label="spatial: where")
axes.plot(numbers, channel, "s--", color="#d55e00", label="channel: which")
axes.set(xlabel="map, from input to output", ylabel="KL (nats)", yscale="log", xticks=numbers)
axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
wider = "channels" if channel.mean() > spatial.mean() else "places"
show(
    figure,
    alt=f"Both divergences of {len(layers)} maps: spatial {spatial.mean():.3f} nats on average, "
    f"channel {channel.mean():.3f}.",
    reading=f"Averaged over the maps, teacher and student lie further apart in {wider}.",
)

# %% [markdown]
# A word of caution: the two curves may not be compared lightly. The paper's channel attention is a
# softmax of *energies*, mean squares, so its KL grows with how large a network's numbers are.
# Spatial attention is divided by its own size first.
#
# ## The loss
#
# $$L_{AKT} = \alpha\, L_{RFD} + (1 - \alpha)\, L_{KL} \qquad \alpha = 0.5$$
#
# $L_{RFD}$, **refined feature distillation**, is a mean over the $N$ maps $a_i$ (teacher's) and
# $b_i$ (student's):
#
# $$L_{RFD} = \lambda\, \frac{1}{N} \sum_i \big[ KL(ATT_{sp}(a_i)\,\|\,ATT_{sp}(b_i)) +
# KL(ATT_{ch}(a_i)\,\|\,ATT_{ch}(b_i)) \big]$$
#
# One step is missing in it. Spatial attention has *unit length*, so it does not sum to 1, and a KL
# needs something that does. **We divide it by its sum.** That choice is ours.

# %% [markdown]
# $L_{KL}$ compares the logits $t$ and $s$ at **temperature** $T = 20$:
#
# $$L_{KL} = T^2\, KL(\mathrm{softmax}(t/T)\,\|\,\mathrm{softmax}(s/T))$$
#
# A high temperature makes both distributions flat, so that the unlikely classes count too. But it
# shrinks the gradient about $T^2$ times; the factor makes up for that. Both KLs are means over the
# images of the batch. These helpers are given:

# %%
from akt_lab.attention import channel_attention, spatial_attention


def kl(p, q):
    """KL(p || q) in nats, mean over the batch: p, q (B, K), each row sums to 1."""
    return (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(dim=1).mean()


def to_sum_one(a):
    """Each row of a, (B, K), divided by its sum."""
    return a / a.sum(dim=1, keepdim=True)


# %% [markdown]
# ## Exercise: write it
#
# `akt_loss` takes two lists of maps and two tensors of logits (B, C), and gives back one number with
# a gradient. The teacher is a target, so no gradient may reach its side.
#
# <details><summary>Hint 1: the order</summary>
#
# A loop over both lists; in it two KLs. Then their mean
# over the maps, then the logits, then the sum with its weights.
#
# </details>
#
# <details><summary>Hint 2: one map</summary>
#
# `kl(to_sum_one(spatial_attention(b.detach())),
# to_sum_one(spatial_attention(a)))` for a student's map a and a teacher's map b, plus the same
# with `channel_attention`, which sums to 1 already.
#
# </details>
#
# <details><summary>Hint 3: the logits</summary>
#
# `temperature**2 * kl(p, q)` with
# `p = (teacher_logits.detach() / temperature).softmax(1)`. Return
# `alpha * lam * features + (1 - alpha) * logits`.
#
# </details>


# %% tags=["exercise"]
def akt_loss(student_maps, teacher_maps, student_logits, teacher_logits, alpha, lam, temperature):
    """alpha * lam * (mean over maps of both KLs) + (1 - alpha) * T^2 KL of the logits."""
    # SOLUTION
    found = []
    for a, b in zip(student_maps, teacher_maps, strict=True):
        b = b.detach()
        where = kl(to_sum_one(spatial_attention(b)), to_sum_one(spatial_attention(a)))
        found.append(where + kl(channel_attention(b), channel_attention(a)))
    p = (teacher_logits.detach() / temperature).softmax(dim=1)
    q = (student_logits / temperature).softmax(dim=1)
    logits = temperature**2 * kl(p, q)
    return alpha * lam * torch.stack(found).mean() + (1 - alpha) * logits
    # END


# %% tags=["check"]
checks.akt_loss(akt_loss)

# %% [markdown]
# ## How much is lambda?
#
# The paper's $\lambda$ is not at hand: the 1,000 of its released code belongs to another formula, as
# you will see below. So we need a rule that sees no labels. Ours: $\lambda$ is the number at which
# both losses pull equally hard, that is, have gradients of one norm at the student's weights.

# %%
from akt_lab.losses import akt_terms, kd_loss
from akt_lab.step import balanced_lambda

plain = {"kd": kd_loss(s, t)}
features = akt_terms({}, student_maps, teacher_maps, alpha=1.0, lam=1.0)
lam = balanced_lambda(student, plain, features)
print(f"On these images, lambda = {lam:.2f}")

# %% [markdown]
# ## Measure first: a feature loss that runs
#
# Below is a distillation step as one might write it: a hook on each layer keeps its map in a list,
# and the lists are emptied for each batch. We wrote it in our own words, after a fault in
# AKT's released code. It runs, nothing warns.
#
# **Before you run it:** which of the two terms will be larger?


# %%
def kept_in_a_list(network):
    maps = []
    for name in layers:
        network.get_submodule(name).register_forward_hook(lambda _, i, out: maps.append(out))
    return maps


def terms_of(images):
    t = watched_teacher(images).detach()
    for maps in (of_teacher, of_student):
        maps.clear()  # nothing of the last batch may stay
    s = watched_student(images)
    features = torch.zeros(())
    for a, b in zip(of_student, of_teacher, strict=False):
        features = features + sum(attention_divergences([a], [b])) / len(layers)
    return {"logits": kd_loss(s, t), "features": features}


# %%
import copy

watched_teacher, watched_student = copy.deepcopy(teacher), copy.deepcopy(student)
of_teacher, of_student = kept_in_a_list(watched_teacher), kept_in_a_list(watched_student)
for images in x.split(LOOK // 4):
    print({name: round(term.item(), 4) for name, term in terms_of(images).items()})

# %% [markdown]
# The features' loss is 0. Not small: **0**, on each batch, although your picture above says that
# the maps differ. Find the line before you unfold this.
#
# <details><summary>Where it is</summary>
#
# The teacher runs first and fills its list. Then *both* lists
# are emptied. When the loss reads them, the student's is full and the teacher's empty, and Python's
# `zip` stops at the shorter one: at once, and by default in silence. The loop's body never
# runs.
#
# </details>
#
# This happens in AKT's released code: the teacher's maps are cleared before the loss reads
# them. So the code **as published** trains with plain distillation. (It also does not run
# unrepaired.) In this package that is `variant="published"`; `variant="code"` is what the code
# meant, and `variant="paper"` the equations above.

# %%
from akt_lab.analysis.gradients import gradients_of, see

seen = see(teacher, x, layers)
reference = gradients_of(student, seen, x, y, "kd")
for loss in ("published", "code", "paper"):
    found = gradients_of(student, seen, x, y, loss, lam)
    own = 0.5 if loss == "paper" else 1.0  # the share that the plain loss keeps
    change = sum((found[n] - own * g).square().sum() for n, g in reference.items()).sqrt()
    size = sum(g.square().sum() for g in reference.values()).sqrt()
    print(f"{loss:10} the features' gradient: {100 * change / size:.1f}% of the plain loss's")

# %% [markdown]
# ## Stretch exercise: a detector
#
# A value of 0 is not the sin: a loss may be 0 for now and still pull. The sin is that **no weight
# feels it**. `dead_terms(terms, weights)` takes a dictionary of loss terms and a list of weights,
# and gives back the names of the terms from which no weight gets a gradient other than 0.
#
# <details><summary>Hint 1: three ways to be dead</summary>
#
# A term has no graph at all
# (`requires_grad` is False), its graph does not reach these weights, or the gradient that arrives is
# all zeros.
#
# </details>
#
# <details><summary>Hint 2: asking</summary>
#
# `torch.autograd.grad(term, weights, retain_graph=True,
# allow_unused=True)` gives a gradient, or None, for each weight. It leaves `.grad` alone, unlike
# `backward`.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# Alive: `any(g is not None and g.abs().max() > 0
# for g in gradients)`. Collect the names that are not.
#
# </details>


# %% tags=["exercise"]
def dead_terms(terms, weights):
    """Names of the terms that no weight feels."""
    # SOLUTION
    dead = []
    for name, term in terms.items():
        gradients = ()
        if term.requires_grad:
            gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        if not any(g is not None and g.abs().max() > 0 for g in gradients):
            dead.append(name)
    return dead
    # END


# %% tags=["check"]
checks.dead_terms(dead_terms)

# %% [markdown]
# Try it: `dead_terms(terms_of(x), [*watched_student.parameters()])`.
#
# ## Measure first: a range that reads thousands
#
# The student's activation ranges are **exponential moving averages**: each batch moves the range a
# tenth of the way. Such an average starts too low, so it is corrected by $1 / (1 - 0.9^n)$ after $n$
# batches. The codes of this family, from GDFQ on, have this correction too, but they store the
# *corrected* value, and the next batch averages and corrects that (`ranges="ema_legacy"`). Feed both with
# batches whose largest value is always 1. **Predict both curves.**

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.quantizer import ActivationQuantizer

readings = {}
for rule in ("ema", "ema_legacy"):
    quantizer = ActivationQuantizer(3, ranges=rule)
    readings[rule] = []
    for _ in range(200):
        quantizer.observe(torch.ones(1))
        readings[rule].append(quantizer.high.item())

# %%
figure, axes = plt.subplots(figsize=(7, 2.8))
axes.plot(range(1, 201), readings["ema_legacy"], "-", color="#d55e00", label="as released")
axes.plot(range(1, 201), readings["ema"], "--", color="#0072b2", label="corrected once")
for n in (2, 20, 75, 150):
    axes.plot(n, readings["ema_legacy"][n - 1], "o", color="#d55e00")
axes.set(xlabel="updates", ylabel="what the range reads", yscale="log")
axes.legend(frameon=False)
worst = max(readings["ema_legacy"])
said = ", ".join(f"{readings['ema_legacy'][n - 1]:.4g} after {n}" for n in (2, 20, 75, 150))
show(
    figure,
    alt=f"The range of a constant 1: corrected once it reads 1; as released {said}.",
    reading=f"All should read 1. As released it climbs to {worst:,.0f}, and comes back late.",
)

# %% [markdown]
# Corrected again at each batch, the factors multiply. A long warm-up forgets this; the papers' has 800 batches. A short one does not: after 20
# updates the grid spans thousands of times what it should, and all values round to 0. All our own runs correct
# once.

# %% [markdown]
# ## Measure first: a softmax of a softmax
#
# The released code passes both attention maps through a softmax *again*, at temperature 8. For
# the channels that is a second softmax. Take a gross disagreement: the teacher sees one channel only
# (**one-hot**), the student all alike (**uniform**). **Predict:** what is left of their KL?

# %% tags=["prediction"]
predict("""
...
""")

# %%
CHANNELS = 16


def seen_at(temperature, channels=CHANNELS):
    """A one-hot and a uniform attention after one more softmax."""
    one_hot, uniform = torch.eye(channels)[:1].double(), torch.full((1, channels), 1.0 / channels)
    return [(a / temperature).softmax(dim=1) for a in (one_hot, uniform.double())]


before, after = torch.tensor(CHANNELS).log().item(), kl(*seen_at(8)).item()
print(f"KL(one-hot, uniform) of {CHANNELS} channels: {before:.3f}; after one more softmax:")
print(f"{after:.1e}, that is {before / after:,.0f} times less; times 1,000: {1000 * after:.2f}")
read_back()

# %% [markdown]
# So even a gross disagreement differs by a hair, and a weight of 1,000 brings it back to the size of
# other losses. It is no constant of nature: without the second softmax it would drown all else.
#
# ## Explore
#
# Move the temperature of the second softmax. Where does it stop hiding the difference?

# %%
import ipywidgets

TEMPERATURES = [2.0**k for k in range(-4, 5)]


def draw(temperature):
    p, q = seen_at(temperature)
    figure, axes = plt.subplots(figsize=(7, 2.4))
    axes.bar(torch.arange(CHANNELS) - 0.2, p[0], 0.4, color="#0072b2", label="teacher: one-hot")
    axes.bar(torch.arange(CHANNELS) + 0.2, q[0], 0.4, color="#e69f00", hatch="//", label="student")
    axes.set(xlabel="channel", ylabel="after the softmax", ylim=(0, 1))
    axes.set_title(f"temperature {temperature:g}: KL {kl(p, q):.1e} nats")
    axes.legend(frameon=False)
    alt = f"Bars of {CHANNELS} channels at temperature {temperature:g}: KL {kl(p, q):.1e} nats."
    show(figure, alt=alt, reading=f"Before this softmax their KL was {before:.2f} nats.")


slider = ipywidgets.SelectionSlider(options=TEMPERATURES, value=8.0, continuous_update=False)
_ = ipywidgets.interact(draw, temperature=slider)

# %% [markdown]
# ## Now train, and watch
#
# Two students, 3 bits, one seed, the same number of steps and images: **adadfq**, which has a logit
# loss of its own, and **adadfq+akt**, where $\alpha$ shares the loss between it and $L_{RFD}$.
# AdaDFQ's logit loss is least, but not 0, where both agree; we subtract that least value.

# %%
import math

from akt_lab.runs.jobs import demo_settings
from akt_lab.runs.networks import prepare
from akt_lab.runs.training import evaluate

COLOURS = {"adadfq": ("#0072b2", "--"), "adadfq+akt": ("#d55e00", "-")}
runs = {method: prepare(bench, demo_settings(method, bits=3, steps=STEPS)) for method in COLOURS}
histories = {method: [] for method in runs}
rounded_only = {}
probe = bench.normalise(bench.images[:64]).to(bench.device)  # to look, not to learn


@torch.no_grad()
def attention_apart(run):
    with capture_maps(run.teacher, layers) as kept_t, capture_maps(run.student, layers) as kept_s:
        run.teacher(probe), run.student(probe)
    return float(sum(attention_divergences([*kept_s.values()], [*kept_t.values()])))


# %%
from IPython.display import clear_output

from akt_lab.step import train_step


def one_step(run, number):
    """Train one step; what the panel shows of it, as numbers."""
    z, y = run.generator.draw(run.settings.batch_size, run.rng)
    found = {k.removeprefix("student/"): float(v) for k, v in train_step(run, z, y).items()}
    if run.warming_up:
        return {}
    share = 1 - run.settings.alpha if run.settings.uses_features else 1
    floor = -share * run.settings.temperature**2 * math.log(bench.num_classes)
    found["logits"] = found["difference_entropy"] - floor
    found["attention"] = attention_apart(run) if number % 10 == 0 else math.nan
    return found


# %%
def go_on(method):
    """Train until the end; after an interrupt, from where it stopped."""
    run, rows, drawn = runs[method], histories[method], 0.0
    s = run.settings
    while len(rows) < s.epochs * s.steps:
        run.epoch = len(rows) // s.steps
        if len(rows) == s.warmup_epochs * s.steps:
            freeze_ranges(run.student)
            rounded_only[method] = evaluate(run.student, bench)
        rows.append(one_step(run, len(rows)))
        if time.monotonic() - drawn > REDRAW:
            clear_output(wait=True)
            panel(method)
            drawn = time.monotonic()


# %%
def loss_terms(axes, method):
    table = pd.DataFrame(histories[method])
    for name, colour, dash in (
        ("logits", "#009e73", "-"),
        ("spatial", "#0072b2", "--"),
        ("channel", "#d55e00", ":"),
    ):
        if name in table:
            axes.plot(table[name].rolling(5).median(), dash, color=colour, label=name)
    if axes.lines:
        axes.set_yscale("log")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    axes.set_ylabel(f"loss terms of {method}")


# %%
import time

from akt_lab.quantizer import freeze_ranges


def comparison(axes, name, label):
    for method, rows in histories.items():
        table = pd.DataFrame(rows)
        if name in table:
            colour, dash = COLOURS[method]
            line, seldom = table[name].dropna(), name == "attention"
            line = line if seldom else line.rolling(5).median()
            axes.plot(line, dash, color=colour, label=method, marker="." if seldom else "")
    if axes.lines:
        axes.set_yscale("log")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    axes.set_ylabel(label)


# %%
def panel(method):
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.2), layout="constrained")
    loss_terms(axes[0], method)
    comparison(axes[1], "gradient_norm", "norm of the student's gradient")
    comparison(axes[2], "attention", "attention divergence (nats)")
    for axis in axes:
        axis.set(xlabel="step", xlim=(0, 8 * STEPS))
        axis.axvspan(0, 2 * STEPS, color="0.93")
    done = {name: len(rows) for name, rows in histories.items()}
    show(
        figure,
        alt=f"Loss terms, gradient norm and attention divergence; steps so far {done}.",
        reading=f"Grey: the generator learns alone. Steps so far: {done}.",
    )


# %% [markdown]
# To stop, interrupt the kernel. To go on, run the cell again: networks, random numbers and curves
# are still there. **Predict:** in which panel will the two methods differ most?

# %% tags=["prediction"]
predict("""
...
""")

# %%
for method in runs:
    go_on(method)
clear_output(wait=True)
panel("adadfq+akt")

# %% [markdown]
# Read the panels with care. In the middle, the gradient of the *whole* loss: halving a loss
# halves its part, so a lower curve alone is no cure for anything. On the right, real images that no
# student learned from: does the distance that AKT trains for fall further than without it?
#
# And does any of it help?

# %%
from akt_lab.analysis.intervals import proportion_interval

scores = {"3 bits, rounded only": rounded_only["adadfq"]}
scores |= {method: evaluate(run.student, bench) for method, run in runs.items()}
scores["teacher"] = evaluate(bench.teacher, bench)
figure, axes = plt.subplots(figsize=(7, 2.2))
for place, (name, score) in enumerate(scores.items()):
    low, high = proportion_interval(score, len(bench.images))
    axes.plot([low, high], [place, place], color="0.6", linewidth=3)
    axes.plot(score, place, "D", color=COLOURS.get(name, ("0.2",))[0])
axes.set(yticks=range(len(scores)), yticklabels=scores, xlabel="top-1 accuracy (%)")
axes.margins(y=0.2)
listed = ", ".join(f"{name} {score:.1f}%" for name, score in scores.items())
show(figure, alt=listed, reading=f"{listed}. Grey: 95% interval over the images, for one seed.")

# %% [markdown]
# **One seed proves nothing.** The grey bars count the chance of *which images* are tested. They do
# not count the chance of *which noise* the generator started from; another seed may turn the order
# round. The paper reports that AKT gains most at 3 bits. Whether it does at an equal budget is for
# notebook 6, with several seeds.
#
# ## Train one yourself
#
# Other bits, another variant, another seed? The panel trains in the background, about a minute for a
# run, and you can go on working here. Pause it and go on, or stop it and finish it in a terminal with
# the command that it shows. (Without a running kernel: the curves above are what it draws.)

# %%
from akt_lab.explorers import training_panel

training_panel()

# %% [markdown]
# ## What would prove this wrong?
#
# Suppose AKT's student came out ahead, over many seeds. That would not show that *attention* is the
# reason: any second loss changes the size of the steps. Which control would tell? One idea: the same
# loss, with the teacher's maps of **other images** of the batch. If that helps as much, the maps
# carry nothing. How many lines of this notebook would you change?

# %% [markdown]
# ## Recap
#
# - $L_{AKT}$ shares a loss between logits and attention maps; $\lambda$ is chosen without labels.
# - A loss that prints a number is not a loss that teaches: ask the gradients.
# - The released code's feature loss is exactly 0; its ranges are corrected again and again; its
#   double softmax hides the difference that a weight of 1,000 then blows up.
# - None of this says that the paper's *idea* is wrong. It says that its published code did not test
#   it.
# - Equal budget, one seed: a picture, no verdict.
#
# **Next:** seeds, intervals, and verdicts.
