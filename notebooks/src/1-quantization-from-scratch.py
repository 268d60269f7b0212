# %% [markdown] budget=1
# # 1 · Quantization from scratch
#
# After this notebook you can
#
# - put any number on a grid of $2^{bits}$ values, and say what that costs,
# - explain **scale**, **zero point**, **clipping** and **rounding error** with a picture,
# - choose a range for a layer's values without looking at a single label.
#
# You need Python and PyTorch's tensors. The computing takes a minute, the reading about forty.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl")

# %%
import matplotlib.pyplot as plt
import torch

from akt_course import checks
from akt_course.show import predict, show
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.figures.style import STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% [markdown]
# ## The network that we will squeeze
#
# Every notebook of this course starts with a **teacher**: a network that was trained in the usual
# way, with 32 bits for every number in it. Here it reads handwritten digits; it is trained on
# first use, in half a minute, and then kept.

# %%
bench = load_bench(BenchSpec(BENCH))
teacher = bench.teacher
weights = {name: p.detach() for name, p in teacher.named_parameters() if p.ndim == 4}
numbers = sum(p.numel() for p in teacher.parameters())
print(f"{numbers:,} numbers: {4 * numbers / 1e3:,.0f} kB at 32 bits each")

# %% [markdown]
# With 8 bits a number that file shrinks to a quarter, with 3 bits to less than a tenth, and small
# chips multiply short integers much faster and with much less energy than floating-point numbers.
# So what is lost?
#
# ## Predict first
#
# Below are the weights of one convolution. With 3 bits only $2^3 = 8$ different values are left.
# **Write down before you go on:** where would you put the 8 levels? Evenly? And which of the
# weights would then be moved the furthest? (Your words in place of the dots; they come back below the
# picture.)

# %% tags=["prediction"]
predict("""
...
""")

# %%
layer = list(weights)[len(weights) // 2]
w = weights[layer].flatten()
figure, axes = plt.subplots(figsize=(7, 2.6))
axes.hist(w.numpy(), bins=80, color="0.6")
axes.set(xlabel=f"weight in {layer}", ylabel="how many")
show(
    figure,
    alt=f"Histogram of {len(w)} weights between {w.min():.2f} and {w.max():.2f}, densest near 0.",
    reading="Most weights are small, and a few are large: a range for all of them is a compromise.",
)

# %% [markdown]
# ## A grid
#
# **Uniform affine quantization** is the kind that almost all hardware speaks. It needs two numbers
# for a group of values:
#
# - the **scale**, the distance between two neighbouring levels,
# - the **zero point**, the whole number that stands for 0.
#
# A value $x$ becomes a whole number $q$ between 0 and $2^{bits}-1$, and $q$ becomes a value again:
#
# $$q = \mathrm{clamp}\left(\mathrm{round}\left(\frac{x}{scale}\right) + zero\_point,\;
# 0,\; 2^{bits}-1\right)$$
#
# $$\hat x = (q - zero\_point) \cdot scale$$
#
# Doing both at once, so that $\hat x$ is a floating-point number on the grid, is called **fake
# quantization**. It shows on any computer what whole-number arithmetic on that grid computes, but
# for last digits (notebook 8 puts this to the test).

# %% [markdown]
# Where do the two numbers come from? From the range $[low, high]$ that the grid must cover:
#
# $$scale = \frac{high - low}{2^{bits}-1} \qquad zero\_point = \mathrm{round}(-low / scale)$$
#
# Two details matter more than they seem to:
#
# 1. There are $2^{bits}$ levels, but only $2^{bits}-1$ *gaps* between them.
# 2. **Zero must lie on the grid.** Half of a ReLU's outputs are exactly 0, and so is the padding
#    around every image. If 0 became 0.04, each of them would be wrong. So the range always includes
#    0 (`low` is at most 0, `high` at least 0), and the zero point is a *whole* number.

# %%
low, high, bits = -1.0, 2.0, 2
scale = (high - low) / (2**bits - 1)
zero_point = round(-low / scale)
print("scale", scale, " zero point", zero_point)
print("levels", [(q - zero_point) * scale for q in range(2**bits)])

# %% [markdown]
# ## Exercise: write it
#
# `affine_quantize(x, bits)` takes a tensor of any shape and gives back a tensor of the same shape,
# with every value on the grid that spans the tensor's own range.
#
# <details><summary>Hint 1: what to do</summary>
#
# Five lines: low, high, scale, zero point, and then
# the two formulas above. `x.min()` and `x.max()` give tensors; keep them tensors.
#
# </details>
#
# <details><summary>Hint 2: zero</summary>
#
# `x.min().clamp(max=0)` is the smaller of the minimum
# and 0.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# `q = (x / scale).round() + zero_point`, then
# `q.clamp(0, 2**bits - 1)`; the answer is `(q - zero_point) * scale`.
#
# </details>


# %% tags=["exercise"]
def affine_quantize(x, bits):
    """Fake-quantize x, any shape, over its own range: the same shape, 2**bits levels."""
    # SOLUTION
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    zero_point = (-low / scale).round()
    q = ((x / scale).round() + zero_point).clamp(0, 2**bits - 1)
    return (q - zero_point) * scale
    # END


# %% tags=["check"]
checks.affine_quantize(affine_quantize)

# %% [markdown]
# The check compares you with PyTorch's own `torch.fake_quantize_per_tensor_affine`. From here on
# we use the package's `fake_quantize`, which agrees with it bit for bit.
#
# ## See it
#
# A staircase: each step is one level. The dotted line is what is lost. Inside the range
# nothing is moved by more than half a step; outside it, everything is **clipped** to the last level.

# %%
from akt_lab.quantizer import affine_parameters, fake_quantize


def quantize(x, bits, low=None, high=None):
    low = x.min() if low is None else torch.tensor(float(low))
    high = x.max() if high is None else torch.tensor(float(high))
    return fake_quantize(x, *affine_parameters(low, high, bits), bits)


# %%
x = torch.linspace(-1.6, 2.6, 800)
figure, panels = plt.subplots(1, 3, figsize=(10, 3), sharey=True, layout="constrained")
for panel, bits in zip(panels, (2, 3, 4), strict=True):
    x_hat = quantize(x, bits, low=-1, high=2)
    panel.plot(x, x, color="0.7", linewidth=1, linestyle="--", label="x itself")
    panel.plot(x, x_hat, color="#0072b2", label="on the grid")
    panel.plot(x, x_hat - x, color="#d55e00", linestyle=":", label="error")
    panel.set(title=f"{bits} bits: {2**bits} levels", xlabel="x")
panels[0].set_ylabel("value")
panels[0].legend(frameon=False, fontsize=8)
show(
    figure,
    alt="Three staircases over the range -1 to 2 with 4, 8 and 16 levels, and their errors.",
    reading="One bit more at least halves the step, and with it the largest error; outside, none helps.",
)

# %% [markdown]
# **One bit more about halves the step** (there are 3, 7, 15, 31 ... gaps: a little more than half,
# most of all from 2 to 3 bits). So the mean *squared* error should fall to about a quarter. Does it,
# on the real weights?

# %%
previous = None
for bits in range(2, 9):
    error = (quantize(w, bits) - w).square().mean()
    ratio = "" if previous is None else f"   {previous / error:.1f} times smaller"
    print(f"{bits} bits: mean squared error {error:.2e}{ratio}")
    previous = error

# %% [markdown]
# ## One range, or one for each channel?
#
# A convolution has one filter for each output channel, and filters differ in size. If a single grid
# must cover them all, the largest filter sets the step, and the small ones get what is left: in the
# worst case all their weights round to 0. So weights get a grid **per output channel**. It costs one
# scale and one zero point for each filter, which is little.

# %%
from akt_lab.quantizer import fake_quantize_rows

names, shared, own = list(weights), [], []
for name in names:
    filters = weights[name]
    shared.append((quantize(filters, 3) - filters).square().mean() / filters.square().mean())
    own.append((fake_quantize_rows(filters, 3) - filters).square().mean() / filters.square().mean())

# %%
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(100 * torch.stack(shared), "s--", color="#d55e00", label="one grid for the layer")
axes.plot(100 * torch.stack(own), "o-", color="#0072b2", label="one for each output channel")
axes.set(xlabel="layer, from input to output", ylabel="squared error\n(% of the weights' own)")
axes.set_ylim(bottom=0)
axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
gain = float(torch.stack(shared).sum() / torch.stack(own).sum())
show(
    figure,
    alt=f"Error of {len(names)} layers at 3 bits: over all, {gain:.1f} times smaller per channel.",
    reading="Per-channel grids lose less, for the price of a few numbers.",
)

# %% [markdown]
# ## Activations have no range of their own
#
# Weights are known. **Activations**, what flows between the layers, depend on the image: their range
# must be *observed* on some images, and is then frozen. That is the crux of this course: in
# **zero-shot** quantization the training images are gone, so somebody must invent images to observe.
# That is notebook 3. For now we cheat and look at real ones.

# %%
flowing = []
convolution = teacher.get_submodule(layer.removesuffix(".weight"))
handle = convolution.register_forward_pre_hook(lambda _, inputs: flowing.append(inputs[0]))
with torch.no_grad():
    teacher(bench.normalise(bench.images[:200]))
handle.remove()
a = flowing[0].flatten()  # what flows into the layer whose weights we saw, for 200 images
print(f"{100 * (a == 0).float().mean():.0f}% are zero, the largest is {a.max():.2f}")
print(f"99.9% of them are below {a[:: len(a) // 10_000 + 1].quantile(0.999):.2f}")

# %% [markdown]
# ## To clip or not to clip
#
# The largest activation is far from the rest. A grid up to the maximum spends its levels on a
# handful of values. If we clip earlier, those few are badly wrong, and all the others get a finer
# grid.
#
# **Predict:** at 3 bits, at which fraction of the maximum is the mean squared error smallest? And at
# 8 bits: earlier or later?

# %% tags=["prediction"]
predict("""
...
""")

# %%
clips = torch.linspace(0.05, 1, 39) * a.max()


def errors(bits):
    """Mean squared error for each clip, as a share of the activations' own mean square."""
    found = [(quantize(a, bits, 0, clip) - a).square().mean() for clip in clips]
    return torch.stack(found) / a.square().mean()


# %%
figure, axes = plt.subplots(figsize=(7, 3.2))
smallest = []
for bits, colour, dash in ((2, "#d55e00", ":"), (3, "#e69f00", "--"), (4, "#0072b2", "-")):
    curve = errors(bits)
    axes.plot(clips / a.max(), 100 * curve, dash, color=colour, label=f"{bits} bits")
    best = int(curve.argmin())
    axes.plot(clips[best] / a.max(), 100 * curve[best], "o", color=colour)
    smallest.append(f"{bits} bits at {clips[best] / a.max():.2f}")
axes.set(xlabel="clip, as a fraction of the maximum", ylabel="squared error (%)", yscale="log")
axes.legend(frameon=False)
show(
    figure,
    alt=f"Error against clip. Smallest, as a fraction of the maximum: {', '.join(smallest)}.",
    reading="Left of the dot clipping costs most, right of it rounding. Do few bits want it early?",
)

# %% [markdown]
# ## Explore
#
# The same layer, or any other, under your hands. Move **bits** down and find the best **clip** again:
# where are the levels, and how many values lie beyond the last one? Then choose `activations` and the
# range rule `ema_legacy`, which is what the papers' code really does, and move **batches seen**.
# (Without a running kernel: the strips above show three bit-widths and their errors.)

# %%
from akt_lab.explorers import quantizer_playground

quantizer_playground(bench)

# %% [markdown]
# ## Stretch exercise: let the computer choose
#
# `best_clip(x, bits, candidates)` gives back the one of `candidates` (a 1-d tensor) whose grid, from
# 0 up to it, has the smallest mean squared error on `x`.
#
# <details><summary>Hint 1: what to compare</summary>
#
# The error of *all* of x, clipped values
# included, as in `errors` above.
#
# </details>
#
# <details><summary>Hint 2: a loop</summary>
#
# `quantize(x, bits, 0, clip)` for each clip, and
# the mean of the squared difference.
#
# </details>
#
# <details><summary>Hint 3: the end</summary>
#
# `torch.stack(found).argmin()` is a place; the
# answer is `candidates` at that place.
#
# </details>


# %% tags=["exercise"]
def best_clip(x, bits, candidates):
    """The candidate clip with the smallest mean squared error on x."""
    # SOLUTION
    found = [(quantize(x, bits, 0, clip) - x).square().mean() for clip in candidates]
    return candidates[torch.stack(found).argmin()]
    # END


# %% tags=["check"]
checks.best_clip(best_clip)

# %% [markdown]
# ## The gradient of a staircase
#
# One problem is left for the next notebooks. The rounded copy of the teacher, the **student**, must
# be *trained*, and the slope of a
# staircase is 0 almost everywhere: no gradient comes through. The usual way out is the
# **straight-through estimator**: going forward, round; going backward, pretend that nothing was
# rounded. It is a white lie, and notebook 7 measures how large it is.

# %%
x = torch.tensor([-2.0, 0.3, 0.9, 5.0], requires_grad=True)
grid = affine_parameters(torch.tensor(-1.0), torch.tensor(2.0), 2)
for rule in ("identity", "clipped"):
    (slope,) = torch.autograd.grad(fake_quantize(x, *grid, 2, gradient=rule).sum(), x)
    print(f"{rule:9} gradient at {x.tolist()}: {slope.tolist()}")

# %% [markdown]
# `identity` lets everything through, even for values that were clipped. All the methods that this
# course looks at do so. `clipped` stops the gradient where the value was outside the grid.
#
# ## What would prove this wrong?
#
# We judged grids by their squared error. But nobody wants small squared errors: one wants a network
# that still *works*. If a clip with a **larger** squared error gave a better accuracy, the whole
# section on clipping would have optimised the wrong thing. How would you test that with what is in
# this notebook and a function that measures accuracy? (Notebook 2 has one.)

# %% [markdown]
# ## Recap
#
# - Fake quantization rounds to a grid of $2^{bits}$ values and comes back as a float.
# - Scale and zero point follow from a range; zero is always on the grid.
# - A bit less about doubles the step, so the squared error grows about fourfold.
# - Weights get a grid per output channel. Activations get a frozen range, observed on images.
# - Clipping trades a large error on few values for a smaller one on many; the fewer the bits, the
#   more it pays.
# - The gradient goes straight through, by decree.
#
# **Next:** what all this does to a whole network, and to its training.
