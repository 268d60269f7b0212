# %% [markdown] budget=2
# # 4 · What a network looks at
#
# After this notebook you can
#
# - sum up a feature map in two ways: **where** it is active, and **which channels** are,
# - compare a teacher with its quantized student, image by image and layer by layer,
# - say what such maps cannot see, and which step the paper's equations leave open.
#
# The computing takes a minute, the reading about forty. You need notebook 1.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl")

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from akt_course import checks
from akt_course.show import predict, read_back, show
from akt_lab.analysis.studies import SideBySide
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.figures.attention import draw_attention_side_by_side
from akt_lab.figures.style import STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% smoke="BITS, CALIBRATION, JUDGED = (8, 3, 2), 40, 100"
BITS = (8, 5, 4, 3, 2)  # 3 has to stay, the others are yours to choose
CALIBRATION = 200  # images on which activation ranges are observed
JUDGED = 1000  # test images, at most, for accuracies and mean divergences

# %% [markdown]
# ## A teacher and its students
#
# Notebook 1 rounded numbers. Here we round a whole network and ask what this does to its
# **inside**. A student is the teacher with its weights and its ReLUs' outputs on a grid of $2^{bits}$ values.
# Nothing is trained yet. Its activation ranges are observed on real images: zero-shot quantization
# may not do so, but today the question is another one.

# %%
from dataclasses import replace

from akt_lab.graph import trace
from akt_lab.quantizer import freeze_ranges, quantize_model
from akt_lab.runs.training import evaluate

bench = load_bench(BenchSpec(BENCH))
teacher = trace(bench.teacher)
judge = replace(bench, images=bench.images[:JUDGED], labels=bench.labels[:JUDGED])


def make_student(bits):
    student = quantize_model(bench.teacher, weight_bits=bits, act_bits=bits)
    with torch.no_grad():
        student(bench.normalise(bench.images[-CALIBRATION:]))
    freeze_ranges(student)
    return student


# %%
students = {bits: make_student(bits) for bits in BITS}
accuracy = {bits: evaluate(student, judge) for bits, student in tqdm(students.items())}
print(f"teacher: {evaluate(teacher, judge):5.1f}% of {len(judge.images)} test images")
for bits, percent in accuracy.items():
    print(f"{bits} bits:  {percent:5.1f}%")

# %% [markdown]
# ## What is inside
#
# Between its layers a network passes on **feature maps**: tensors $x$ with the shape
# $(B, C, H, W)$, for $B$ images, $C$ channels, height and width. A network like ours is made of
# **residual units**: $y = \mathrm{ReLU}(body(x) + x)$, where the body is a few convolutions
# that compute what is to be added to their input. (Where shapes differ, $x$ goes through a small
# convolution of its own.) The paper compares the outputs of these bodies, before the sum.

# %%
from akt_lab.graph import capture_maps, residual_bodies

layers = residual_bodies(teacher)
chosen = [int((bench.labels == label).nonzero()[0]) for label in range(min(10, bench.num_classes))]
inputs = bench.normalise(bench.images[chosen])  # one image of each class


@torch.no_grad()
def look(network, images):
    """The feature maps of every residual body, by the layer's name."""
    with capture_maps(network, layers) as maps:
        network(images)
    return maps


seen = {"teacher": look(teacher, inputs)} | {b: look(s, inputs) for b, s in students.items()}
for layer, x in seen["teacher"].items():
    print(f"{layer:36} {tuple(x.shape)}")

# %% [markdown]
# Here is one image, and what some channels of one body make of it. Values are positive and negative,
# and both say that something was found: a channel that answers $-3$ is as busy as one that answers 3.

# %%
layer = layers[len(layers) // 2]
x = seen["teacher"][layer][0]
reach = float(x.abs().max())
pixels = bench.pixels(inputs).permute(0, 2, 3, 1).squeeze(-1).numpy()

# %%
figure, panels = plt.subplots(1, 7, figsize=(9.5, 1.8), layout="constrained")
panels[0].imshow(pixels[0], cmap="gray", vmin=0, vmax=1)
for number, panel in enumerate(panels[1:]):
    drawn = panel.imshow(x[number], cmap="PuOr_r", vmin=-reach, vmax=reach)
for panel, title in zip(panels, ("image", *(f"channel {i}" for i in range(6))), strict=True):
    panel.set_title(title)
    panel.axis("off")
figure.colorbar(drawn, ax=panels[1:], label="value", shrink=0.8)
show(
    figure,
    alt=f"An image and six of {len(x)} channels of layer {layer}, values within ±{reach:.1f}.",
    reading="A square is one place. Orange: positive, purple: negative, white: nothing found here.",
)

# %% [markdown]
# ## Two summaries
#
# Thousands of values for each image are too many to compare by eye. The paper refines them into two
# small maps, its **dual information**. Both begin with squares, so that signs do not cancel:
#
# $$ATT_{sp}(x) = \frac{\mathrm{mean}_c(x^2)}{\|\mathrm{mean}_c(x^2)\|_2}
# \qquad ATT_{ch}(x) = \mathrm{softmax}\left(\mathrm{mean}_{hw}(x^2)\right)$$
#
# - **Spatial attention**: for each *place*, the mean over channels; then the row of $H \cdot W$
#   numbers is divided by its **L2 norm**, the root of the sum of squares. It says *where*.
# - **Channel attention**: for each *channel*, the mean over places; then a **softmax**, which makes
#   all positive, with sum 1. It says *which*.
#
# The word attention means no more than this here: how large the values are. Nothing about it is
# learnt, unlike the attention of a transformer.

# %% [markdown]
# ## Predict first
#
# **Write down before you go on:**
#
# 1. At 8 bits, will you be able to see any difference between student and teacher? At 3?
# 2. What suffers first as bits are taken away: the *where* or the *which*?
# 3. In which layer is the disagreement largest: the first, one in the middle, the last?

# %% tags=["prediction"]
predict("""
...
""")

# %% [markdown]
# ## Exercise: write it
#
# `attention_maps(x)` takes feature maps (B, C, H, W) and returns two tensors: the spatial map
# (B, H*W), whose rows have L2 norm 1, and the channel map (B, C), whose rows sum to 1. A map that
# is 0 everywhere must not become 0/0.
#
# <details><summary>Hint 1: what to do</summary>
#
# Square first. Then two means of the same squares:
# one over dimension 1, one over dimensions 2 and 3.
#
# </details>
#
# <details><summary>Hint 2: shapes</summary>
#
# The mean over channels is (B, H, W): `.flatten(1)` makes
# it (B, H*W). `x.square().mean(dim=(2, 3))` is (B, C) at once.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# `F.normalize(rows, dim=1)` divides each row by its
# L2 norm, and leaves a row of zeros as it is. `rows.softmax(dim=1)` is the other
# one.
#
# </details>


# %% tags=["exercise"]
def attention_maps(x):
    """(B, C, H, W) -> spatial attention (B, H*W) and channel attention (B, C)."""
    # SOLUTION
    squares = x.square()
    spatial = F.normalize(squares.mean(dim=1).flatten(1), dim=1)
    channel = squares.mean(dim=(2, 3)).softmax(dim=1)
    return spatial, channel
    # END


# %% tags=["check"]
checks.attention_maps(attention_maps)

# %% [markdown]
# From here on we use the package's `spatial_attention` and `channel_attention`, which do the same.
#
# ## See it
#
# Teacher and student on four images, in one layer in the middle, at 3 bits. The numbers (KL) say how
# far apart the two maps are; the next section explains them.

# %%
from akt_lab.attention import attention_by_image, channel_attention, spatial_attention

size = seen["teacher"][layer].shape[-2:]
pair = [seen[which][layer][:4] for which in ("teacher", 3)]

# %%
found = SideBySide(
    pixels[:4],
    [spatial_attention(x).view(-1, *size).numpy() for x in pair],
    [channel_attention(x).numpy() for x in pair],
    attention_by_image(*pair),
    bench.classes[:4],
    f"Layer {layer}, 3 bits",
)
drawing = draw_attention_side_by_side(found)
show(
    drawing.figure,
    alt=drawing.alt,
    reading="A row is an image. Red: the student looks there more than the teacher, blue: less.",
)

# %% [markdown]
# ## How far apart?
#
# To train a student one needs a number. The paper takes the **Kullback-Leibler divergence**, KL, of
# two *distributions* $p$ and $q$, which are lists of numbers that are not negative and sum to 1:
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_i p_i \,(\log p_i - \log q_i)$$
#
# It is 0 if and only if the two are equal, never negative, and it has a **direction**: with the
# teacher as $p$ a place counts as much as the *teacher* looks at it. A student that looks away from
# what is important pays a lot; one that looks at something more pays less.
#
# **An open point.** Channel attention is a distribution. Spatial attention has unit L2 norm, so it
# is *not* one: its sum is larger than 1 unless a single place has everything. Without a further step
# its KL could become negative. The equations at hand do not say which step is meant. We **divide
# each row by its sum**; the unit length then cancels. The released code
# instead sends both maps through a softmax at temperature 8 (the channel map through its second),
# which makes them almost flat. How much does the choice matter?

# %%
from akt_lab.attention import attention_divergences

for variant in ("paper", "code"):
    where, which = attention_divergences([pair[1][:1]], [pair[0][:1]], variant)
    print(f"{variant:6} spatial {where:.2e}   channel {which:.2e}")

# %% [markdown]
# The same two networks, the same image, and numbers of quite different size. The code makes up for it
# with a weight of 1000. When a method is described by a divergence, ask what was
# normalised how. In this course `paper` means: the equations, with division by the sum.
#
# ## Layer by layer
#
# Now for all bit-widths, averaged over test images. Careful with prediction 2: a softmax of mean
# squares depends on how *large* the values are, and the spatial map does not. So do not compare the
# heights of the two panels, but their shapes: from which bit-width on does each rise?


# %%
def distances(network, images):
    """Mean spatial and channel divergence from the teacher, (layers, 2)."""
    ours, theirs = look(network, images), look(teacher, images)
    return torch.tensor(
        [attention_divergences([ours[name]], [theirs[name]]) for name in layers]
    ).numpy()


sample = bench.normalise(bench.images[: min(JUDGED, 200)])
apart = {bits: distances(student, sample) for bits, student in students.items()}
looks = {8: ("0.5", "x", ":"), 7: ("0.5", "+", "--"), 6: ("#009e73", "v", ":"),
         5: ("#009e73", "^", "-."), 4: ("#0072b2", "o", "-"), 3: ("#e69f00", "s", "--"),
         2: ("#d55e00", "D", ":")}  # fmt: skip

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for number, (panel, name) in enumerate(zip(panels, ("spatial", "channel"), strict=True)):
    for bits in BITS:
        colour, marker, dash = looks[bits]
        places, values = range(1, len(layers) + 1), apart[bits][:, number].clip(1e-9)
        panel.plot(places, values, dash, marker=marker, color=colour, label=f"{bits} bits")
    panel.set(title=name, xlabel="residual unit, from input to output", yscale="log")
    panel.set_xticks(list(places))
panels[0].set_ylabel("KL from the teacher (nats)")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
said = "; ".join(
    f"{b} bits {apart[b][:, 0].mean():.1e} and {apart[b][:, 1].mean():.1e}" for b in BITS
)
show(figure, alt=f"KL of spatial and channel attention by layer. Means over layers: {said}.",
     reading="Higher: student and teacher look at different things. Compare shapes, not the panels' heights.")  # fmt: skip

# %%
for number, name in enumerate(("spatial", "channel")):
    worst = {bits: int(apart[bits][:, number].argmax()) for bits in BITS}
    print(f"{name}: largest in " + ", ".join(f"unit {i + 1} at {b} bits" for b, i in worst.items()))

# %% [markdown]
# ## Explore
#
# Choose an image, a layer and the bits, or drop in an image of your own. The two maps share one
# scale; the difference has its own, with white at 0. If you find an image on which the student is
# **wrong**, look for the layer where it goes astray; the button jumps to the one that disagrees most.
# (Without a running kernel: the picture above shows four images, in one layer, at 3 bits.)

# %%
from akt_lab.explorers import attention_explorer

attention_explorer(bench=bench, students={"rounded": students})

# %% [markdown]
# ## What the maps cannot see
#
# A summary forgets, by design. **Predict:** we shuffle the *channels* of a student that agrees with
# its teacher perfectly. The next layer now reads its values from the wrong channels: the network
# is broken. Which of the two divergences notices? And if we shuffle the *places*?

# %% tags=["prediction"]
predict("""
...
""")

# %%
x = seen["teacher"][layer]
shuffle = torch.Generator().manual_seed(0)
channels = torch.randperm(x.shape[1], generator=shuffle)
places = torch.randperm(x.shape[2] * x.shape[3], generator=shuffle)
broken = {
    "nothing changed": x,
    "channels shuffled": x[:, channels],
    "places shuffled": x.flatten(2)[:, :, places].view_as(x),
    "signs turned": -x,
}
for name, y in broken.items():
    where, which = attention_divergences([y], [x])
    print(f"{name:18} spatial {where:.4f}   channel {which:.4f}")
read_back()

# %% [markdown]
# Each map is blind to what the other one sees, which is the reason for taking both. And both are blind to
# the last line: all signs turned, and no divergence at all. A student can agree in both maps and
# still compute something else. The *logits*, the network's last outputs, have to be compared as
# well, and the paper does so.
#
# ## Does it matter?
#
# One dot for each bit-width: does a student that looks elsewhere also get more images wrong?

# %%
figure, axes = plt.subplots(figsize=(6, 3.2))
for number, (name, marker) in enumerate((("spatial", "o"), ("channel", "s"))):
    colour = ("#0072b2", "#d55e00")[number]
    values = [apart[bits][:, number].mean() for bits in BITS]
    axes.plot(values, list(accuracy.values()), marker, ls=":", color=colour, label=name)
    for value, bits in zip(values, BITS, strict=True):
        axes.annotate(f" {bits}", (value, accuracy[bits]), (2, 4), textcoords="offset points",
                      color=colour, fontsize=9)  # fmt: skip
axes.set(xscale="log", xlabel="KL from the teacher, mean over layers (nats)", ylabel="accuracy (%)")
axes.legend(title="attention", frameon=False, loc="lower left")
listed = "; ".join(f"{b} bits: {accuracy[b]:.1f}%" for b in BITS)
show(figure, alt=f"Accuracy against mean divergence. {listed}; KL spatial and channel: {said}.",
     reading="The numbers are bits. Do accuracy and divergence tell the same story?")  # fmt: skip

# %% [markdown]
# Careful: fewer bits make everything worse at once. Two things that share a cause go together even if
# neither acts on the other. That the divergence *causes* wrong answers, or that making
# it smaller *helps*, does not follow from this picture. Notebooks 5 and 6 put it to the test.
#
# ## Stretch exercise: the distance
#
# `divergence(teacher_map, student_map)` takes two maps (B, K), spatial or channel, and
# returns KL(teacher || student) for each row, (B,). Divide each row by its sum first: that makes a
# unit-length row a distribution, and leaves a softmax as it is. Some places may be exactly 0, and the
# answer must be finite all the same.
#
# <details><summary>Hint 1: what to do</summary>
#
# Two divisions, then the formula for KL, with the
# teacher as p.
#
# </details>
#
# <details><summary>Hint 2: the division</summary>
#
# `m / m.sum(dim=1, keepdim=True)`; with
# `keepdim=True` each row is divided by its own sum.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# `(p * ((p + tiny).log() - (q + tiny).log()))`
# with `tiny = 1e-12`, summed over `dim=1`.
#
# </details>


# %% tags=["exercise"]
def divergence(teacher_map, student_map):
    """KL(teacher || student) of each row, in nats: (B, K) twice -> (B,)."""
    # SOLUTION
    p, q = (m / m.sum(dim=1, keepdim=True) for m in (teacher_map, student_map))
    tiny = 1e-12
    return (p * ((p + tiny).log() - (q + tiny).log())).sum(dim=1)
    # END


# %% tags=["check"]
checks.divergence(divergence)

# %% [markdown]
# Try the other direction on one pair of maps: is the number larger or smaller, and why?
#
# ## What would prove this wrong?
#
# The paper's idea needs this: a student that looks where its teacher looks answers as its teacher
# does. It would be in doubt if
#
# - two students of the **same** bit-width differed in divergence but not in accuracy, again and again,
# - a student trained to have a small divergence did not answer better than one trained on logits
#   alone, with the same images and steps,
# - the turned signs above were no curiosity, but what really happens in training.
#
# The second is the test that counts. What would you keep equal between the two students?

# %% [markdown]
# ## Recap
#
# - Spatial attention says where a map is active (unit length), channel attention which channels
#   are (sum 1). Both are means of squares, and nothing is learnt.
# - KL has a direction, and compares distributions. The spatial map is none until it is divided by its
#   sum; the equations leave that step open, and the released code takes another one.
# - Each map is blind to a permutation that the other sees, and both are blind to signs.
# - That divergence and accuracy change together with the bits does not show that one causes the other.
#
# **Next:** a loss that pulls the student's maps towards the teacher's.
