# %% [markdown] budget=4
# # 3 · Images from nothing
#
# After this notebook you can
#
# - say what a trained network still knows about data that nobody has any more,
# - write the loss that compares invented images with that memory,
# - say what each term of a generator's loss does,
# - judge invented images by a purpose, and not by their looks.
#
# The computing takes two or three minutes, the reading about forty. Notebook 1 is enough to start.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl")

# %%
from types import SimpleNamespace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torchvision.utils import make_grid
from tqdm.auto import tqdm

from akt_course import checks
from akt_course.show import predict, show
from akt_lab import losses
from akt_lab.analysis.intervals import proportion_interval
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.figures.style import STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% smoke="STEPS, BATCH, EVALUATED = 3, 16, 200"
STEPS, BATCH = 250, 64  # of a generator's training; it is trained three times
BNS_WEIGHT = 10.0  # of the statistics' term, against 1 for the classes' term
PER_CLASS = 20  # images of each class to look at
EVALUATED = 1000  # real test images, at most, on which students are judged

# %% [markdown]
# ## The data is gone, the network is not
#
# A student needs images: to observe its activations' ranges (notebook 1), and to learn from its
# teacher. In **zero-shot quantization** the training images are gone: private, too many, or
# lost. What is left is the teacher. So images are *invented* that the teacher takes for real.
#
# What can it recognise them by? Two things: by their **class**, for which it has an opinion, and by
# something it has stored without anybody asking for it.

# %%
from akt_lab.graph import trace

bench = load_bench(BenchSpec(BENCH), "cuda" if torch.cuda.is_available() else "cpu")
teacher = trace(bench.teacher).requires_grad_(False)  # its weights stay as they are
norms = [m for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]
stored = sum(len(norm.running_mean) + len(norm.running_var) for norm in norms)
print(f"{len(norms)} batch norms, which remember {stored:,} numbers about the training images")

# %% [markdown]
# ## What a batch norm remembers
#
# A **batch norm** shifts and scales each channel so that it has mean 0 and variance 1, before it
# gives it a learnt mean and size of its own. During training it takes mean and variance from the
# batch. To be able to work on a single image later, it also keeps a running average of both, one
# pair for each channel: `running_mean` and `running_var`. They are saved with the weights.
#
# So every batch norm carries a fingerprint of the training data, as seen at that depth.
#
# **Predict:** which of these fit the fingerprint? Real images that the teacher has never seen? White
# noise that has, over all its pixels, the mean and variance of real images?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.graph import capture_bn_inputs


@torch.no_grad()
def measure(images):
    """The logits; and for each batch norm mean and variance of its input, and the stored ones."""
    with capture_bn_inputs(teacher) as statistics:
        logits = teacher(images)
    return logits, statistics


y = torch.arange(bench.num_classes).repeat(PER_CLASS)  # 0, 1, ..., 9, 0, 1, ...
chosen = [(bench.labels == label).nonzero()[:PER_CLASS, 0] for label in range(bench.num_classes)]
real = bench.normalise(bench.images[torch.stack(chosen, 1).flatten()]).to(bench.device)
noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0)).to(bench.device)
print(f"{len(y)} images each; mean {real.mean():.2f} and {noise.mean():.2f}, "
      f"variance {real.var():.2f} and {noise.var():.2f}")  # fmt: skip

# %%
of_real, of_noise = measure(real)[1], measure(noise)[1]
worst = max(range(len(norms)), key=lambda i: losses.bns_loss([of_noise[i]]))
away = [float((s[worst][0] - s[worst][2]).abs().mean()) for s in (of_real, of_noise)]
print(f"batch norm {worst + 1}, where noise fits worst: means are {away[0]:.2f} (real) and "
      f"{away[1]:.2f} (noise) away from the stored ones")  # fmt: skip

# %%
_, _, stored_mean, stored_var = (v.cpu()[:16] for v in of_real[worst])
channel = torch.arange(len(stored_mean))
figure, axes = plt.subplots(figsize=(7, 3))
axes.errorbar(channel, stored_mean, stored_var.sqrt(), fmt="_k", capsize=4, label="stored")
axes.plot(channel - 0.2, of_real[worst][0].cpu()[:16], "o", color="#0072b2", label="real images")
axes.plot(channel + 0.2, of_noise[worst][0].cpu()[:16], "s", color="#d55e00", label="noise")
axes.set(xlabel=f"channel of batch norm {worst + 1}", ylabel="mean of its input")
axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
show(
    figure,
    alt=f"Means of the first channels at batch norm {worst + 1}: over all channels real images "
    f"are {away[0]:.2f} away from the stored means, noise {away[1]:.2f}.",
    reading="Black: stored mean, plus and minus one standard deviation. How far away is each dot?",
)

# %% [markdown]
# One number says how far a batch of images is from the fingerprint. For the input of layer $l$, let
# $\mu_l$ and $\sigma^2_l$ be mean and variance of each channel, over the batch and all positions.
# The **batch-norm-statistics loss** over $L$ layers is
#
# $$L_{BNS} = \frac{1}{L} \sum_{l=1}^{L} \left[\mathrm{MSE}(\mu_l,\ running\_mean_l)
# + \mathrm{MSE}(\sigma^2_l,\ running\_var_l)\right]$$
#
# where MSE, the mean squared error, averages over the channels. The variance is the **biased** one:
# the mean squared distance from the mean, divided by $N$ and not by $N - 1$, as batch norm itself
# computes it.

# %% [markdown]
# ## Exercise: write it
#
# `bns_loss(captured)` takes a list of pairs `(norm, x)`, one for each layer: the batch norm, with its
# `norm.running_mean` and `norm.running_var`, (C,) each, and its input `x`, (B, C, H, W). It gives
# back one number, as a tensor: a gradient must get from it through `x` to the pixels.
#
# <details><summary>Hint 1: what to do</summary>
#
# For each pair: mean and variance of x for each
# channel, two mean squared errors, their sum. In the end the mean over the layers.
#
# </details>
#
# <details><summary>Hint 2: which dimensions</summary>
#
# A channel keeps its own statistics, all else is
# averaged: `dim=(0, 2, 3)`. `x.var` divides by N - 1 unless you say
# `correction=0`.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# `F.mse_loss(mean, norm.running_mean)` and the
# same for the variance; append the sum to a list, and return
# `torch.stack(found).mean()`.
#
# </details>


# %% tags=["exercise"]
def bns_loss(captured):
    """How far the inputs of the batch norms are from what these have stored."""
    # SOLUTION
    found = []
    for norm, x in captured:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        found.append(F.mse_loss(mean, norm.running_mean) + F.mse_loss(variance, norm.running_var))
    return torch.stack(found).mean()
    # END


# %% tags=["check"]
checks.bns_loss(bns_loss)

# %% [markdown]
# From here on we use the package's `losses.bns_loss`, which does the same and takes the statistics
# that `measure` returns. How do the two kinds of images compare?

# %%
for name, statistics in (("real test images", of_real), ("noise", of_noise)):
    print(f"{name:17} mismatch {losses.bns_loss(statistics):.4f}")

# %% [markdown]
# Real images do not reach 0 either: they are few, others than the teacher was trained on, and its
# running average remembers batches from when its weights still moved. So the mismatch of real
# images, not 0, is the mark to aim at.
#
# ## A generator
#
# A **generator** is a network that turns random numbers into an image. Ours is **conditional**: it
# also takes the class that the image should show. Its input is noise $z$ of 100 values, multiplied
# by a learnt vector for the class; then come a linear layer and three convolutions, which double
# height and width twice. It will never see a real image.

# %%
from akt_lab.generator import Generator

generator = Generator(bench.num_classes, bench.image_size, bench.channels)
z, labels = generator.draw(4, torch.Generator().manual_seed(0))
images = generator(z, labels)
weights = sum(p.numel() for p in generator.parameters())
print(f"noise {tuple(z.shape)}, classes {labels.tolist()} -> images {tuple(images.shape)}")
print(f"{weights:,} weights in the generator, {sum(p.numel() for p in teacher.parameters()):,} "
      "in the teacher")  # fmt: skip

# %% [markdown]
# It learns only from the teacher, which is frozen, through two terms:
#
# $$L_G = \mathrm{CE}(t, y) + w \cdot L_{BNS}$$
#
# - **class term**: the cross-entropy between the teacher's logits $t$ and the class $y$ that was
#   asked for. It falls when the teacher believes the image to show $y$.
# - **statistics term**: the loss that you have just written. It does not know of any class.
#
# GDFQ takes $w = 0.1$. We take `BNS_WEIGHT`, so that in a few hundred steps both terms count. That
# is our choice for a small bench; change it and see.
#
# **Predict first.** We train with the class term alone, the statistics term alone, and both.
# Write down: whose images will the teacher believe in most? Whose have the least mismatch?
# In whose would *you* recognise the class?

# %% tags=["prediction"]
predict("""
...
""")


# %%
def train_generator(class_weight, bns_weight, name):
    torch.manual_seed(0)  # all start with the same weights
    generator = Generator(bench.num_classes, bench.image_size, bench.channels).to(bench.device)
    adam = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
    rng = torch.Generator().manual_seed(0)
    steps = STEPS if class_weight or bns_weight else 0
    for _ in tqdm(range(steps), desc=name, disable=not steps):
        z, y = generator.draw(BATCH, rng)
        with capture_bn_inputs(teacher) as statistics:
            logits = teacher(generator(z, y))
        loss = class_weight * F.cross_entropy(logits, y) + bns_weight * losses.bns_loss(statistics)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return generator


# %%
switches = {
    (False, False): "untrained",
    (True, False): "class term",
    (False, True): "statistics term",
    (True, True): "both terms",
}
generators = {
    name: train_generator(float(by_class), BNS_WEIGHT * by_statistics, name)
    for (by_class, by_statistics), name in switches.items()
}


# %% [markdown]
# ## See it
#
# Every generator now gets the same noise. The teacher's **belief** is the probability that it gives to
# the class that was asked for, averaged over all images. Blind guessing would give one over the
# number of classes.


# %%
@torch.no_grad()
def look(images, y):
    """The images, what the teacher believes of them, and the mismatch in each layer."""
    logits, statistics = measure(images)
    belief = logits.softmax(1).cpu().gather(1, y[:, None]).mean()
    mismatch = torch.stack([losses.bns_loss([layer]) for layer in statistics]).cpu()
    return SimpleNamespace(images=images.cpu(), belief=float(belief), mismatch=mismatch)


z, _ = generator.draw(len(y), torch.Generator().manual_seed(1))
seen = {"noise": look(noise, y)}
for name, trained in generators.items():  # in training mode, as while they learnt
    with torch.no_grad():
        seen[name] = look(trained(z.to(bench.device), y.to(bench.device)), y)
seen["real images"] = look(real, y)

# %%
columns = min(12, bench.num_classes)
figure, panels = plt.subplots(len(seen), 1, figsize=(7, 1.05 * len(seen)), layout="constrained")
for panel, (name, one) in zip(panels, seen.items(), strict=True):
    strip = make_grid(bench.pixels(one.images[:columns]), nrow=columns, padding=1, pad_value=1)
    panel.imshow(strip.permute(1, 2, 0))
    title = f"{name}: believed {one.belief:.0%}, mismatch {one.mismatch.mean():.3f}"
    panel.set_title(title, fontsize=9, loc="left", pad=2)
    panel.axis("off")
listed = "; ".join(f"{n}: belief {s.belief:.0%}, {s.mismatch.mean():.3f}" for n, s in seen.items())
show(
    figure,
    alt=f"A row of images from each source, with belief and mismatch. {listed}.",
    reading="A column is a class, in order. Compare the rows between with noise and with real images.",
)

# %% [markdown]
# Do you see the classes? If not, that is the first lesson: **an image that a network believes in need
# not look like anything**. The teacher was never taught to reject what is no image, and the generator
# finds any pattern to which it says yes.
#
# ## Where they fail to fit
#
# The mismatch above is a mean over layers. Now layer by layer.

# %%
styles = {
    "noise": (":", "x", "0.5"),
    "untrained": (":", "v", "#e69f00"),
    "class term": ("--", "s", "#d55e00"),
    "statistics term": ("-.", "^", "#009e73"),
    "both terms": ("-", "o", "#0072b2"),
    "real images": ("-", "D", "black"),
}
closest = min(switches.values(), key=lambda name: seen[name].mismatch.mean())
print(f"of the four generators, '{closest}' fits best")

# %%
figure, axes = plt.subplots(figsize=(7, 3.4))
for name, (dash, marker, colour) in styles.items():
    layers = range(1, len(norms) + 1)
    axes.plot(layers, seen[name].mismatch, dash, marker=marker, color=colour, label=name)
axes.set(xlabel="batch norm, in the order in which they run", ylabel="mismatch", yscale="log")
axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)
axes.xaxis.get_major_locator().set_params(integer=True)
show(
    figure,
    alt=f"Mismatch of each layer for six sources. By mean over layers: {listed}.",
    reading="Lower is closer. How far is each generator from the real images?",
)

# %% [markdown]
# ## Explore
#
# Two switches, one for each term; everything was computed above. Look at both sides at once: what
# changes in the **images**, and what in the **layers**? Does one term cost the other something?
# (Without a running kernel: the two pictures above show the same.)

# %%
import ipywidgets

every = torch.cat([one.mismatch for one in seen.values()])
limits = float(every.min()) / 1.5, float(every.max()) * 1.5


# %%
def draw(by_class=True, by_statistics=True):
    name = switches[by_class, by_statistics]
    one, at = seen[name], range(1, len(norms) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    order = torch.arange(len(y)).view(PER_CLASS, -1)[:10, :columns].T.flatten()
    grid = make_grid(bench.pixels(one.images[order]), nrow=10, padding=1, pad_value=1)
    left.imshow(grid.permute(1, 2, 0))
    left.set_title(f"{name}: believed {one.belief:.0%}")
    left.axis("off")
    right.hlines(at, one.mismatch, seen["real images"].mismatch, color="0.7")
    right.plot(one.mismatch, at, "o", color=styles[name][2], label=name)
    right.plot(seen["real images"].mismatch, at, "Dk", label="real images", markersize=4)
    finish(figure, right, name)


# %%
def finish(figure, right, name):
    one = seen[name]
    right.set(xscale="log", xlim=limits, xlabel="mismatch", ylabel="batch norm")
    right.invert_yaxis()
    right.yaxis.get_major_locator().set_params(integer=True)
    right.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    share = (one.mismatch > seen["real images"].mismatch).float().mean()
    show(
        figure,
        alt=f"Images of '{name}', a row a class, and its mismatch in {len(norms)} layers, "
        f"{one.mismatch.mean():.3f} on average; larger than the real images' in {share:.0%}.",
        reading="A row is a class. On the right: the longer the line, the further from real images.",
    )  # fmt: skip


# %%
by_class = ipywidgets.Checkbox(value=True, description="class term")
by_statistics = ipywidgets.Checkbox(value=True, description="statistics term")
_ = ipywidgets.interact(draw, by_class=by_class, by_statistics=by_statistics)

# %% [markdown]
# ## What are they good for?
#
# Looks are not the point, and neither is belief: the images were made to please this very teacher.
# Here is a purpose. Notebook 1 had to cheat and observe a student's activation ranges on real images.
# Let each source take their place: round the teacher to 3 bits, show it the images, freeze the
# ranges, and measure the accuracy on **real** test images. Nothing is trained.
#
# **Predict:** how far does the best source fall behind real images? And white noise?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from dataclasses import replace

from akt_lab.quantizer import freeze_ranges, quantize_model
from akt_lab.runs.training import evaluate

BITS = 3
judge = replace(bench, images=bench.images[-EVALUATED:], labels=bench.labels[-EVALUATED:])
accuracy = {}  # the real images that are shown are among those that judge
for name, one in seen.items():
    student = quantize_model(bench.teacher, weight_bits=BITS, act_bits=BITS)
    with torch.no_grad():
        student(one.images.to(bench.device))  # its ranges are observed
    freeze_ranges(student)
    accuracy[name] = evaluate(student, judge)

# %%
figure, axes = plt.subplots(figsize=(7, 2.8))
for place, (name, percent) in enumerate(accuracy.items()):
    low, high = proportion_interval(percent, len(judge.images))
    _, marker, colour = styles[name]
    spread = [[percent - low], [high - percent]]
    axes.errorbar(percent, place, xerr=spread, fmt=marker, color=colour, capsize=3)
axes.set_yticks(range(len(accuracy)), list(accuracy))
axes.invert_yaxis()
axes.set(xlabel=f"accuracy of the {BITS}-bit student (%)", ylabel="ranges observed on")
show(
    figure,
    alt=f"Accuracy on {len(judge.images)} real images: "
    + "; ".join(f"{name} {percent:.1f}%" for name, percent in accuracy.items()),
    reading="Bars: 95% intervals for so many test images. Where they overlap widely, do not rank.",
)

# %% [markdown]
# Did the order of the sources follow the mismatch, the belief, or neither? A range asks for little:
# a smallest and a largest value in each layer. Fine-tuning asks for more, and there the classes may
# matter more. And this is one seed: the bars say nothing about others.
#
# ## How the methods make their images
#
# | method | images come from | what they are made to do |
# |---|---|---|
# | ZeroQ | pixels, optimised directly | match means and standard deviations; no class |
# | GDFQ | a generator, trained beside the student | $\mathrm{CE}(t, y) + 0.1\,L_{BNS}$ |
# | AdaDFQ | a generator, trained beside the student | $L_{BNS}$, small class terms, and a student that disagrees neither too little nor too much |
# | HAST | 5,120 images, optimised directly | $L_{BNS}$, and a class term that dwells on what the teacher finds hard |
#
# **AKT**, the paper of this course, makes no images of its own: it takes any of these, and changes
# what the student learns *from* them. That is notebook 5.

# %% [markdown]
# ## Stretch exercise: hooks, and none left behind
#
# How do we get at the input of a layer deep inside? PyTorch calls a **hook**, a function of yours,
# whenever a layer runs. `norm.register_forward_pre_hook(hook)` calls `hook(module, inputs)` *before*
# the layer, with its inputs as a tuple, and returns a handle whose `remove()` takes the hook away.
# A hook that stays goes on working in every later pass: it costs time and memory.
#
# `capture_inputs(network, images)` runs the network once and returns the list of pairs `(norm, x)`
# that your `bns_loss` takes, in the order in which the layers ran. When it ends, no hook is
# left, **even if the network raised an exception**, which must still reach the caller.
#
# <details><summary>Hint 1: where</summary>
#
# `network.modules()` finds all layers; keep those that are
# `torch.nn.BatchNorm2d`, and put a hook on each.
#
# </details>
#
# <details><summary>Hint 2: what the hook does</summary>
#
# It appends `(module, inputs[0])` to a list
# that was made inside your function. Do not detach, and return nothing.
#
# </details>
#
# <details><summary>Hint 3: the end</summary>
#
# `try: network(images)`, then `finally:` with
# `handle.remove()` for each handle; what stands there is done in any case.
#
# </details>


# %% tags=["exercise"]
def capture_inputs(network, images):
    """[(norm, its input), ...] of every BatchNorm2d, in the order they run; no hook stays."""
    # SOLUTION
    captured = []
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    handles = [
        norm.register_forward_pre_hook(lambda norm, inputs: captured.append((norm, inputs[0])))
        for norm in norms
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return captured
    # END


# %% tags=["check"]
checks.capture_inputs(capture_inputs)

# %% [markdown]
# Together your two functions give the statistics term: `bns_loss(capture_inputs(teacher, real))`.
# Compare it with the number further up.
#
# ## What would prove this wrong?
#
# The story says: images whose statistics fit are better images for quantization. Three
# results would count against it.
#
# - Noise with the right overall mean and variance serves a student as well as fitted images. Your
#   dots above are a first, small test of that.
# - Images with a **larger** mismatch give better students, again and again, over many seeds.
# - The teacher believes, but another network, trained on the same data from another start, does not.
#   Then belief measures the quirks of one network. Which of
#   the three could you test now?

# %% [markdown]
# ## Recap
#
# - Batch norms store mean and variance of the training data in every channel, and keep them with the
#   weights.
# - $L_{BNS}$ compares a batch with that memory: biased variance, mean over layers. Real images have a
#   small mismatch, not none.
# - A conditional generator learns from the frozen teacher alone. The class term asks for belief, the
#   statistics term for a fit in every layer.
# - The teacher's belief is not a likeness; judge images by what a student makes of them.
# - A hook that is not removed goes on working: remove it in `finally`.
#
# **Next:** what a network looks at, and how few bits change that.
