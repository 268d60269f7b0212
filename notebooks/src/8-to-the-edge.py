# %% [markdown] budget=2
# # 8 · To the edge
#
# After this notebook you can
#
# - melt a batch norm into the convolution before it, and say what that does to the grids,
# - run a quantized network in **whole numbers**, and show that fake quantization told the truth,
# - count the bytes and the accumulator bits that a network needs on a small device,
# - give a student away as a file, and say what another program makes of it.
#
# An **edge** device is where the network is used: a watch, a sensor, a camera. The computing takes a
# minute, the reading about thirty.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl onnx onnxruntime")

# %%
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from akt_course import checks
from akt_course.show import predict, read_back, show
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.figures.style import STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% smoke="LOOK, JUDGE = 32, 100"
LOOK = 128  # images on which ranges are observed, and layers compared
JUDGE = 1000  # images, at most, on which accuracy is measured

# %% [markdown]
# ## What this notebook leaves out
#
# There is no chip here: whole numbers stand in place of a device, and at the end two other programs
# on this computer. Some things stay in floating point, as they
# do all through this package: the input of the first layer, the sums where a skip joins, the pooled
# features that the last layer reads (its weights are rounded all the same), biases, and the multiplication by a scale after each layer. (A device without
# floating point replaces that multiplication by one of whole numbers and a shift.)
#
# To observe ranges we use real images, without their labels. With the training data gone they
# would come from notebook 3.

# %%
from akt_lab.graph import trace

bench = load_bench(BenchSpec(BENCH))
judge = replace(bench, images=bench.images[:JUDGE], labels=bench.labels[:JUDGE])
x = bench.normalise(bench.images[:LOOK])
teacher = trace(bench.teacher).requires_grad_(False)
for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear):
    found = [m for m in teacher.modules() if isinstance(m, kind)]
    tensors = [t for m in found for t in m.state_dict().values() if t.is_floating_point()]
    print(f"{kind.__name__:12} {len(found):3} layers, {sum(t.numel() for t in tensors):8,} numbers")

# %% [markdown]
# ## Predict first
#
# At 3 bits a weight takes 3/32 of its space. But every layer also has a **scale** (4 bytes) and a
# **zero point** (1 byte here) for each output channel, and every batch norm four numbers for each
# channel: mean, variance, factor and shift, 4 bytes each.
#
# **Write down:** at 3 bits, which share of the file is *not* weights? At 2 bits?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.quantizer import ActivationQuantizer

PARTS = (("weights", "#0072b2", ""), ("ranges", "#e69f00", "//"), ("floats", "#009e73", ".."))


def parts_of(network, bits):
    """Bytes: packed weights; scales and zero points; batch norms and biases."""
    weights = ranges = floats = 0
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weights += math.ceil(module.weight.numel() * bits / 8)
            ranges += 5 * len(module.weight) * (bits < 32)
            floats += 0 if module.bias is None else 4 * len(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            floats += 4 * 4 * module.num_features
        elif isinstance(module, ActivationQuantizer):
            ranges += 5
    return weights, ranges, floats


# %%
def draw_bytes(network, title):
    figure, axes = plt.subplots(figsize=(7, 2.6))
    counted = {bits: parts_of(network, bits) for bits in (8, 5, 4, 3, 2)}
    for row, sizes in enumerate(counted.values()):
        for part, (name, colour, hatch) in enumerate(PARTS):
            label, left = name if row == 0 else None, sum(sizes[:part]) / 1000
            axes.barh(row, sizes[part] / 1000, 0.6, left, color=colour, hatch=hatch, label=label)
    axes.set(yticks=range(5), yticklabels=[f"{b} bits" for b in counted], xlabel="size (kB)")
    axes.set_xlim(0, sum(parts_of(teacher, 8)) / 950)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=9)
    extra = ", ".join(f"{100 - 100 * c[0] / sum(c):.0f}% at {b} bits" for b, c in counted.items())
    show(
        figure, alt=f"{title}: not weights {extra}.", reading=f"Share that is not weights: {extra}."
    )


# %%
draw_bytes(teacher, "with batch norms")

# %% [markdown]
# ## Melting a batch norm away
#
# In use, a batch norm is a straight line for each channel $c$, with numbers that no longer change:
#
# $$y_c = \gamma_c\, \frac{z_c - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c$$
#
# And $z = W x + b$ is a convolution, which is linear too. A line after a line is a line:
#
# $$W'_c = \frac{\gamma_c}{\sqrt{\sigma_c^2 + \epsilon}}\, W_c \qquad
# b'_c = \frac{\gamma_c}{\sqrt{\sigma_c^2 + \epsilon}}\, (b_c - \mu_c) + \beta_c$$
#
# So four numbers for each channel become one, the new bias, and an operation in floating point
# between two layers of whole numbers is gone. This is called **folding**.

# %% [markdown]
# ## Exercise: fold one
#
# `fold_batch_norm(weight, bias, norm)` takes a convolution's weight (out, in, height, width), its
# bias (out,) or None, and an `nn.BatchNorm2d` in eval mode. It gives back the new weight and the new
# bias; what it was given stays as it was.
#
# <details><summary>Hint 1: the names</summary>
#
# $\gamma$ is `norm.weight`, $\beta$ is `norm.bias`, $\mu$
# is `norm.running_mean`, $\sigma^2$ is `norm.running_var`, $\epsilon$ is `norm.eps`.
#
# </details>
#
# <details><summary>Hint 2: the shapes</summary>
#
# The factor has one number for each *output* channel,
# the weight's first dimension: `factor.view(-1, 1, 1, 1)`.
#
# </details>
#
# <details><summary>Hint 3: no bias</summary>
#
# A convolution without a bias adds 0:
# `torch.zeros_like(norm.running_mean)`. Then `(bias - norm.running_mean) * factor + norm.bias`.
#
#
# </details>


# %% tags=["exercise"]
def fold_batch_norm(weight, bias, norm):
    """The weight and the bias of a convolution that does both."""
    # SOLUTION
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = torch.zeros_like(norm.running_mean) if bias is None else bias
    return weight * factor.view(-1, 1, 1, 1), (bias - norm.running_mean) * factor + norm.bias
    # END


# %% tags=["check"]
checks.fold_batch_norm(fold_batch_norm)

# %% [markdown]
# From here on PyTorch's `fuse_conv_bn_eval` does it. In the network's graph we look for each batch
# norm whose input is a convolution that nothing else reads.


# %%
def fold_all(network):
    network = trace(network).requires_grad_(False)
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        source = node.args[0] if node.args else None
        if node.op != "call_module" or type(modules[node.target]) is not nn.BatchNorm2d:
            continue
        if type(modules.get(source.target)) is nn.Conv2d and len(source.users) == 1:
            fused = fuse_conv_bn_eval(modules[source.target], modules[node.target])
            network.add_submodule(source.target, fused)
            node.replace_all_uses_with(source)
            network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


# %%
folded = fold_all(teacher)
with torch.no_grad():
    before, after = teacher(x), folded(x)
print(f"Logits up to {before.abs().max():.1f}; folding moves none by more than "
      f"{(before - after).abs().max():.1e}")  # fmt: skip
draw_bytes(folded, "folded")

# %% [markdown]
# ## Fold first, then quantize?
#
# Folding multiplies each filter by a factor of its own, and these factors differ. **Predict:**
# at 3 bits, does that make the weights' rounding error (relative to the weights) larger, if the layer
# has *one* grid? And if each output channel has its own?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.quantizer import affine_parameters, fake_quantize, fake_quantize_rows


def errors(network, bits=3):
    """Squared error of each convolution's weight, %: one grid a layer, one a channel."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            w = layer.weight
            shared = fake_quantize(w, *affine_parameters(w.min(), w.max(), bits), bits)
            pair = [(q - w).square().sum() for q in (shared, fake_quantize_rows(w, bits))]
            found.append(100 * torch.stack(pair) / w.square().sum())
    return torch.stack(found)


# %%
tables = {"before": errors(teacher), "folded": errors(folded)}
figure, axes = plt.subplots(figsize=(7, 3))
for (name, table), mark in zip(tables.items(), ("o-", "s--"), strict=True):
    for grid, (label, colour) in enumerate((("a layer", "#d55e00"), ("a channel", "#0072b2"))):
        numbers = range(1, len(table) + 1)
        axes.plot(numbers, table[:, grid], mark, color=colour, label=f"{label}, {name}", alpha=0.8)
axes.set(
    xlabel="convolution, from input to output", ylabel="squared error\n(% of the weights' own)"
)
axes.set_ylim(bottom=0)
axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, title="one grid")
b, f = (table.mean(0) for table in tables.values())
change = f"one grid a layer {b[0]:.1f}% to {f[0]:.1f}%, one a channel {b[1]:.1f}% to {f[1]:.1f}%"
show(figure, alt=f"Mean error, before to after folding: {change}.", reading=f"Means: {change}.")


# %%
def steps_from_zero(w, bits=3):
    """|q - zero point| of each weight, on one grid a channel."""
    scale, _ = affine_parameters(*w.flatten(1).aminmax(dim=1), bits)
    return (fake_quantize_rows(w, bits) / scale.view(-1, 1, 1, 1)).round().abs()


kept_same = [
    (steps_from_zero(layer.weight) == steps_from_zero(folded.get_submodule(name).weight)).flatten()
    for name, layer in teacher.named_modules()
    if isinstance(layer, nn.Conv2d)
]
print(f"{100 * torch.cat(kept_same).float().mean():.1f}% of the whole numbers are as before, "
      "but for their sign")  # fmt: skip

# %% [markdown]
# With a grid for each channel the factor changes the **scale** and nothing else: range and weights
# grow together, so the whole numbers stay. (A negative factor mirrors the grid, which can move some by
# one step. And the error above counts large filters for more than before.) So with scales per output channel *the batch norm's
# factor is folded into them, free of charge*: one more reason for them, beside notebook 1's. With one
# grid a layer, filters whose factor is small are left with fewer levels; the means above say what
# that costs here.
#
# ## In whole numbers
#
# A quantized weight is $(q_w - z_w)\, s_w$, a quantized input $(q_x - z_x)\, s_x$. In a sum of
# products, both scales come out:
#
# $$y_c = s_{w,c}\, s_x \underbrace{\sum_i (q_{w,c,i} - z_{w,c})(q_{x,i} - z_x)}_{\text{whole
# numbers only}} +\; b_c$$
#
# The sum is kept in an **accumulator**, a whole number of 32 bits here, and multiplied *once* at the
# end. Nothing is approximated. So this should equal fake quantization, but for the last digits of a
# floating-point sum.


# %%
def integer_convolution(conv, quantizer, x):
    """Sums in int32, then one multiplication a channel; x is on the quantizer's grid."""
    low, high = conv.weight.flatten(1).aminmax(dim=1)
    s_w, z_w = affine_parameters(low, high, conv.weight_bits)
    s_x, _ = affine_parameters(quantizer.low, quantizer.high, quantizer.bits)
    rows = (-1, 1, 1, 1)
    q_w = (conv.weight / s_w.view(rows)).round() + z_w.view(rows)
    w = (q_w.clamp(0, 2**conv.weight_bits - 1) - z_w.view(rows)).int()
    a = (x / s_x).round().int()  # q_x - z_x
    sums = F.conv2d(a, w, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    y = sums * (s_w * s_x).view(-1, 1, 1)
    return (y if conv.bias is None else y + conv.bias.view(-1, 1, 1)), sums


# %%
from akt_lab.quantizer import freeze_ranges, quantize_model


@torch.no_grad()
def quantized(bits, network=folded):
    """A student, its ranges observed on x: rounded only, not trained."""
    student = quantize_model(network, bits, bits)
    student(x)
    freeze_ranges(student)
    return student.requires_grad_(False)


def on_a_grid(student):
    """Convolutions that read an activation quantizer's output: name -> quantizer."""
    modules = dict(student.named_modules())
    nodes = [n for n in student.graph.nodes if isinstance(modules.get(n.target), nn.Conv2d)]
    sources = {n.target: modules.get(n.args[0].target) for n in nodes}
    return {k: m for k, m in sources.items() if isinstance(m, ActivationQuantizer)}


# %%
from contextlib import contextmanager


@contextmanager
def whole_numbers(student):
    """Inside: those convolutions run in whole numbers; gives what came out, and their sums."""
    kept = {}

    def attach(name, quantizer):
        def instead(conv, inputs, output):
            y, sums = integer_convolution(conv, quantizer, inputs[0])
            kept[name] = (output, y, sums)
            return y

        return student.get_submodule(name).register_forward_hook(instead)

    handles = [attach(*pair) for pair in on_a_grid(student).items()]
    yield kept
    for handle in handles:
        handle.remove()


# %% [markdown]
# **Predict:** on the left one layer, on the right the logits after all of them. Will every dot lie
# on the diagonal? In which of the two could one stray, and how?

# %% tags=["prediction"]
predict("""
...
""")

# %%
student = quantized(3)
with torch.no_grad():
    fake_logits = student(x)
    with whole_numbers(student) as kept:
        logits = student(x)
fake, exact, _ = list(kept.values())[len(kept) // 2]
total = sum(isinstance(m, nn.Conv2d) for m in student.modules())
print(
    f"{len(kept)} of {total} convolutions ran in whole numbers; the input of the others is on no grid"
)

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
pairs = {"outputs of a layer": (fake, exact), "logits": (fake_logits, logits)}
for axes, (name, both) in zip(panels, pairs.items(), strict=True):
    a, b = (v.flatten()[:: v.numel() // 2000 + 1] for v in both)
    axes.plot([a.min(), a.max()], [a.min(), a.max()], "--", color="0.6", linewidth=1)
    axes.plot(a, b, ".", color="#0072b2", markersize=3)
    axes.set(xlabel=f"{name}: fake quantization", ylabel="whole numbers", aspect="equal")
off, off_logits = (f"{(a - b).abs().max():.1e}" for a, b in pairs.values())
same = 100 * float((fake_logits.argmax(1) == logits.argmax(1)).float().mean())
show(
    figure,
    alt=f"Dots along a diagonal: a layer differs by at most {off}, the logits by {off_logits}.",
    reading=f"Largest difference: {off} and {off_logits}. Same class for {same:.1f}% of images.",
)

# %% [markdown]
# Last digits do not add up from layer to layer: the next quantizer rounds them away. If a dot strays
# on the right all the same, a value lay within a last digit of the border between two levels, and
# fell to the other side; the next layers carried that step on.
#
# ## How wide an accumulator?
#
# A product of two $b$-bit numbers is at most $(2^b - 1)^2$, and a filter adds up as many of them as
# it has weights, its **fan-in**. One bit more holds the sign. If the accumulator is too narrow, the
# sum wraps round, from the largest number to the smallest. **Predict:** is 16 bits enough at 3 bits?

# %% tags=["prediction"]
predict("""
...
""")

# %%
FAN_INS = [student.get_submodule(name).weight[0].numel() for name in kept]
used = {bits: [] for bits in (2, 3, 4, 8)}
for bits, widths in used.items():
    candidate = quantized(bits)
    with torch.no_grad(), whole_numbers(candidate) as found:
        candidate(x)
    for _, _, sums in found.values():
        widths.append(math.ceil(math.log2(int(sums.abs().max()) + 1)) + 1)
worst = {b: [math.ceil(math.log2(n * (2**b - 1) ** 2 + 1)) + 1 for n in FAN_INS] for b in used}

# %%
figure, axes = plt.subplots(figsize=(7, 3))
for (bits, widths), mark in zip(used.items(), "osD^", strict=True):
    axes.plot(bits, max(worst[bits]), "_", color="#d55e00", markersize=22, markeredgewidth=2)
    axes.plot([bits] * len(widths), widths, mark, color="#0072b2", alpha=0.5)
for size in (16, 32):
    axes.axhline(size, color="0.4", linestyle=":")
    axes.text(2.2, size + 0.4, f"{size} bits", color="0.3", fontsize=9)
axes.set(xlabel="bits of weights and activations", ylabel="accumulator (bits)", ylim=(0, 36))
axes.set_xticks(list(used))
listed = ", ".join(f"{b} bits: {max(worst[b])}, seen {max(used[b])}" for b in used)
show(figure, alt=f"Accumulator bits, the worst case and the most seen: {listed}.",
     reading="Orange: no image can ever need more. Blue: what these images needed, layer by layer.")  # fmt: skip

# %% [markdown]
# ## Out of PyTorch
#
# Both computations were ours so far. **ONNX** is a file format for networks: a list of operations
# with their numbers, which other programs, **runtimes**, read and run, on a phone or in a browser.
# Our file holds whole numbers, each in its bits, a scale for each channel, and after each activation
# the operations *quantize* and *dequantize*. A runtime may compute what stands there, in floating point. Or it sees
# through it, and computes in whole numbers as we did. Sums and residuals are not rounded in our
# students; one runtime wants 8 bits there, too, which makes another network.
#
# **Predict:** for how many images will a runtime give another class? And will 3 bits be faster than 8?

# %% tags=["prediction"]
predict("""
...
""")

# %%
from akt_lab.export import agreement, here, medians, to_onnx, with_rounded_sums
from akt_lab.runs import networks
from akt_lab.runs.folder import Run

RUN = None  # or the folder of a run: then the student that you trained

mine = networks.load_student(Run.open(RUN), bench)[0] if RUN else student
given_away = {
    "in float32": folded,
    "8 bits": quantized(8),
    "3 bits": mine,
    "3 bits, 8-bit sums": with_rounded_sums(mine, x),
}
one = x[:1].contiguous().numpy()

# %% smoke="SECONDS = 0.1"
SECONDS = 2  # in which the files of one runtime are timed, in turns


# %%
def row(network, runtime):
    """What a runtime makes of a network's file, beside the network in PyTorch."""

    def written(**more):
        return runtime(to_onnx(network, x.shape[1:], storage="packed", **more))

    file = written()
    found = agreement(network, judge.batches(), file, lambda: written(rounded=True))
    whole = file.layers(one).values()
    return {"file": file, "kB": round(len(file.content) / 1000, 1),
            "top-1 (%)": round(found.accuracy, 1), "other class": found.classes,
            "whole layers": f"{sum(whole)} of {len(whole)}"}  # fmt: skip


# %%
import pandas as pd
from IPython.display import display

for runtime in here():
    rows = {name: row(network, runtime) for name, network in given_away.items()}
    if not runtime.rounds_sums:
        del rows["3 bits, 8-bit sums"]  # it goes its own way there
    times = medians({name: each.pop("file") for name, each in rows.items()}, one, SECONDS)
    table = pd.DataFrame(rows).T.assign(**{"ms an image": pd.Series(times).round(3)})
    print(f"{runtime.package} {runtime.installed()}, {len(judge.images)} images, one thread")
    display(table)
read_back()

# %% [markdown]
# *Whole layers*: those which the runtime itself reports as run in whole numbers. (With 8 bits a
# weight less its zero point may need nine; then both runtimes compute in floating point.) Where
# classes differ, is it a mistake, or a value at the border between two levels? The check of
# `akt-lab export` decides that for each image, and refuses a file that is wrong.

# %%
figure, panels = plt.subplots(1, len(here()), figsize=(8, 3.4), layout="constrained", squeeze=False)
furthest = []
for axes, runtime in zip(panels[0], here(), strict=True):
    got = runtime(to_onnx(mine, x.shape[1:])).run(x.contiguous().numpy())["logits"]
    expected = mine(x).numpy()
    axes.plot([expected.min(), expected.max()], [expected.min(), expected.max()], "--", color="0.6")
    axes.plot(expected.flatten(), got.flatten(), ".", color="#0072b2", markersize=3)
    axes.set(xlabel="logits in PyTorch", ylabel=f"in {runtime.package}", aspect="equal")
    furthest.append(f"{runtime.package} {abs(got - expected).max():.1e}")
show(figure, alt=f"Dots along diagonals; largest difference: {', '.join(furthest)}.",
     reading=f"Largest difference of a logit: {', '.join(furthest)}.")  # fmt: skip

# %% [markdown]
# Now the table's last column, 3 bits against 8: on a processor 3-bit arithmetic *is* 8-bit
# arithmetic, so 3 bits save storage and not time. And a network as small as this one is too small for
# a timing to say more. Outside, `examples/classify.py` needs the file, NumPy and onnxruntime alone.
#
# ## Bytes against accuracy
#
# Now the whole bill: the folded network at each number of bits, packed, with all its ranges and
# biases, against its accuracy. None of these students was trained; they are only rounded. That is
# the starting point from which notebooks 3 to 6 try to climb.

# %%
from akt_lab.analysis.intervals import proportion_interval
from akt_lab.runs.training import evaluate

bill, seen = {}, {}
for bits in (8, 6, 5, 4, 3, 2):
    candidate = quantized(bits)
    bill[bits] = (sum(parts_of(candidate, bits)) / 1000, evaluate(candidate, judge))
    with torch.no_grad():
        seen[bits] = candidate(x)
full = sum(parts_of(folded, 32)) / 1000
top = evaluate(bench.teacher, judge)

# %%
figure, axes = plt.subplots(figsize=(7, 3.2))
for bits, (size, score) in {32: (full, top), **bill}.items():
    low, high = proportion_interval(score, len(judge.images))
    axes.plot([size, size], [low, high], color="0.7", linewidth=3)
    axes.plot(size, score, "D", color="#d55e00" if bits == 32 else "#0072b2")
    axes.annotate(f"{bits}", (size, score), (7, -3), textcoords="offset points", fontsize=9)
axes.set(xlabel="size (kB), all counted", ylabel="top-1 accuracy (%)", xscale="log")
ticks = [2**k for k in range(16) if bill[2][0] / 2 <= 2**k <= 2 * full]
axes.set_xticks(ticks, [str(t) for t in ticks], minor=False)
axes.minorticks_off()
listed = ", ".join(f"{b} bits {size:.1f} kB {score:.1f}%" for b, (size, score) in bill.items())
show(figure, alt=f"Accuracy against size: 32 bits {full:.1f} kB {top:.1f}%, {listed}.",
     reading="Numbers: bits. Grey: 95% interval over the images. Left is smaller, up is better.")  # fmt: skip

# %% [markdown]
# **What does a chip gain** that has no 3-bit arithmetic? Memory, for certain. Its multiplications are
# those of 8 bits, after each weight has been unpacked. Moving fewer bytes may save time and energy,
# unpacking costs some; which of the two wins has to be measured on the device, with a network of the
# size that is used there.
#
# ## Explore
#
# Move the bits, and compare with the teacher's logits. When does the cloud leave the diagonal?

# %%
import ipywidgets


def draw(bits=3):
    figure, axes = plt.subplots(figsize=(4, 3.4))
    limits = [float(before.min()), float(before.max())]
    axes.plot(limits, limits, "--", color="0.6", linewidth=1)
    axes.plot(before.flatten(), seen[bits].flatten(), ".", color="#0072b2", markersize=3)
    same = 100 * float((before.argmax(1) == seen[bits].argmax(1)).float().mean())
    axes.set(xlabel="teacher's logits", ylabel=f"logits at {bits} bits", title=f"{same:.0f}% agree")
    alt = (
        f"Logits at {bits} bits against the teacher's; the class agrees for {same:.0f}% of images."
    )
    show(figure, alt=alt, reading="Dashed: equal. A tilted cloud is harmless, a wide one is not.")


bits = ipywidgets.SelectionSlider(options=sorted(seen), value=3, continuous_update=False)
_ = ipywidgets.interact(draw, bits=bits)

# %% [markdown]
# ## Stretch exercise: pack them
#
# So far a 3-bit number sat in a tensor of 32 bits: "3/32" was a promise. Keep it. `pack(q, bits)`
# takes whole numbers (n,) from 0 to $2^{bits}-1$ and gives back bytes (a tensor of `torch.uint8`), as
# few as possible: $\lceil n \cdot bits / 8 \rceil$. The numbers stand one after another in a stream
# of bits, each with its **lowest bit first**; a byte takes the next 8, again lowest first, and zeros
# fill the last one. `unpack` is given:


# %%
def unpack(packed, count, bits):
    """The first `count` numbers in a stream of bytes."""
    stream = (packed.int().unsqueeze(1) >> torch.arange(8)) & 1  # (bytes, 8)
    each = stream.flatten()[: count * bits].view(count, bits)
    return (each << torch.arange(bits)).sum(dim=1)


print(unpack(torch.tensor([0b10_001_101, 0b1], dtype=torch.uint8), 3, 3))  # 101, 001, 110

# %% [markdown]
# <details><summary>Hint 1: backwards</summary>
#
# Read `unpack` from its last line to its first: each
# number to its bits, the bits to one stream, the stream to rows of 8, each row to a
# byte.
#
# </details>
#
# <details><summary>Hint 2: the bits</summary>
#
# `(q.unsqueeze(1) >> torch.arange(bits)) & 1` is
# (n, bits); flattened it is the stream.
#
# </details>
#
# <details><summary>Hint 3: the bytes</summary>
#
# `F.pad(stream, (0, -len(stream) % 8)).view(-1, 8)`, then
# `(rows << torch.arange(8)).sum(dim=1).to(torch.uint8)`.
#
# </details>


# %% tags=["exercise"]
def pack(q, bits):
    """Whole numbers (n,) of `bits` bits each -> ceil(n * bits / 8) bytes."""
    # SOLUTION
    stream = ((q.long().unsqueeze(1) >> torch.arange(bits)) & 1).flatten()
    rows = F.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    return (rows << torch.arange(8)).sum(dim=1).to(torch.uint8)
    # END


# %% tags=["check"]
checks.pack(pack)

# %% [markdown]
# ## What would prove this wrong?
#
# We say: fake quantization shows what a device will compute. That holds for *our* whole numbers. A
# real runtime may round halves upwards where we round them to even, keep the residual sums in 8 bits,
# or merge two layers. Which single test would you trust? Take the device, feed it the same images, and
# count on how many the *class* differs. Our two computations above agreed on the share of images that
# was printed; on clearly fewer, and this notebook has described another machine. (The grey intervals
# are no yardstick: they are about other images, and here the images are the same.)

# %% [markdown]
# ## Recap
#
# - A batch norm in use is a line, and melts into the convolution before it. At low bits that saves
#   bytes that the weights no longer hide.
# - Per-channel scales swallow the batch norm's factor; one grid a layer cannot.
# - Whole numbers, one wide sum, one multiplication: equal to fake quantization but for last digits.
# - An accumulator's width follows from bits and fan-in.
# - An ONNX file carries a student out of PyTorch, and two runtimes gave the classes that were counted.
# - Count everything: scales, zero points and biases are part of the file.
# - Fewer bits always save memory. Anything else has to be measured on the device.
#
# **This was the last notebook.** You can now take a network without its data, squeeze it, judge the
# claims about it, and count what it costs.
