# %% [markdown]
# # A first look: what a network loses when it is quantized
#
# In five minutes, offline, on handwritten digits: you take a trained network (the **teacher**),
# round its weights and activations to a few bits (the **student**), and see what that does to
# its accuracy and to what it *looks at*. No data is used to repair it yet; that is what
# `akt-lab demo` goes on to do.
#
# **Predict first:** at how many bits will the student fall below 90%? Write down a number from
# 2 to 8.

# %%
import matplotlib.pyplot as plt
import torch

from akt_lab.attention import channel_attention, refined_feature_distillation, spatial_attention
from akt_lab.benches import BenchSpec, load_bench
from akt_lab.capture import capture_maps, residual_bodies
from akt_lab.quantizer import freeze_ranges, quantize_model
from akt_lab.tracing import trace
from akt_lab.training import evaluate

bench = load_bench(BenchSpec())  # trains the teacher on first use, in half a minute
teacher = trace(bench.teacher)
print(f"teacher: {evaluate(teacher, bench):.2f}% of {len(bench.images)} test images")

# %% [markdown]
# ## Rounding
#
# `quantize_model` makes a student whose weights lie on a grid of $2^{bits}$ values, one grid for
# each output channel. Its activations need a range too. Here we may look at real images to find
# it; *zero-shot* quantization may not, and makes its own.


# %%
def make_student(bits):
    student = quantize_model(bench.teacher, weight_bits=bits, act_bits=bits)
    with torch.no_grad():
        student(bench.normalise(bench.images[:100]))  # observe the activations' ranges
    freeze_ranges(student)
    return student


accuracy = {bits: evaluate(make_student(bits), bench) for bits in (8, 6, 5, 4, 3, 2)}
for bits, percent in accuracy.items():
    print(f"{bits} bits: {percent:6.2f}%")

# %% [markdown]
# Was your prediction right? Between two neighbouring widths the grid has half as many values;
# the accuracy does not fall by half, it falls off a cliff.
#
# ## What it looks at
#
# A feature map $x$ has a value for every channel and every place. AKT reads two summaries of it:
#
# - **spatial attention**: *where* is the map active? $\mathrm{mean}_c(x^2)$, scaled to length 1
# - **channel attention**: *which channels* are active? $\mathrm{softmax}(\mathrm{mean}_{hw}(x^2))$

# %%
layer = residual_bodies(teacher)[1]
image = bench.normalise(bench.images[:1])


def look(network):
    with torch.no_grad(), capture_maps(network, [layer]) as maps:
        network(image)
    return maps[layer]


seen = {"teacher": look(teacher), **{f"{b} bits": look(make_student(b)) for b in (4, 3, 2)}}
size = seen["teacher"].shape[-2:]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
axes[0].imshow(bench.pixels(image)[0, 0], cmap="gray")
axes[0].set_title("image")
for panel, (name, x) in zip(axes[1:], seen.items(), strict=True):
    panel.imshow(spatial_attention(x).view(size), cmap="cividis", vmin=0, vmax=0.4)
    panel.set_title(name)
for panel in axes:
    panel.axis("off")
print(f"Spatial attention in layer {layer}: the same digit, seen by the teacher and by students")

# %% [markdown]
# The two divergences below are what AKT adds to the student's loss. They are 0 where student and
# teacher look at the same places and channels.

# %%
for name, x in seen.items():
    distance = refined_feature_distillation([x], [seen["teacher"]], variant="paper")
    top = int(channel_attention(x).argmax())
    print(f"{name:8} divergence from the teacher {distance:.4f}   busiest channel {top}")

# %% [markdown]
# ## Where to go on
#
# - `akt-lab demo` trains students without any real image, with and without AKT, at 2, 3, 4 bits.
# - Change `layer` above to another of `residual_bodies(teacher)`: where do they disagree most?
# - What would prove you wrong if you claimed that attention explains the lost accuracy?
