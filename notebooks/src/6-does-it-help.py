# %% [markdown] budget=5
# # 6 · Does it help?
#
# After this notebook you can
#
# - read a table of runs, and say which of its rows may be compared,
# - put an interval on the difference of **paired** runs, and say when not to trust it,
# - judge each claim of the paper by the number that bears on it.
#
# Nothing is trained here: the runs were made beforehand, and lie in `results/`. The computing takes
# a minute or two, the reading about fifty.

# %%
# On Colab: upload akt_lab-*.whl from the course's zip first. Elsewhere this cell does nothing.
from importlib.util import find_spec

if not find_spec("akt_lab"):
    from IPython import get_ipython

    get_ipython().run_line_magic("pip", "install -q akt_lab-*.whl")

# %%
import json
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from akt_course import checks
from akt_course.show import predict, show
from akt_lab.analysis import tables
from akt_lab.analysis.intervals import proportion_interval
from akt_lab.figures.style import METHOD_STYLE, STYLE

BENCH = "digits"  # or "cifar10", the paper's own: downloaded on first use
plt.rcParams.update(STYLE)

# %% smoke="EXPERIMENTS, DRAWS = 300, 500"
EXPERIMENTS, DRAWS = 4000, 2000  # imagined studies, and resamples in each of them
HANDFUL = 100  # test images
TRUTH, SPREAD = 1.0, 0.7  # in those studies: the true gain, and how far seeds scatter, in points

# %% [markdown]
# ## The runs
#
# A **run** is one student, trained once. Its line in a `.jsonl` file holds settings, seed, budget
# and accuracy, so that nobody has to remember them. We take every such file that we find.


# %%
def find(folder, pattern):
    """Files that match, in the folder here or in one up to three levels above; maybe none."""
    above = [Path.cwd(), *Path.cwd().parents][:4]
    return next((f for f in (sorted((p / folder).glob(pattern)) for p in above) if f), [])


files = find("results", "*.jsonl")
if not files:
    raise FileNotFoundError("no results/*.jsonl here or above: unzip the course as a whole")
runs = tables.load(files)
print(f"{len(runs)} runs in", ", ".join(file.name for file in files))

# %% [markdown]
# Three menus pick the rows. `last` is the accuracy after the last epoch, `best` the best one that
# any evaluation saw, `student_images` how many images the student was trained on. On the right: the
# settings in which the rows shown differ. Find two that differ in **nothing but their seed**.

# %%
COLUMNS = "bench bits method variant seed student_images teacher last best".split()
settings = pd.json_normalize(runs["same"].map(json.loads).tolist()).astype(str)


def pick(bench, bits, method):
    rows = runs
    for column, value in {"bench": bench, "bits": bits, "method": method}.items():
        rows = rows if value == "all" else rows[rows[column] == value]
    print(f"{len(rows)} of {len(runs)} runs, the first 30 here")
    differ = settings.loc[rows.index].nunique() > 1
    shown = rows[COLUMNS].join(settings.loc[rows.index, differ]).head(30)
    return shown.style.hide(axis="index").format(precision=2)


# %%
menus = {
    column: ipywidgets.Dropdown(options=["all", *sorted(runs[column].unique())], description=column)
    for column in ("bench", "bits", "method")
}
menus["bench"].value = "cifar10" if "cifar10" in menus["bench"].options else "all"
_ = ipywidgets.interact(pick, **menus)

# %% [markdown]
# ## Predict first
#
# In `photographs.jsonl`, CIFAR-10's test images with a teacher of our own (86.8%; the paper's has
# 93.9%), AKT's loss was joined to another method's, and all else was left alone. (The runs on digits
# hold more methods: `ptq` and `zeroq` only observe ranges, `granq` has a live range for each image
# and channel.)
#
# **Write down before you go on:** how many points of accuracy does AKT add at 3 bits? And how far
# apart are two runs of the *same* method that differ in their seed alone?

# %% tags=["prediction"]
predict("""
...
""")

# %% [markdown]
# ## See it
#
# `paper` stands for the paper's equations, `code` for what its released code means to compute.

# %%
from akt_lab.figures.table import dots

cells = tables.summarise(runs)  # one row for runs that differ in nothing but their seed
against = cells[cells["paper"].notna()]
drawing = dots(against)
show(
    drawing.figure,
    alt=drawing.alt,
    reading="Dots: our last epochs, 95% intervals over seeds; marks: the paper's best test epochs.",
)

# %% [markdown]
# Where a mark lies far from its dot, is the paper refuted? Ask first what was equal. A number is
# **reproduced** only if bench, settings, teacher and budget were its own, and it lies where one more
# of our runs would be expected. For that our *best* epoch is taken, because theirs is one (trap 1).

# %%
for row in against.itertuples():
    name = f"{row.bits} {row.method} {row.variant}".strip()
    ours = f"ours {row.last:.2f}, best {row.best:.2f}"
    print(f"{name:24} {ours}  paper {row.paper:.2f}  {row.standing}")

# %% [markdown]
# Where a reason stands at the end of a line, dot and mark must not be compared. But dots may be
# compared *with each other*: same teacher, same settings, same number of images.
#
# ## Pairs
#
# A seed decides the generator's first weights, and all noise and classes that it is fed. Two runs
# with the **same seed**, one with AKT and one without, share all that, and the whole warm-up. (After
# it the *images* may drift apart: AdaDFQ's generator looks at the student.) So subtract within the
# seed: what both share falls out. These differences are our data.


# %%
def pairs_of(runs):
    """A row for each AKT run: `last_plain` is that of the plain run with the same seed."""
    plain = runs[runs["ended"] & ~runs["method"].str.endswith("+akt")]
    akt = runs[runs["ended"] & runs["method"].str.endswith("+akt")]
    akt = akt.assign(plain=akt["method"].str.removesuffix("+akt"))
    keys = ["pair", "teacher", "seed"]
    both = akt.merge(plain, left_on=["plain", *keys], right_on=["method", *keys],
                     suffixes=("", "_plain"))  # fmt: skip
    return both.assign(gain=both["last"] - both["last_plain"])


photographs = pairs_of(tables.load([f for f in files if f.name == "photographs.jsonl"]))
groups = photographs.groupby(["bits", "method", "variant"])
studies = {key: rows for key, rows in groups if len(rows) > 1}
print(photographs[["bits", "method", "variant", "seed", "last_plain", "last", "gain"]].round(2))

# %%
figure, panels = plt.subplots(1, len(studies), figsize=(1.2 + 2.6 * len(studies), 3.2),
                              sharey=True, squeeze=False, layout="constrained")  # fmt: skip
for panel, ((bits, method, variant), rows) in zip(panels[0], studies.items(), strict=True):
    for row in rows.itertuples():
        panel.plot([0, 1], [row.last_plain, row.last], color="0.6")
    for place, column, name in ((0, "last_plain", method[:-4]), (1, "last", method)):
        style = {**METHOD_STYLE[name], "linestyle": "none"}
        panel.plot([place] * len(rows), rows[column], **style)
    panel.set(title=f"{bits}, {variant}", xlim=(-0.4, 1.4))
    panel.set_xticks([0, 1], ["plain", "with AKT"])
panels[0, 0].set_ylabel("top-1 accuracy,\nlast epoch (%)")
up = f"{(photographs['gain'] > 0).sum()} of {len(photographs)}"
show(figure, alt=f"Pairs of runs joined by lines, a line a seed; {up} lines rise.",
     reading=f"A line is a seed; {up} rise. Steepness is the gain, height is the seed's luck.")  # fmt: skip

# %% [markdown]
# ## How sure?
#
# A mean of three differences is one number. With three other seeds it would be another. A **95%
# interval** is a recipe that, used again and again, catches the true mean 95 times in 100.
#
# The classic recipe is **Student's t**: mean $\pm\; t \cdot s / \sqrt{n}$, with $s$ the standard
# deviation of the $n$ differences. For $n=3$ the factor $t$ is 4.3, not the familiar 1.96: three
# values know very little about their own spread.
#
# Another recipe needs no formula. The **bootstrap** asks: what if I drew my sample again? It
# pretends that the sample is the world:
#
# 1. draw $n$ pairs from your $n$ pairs, **with replacement** (some twice, some not at all),
# 2. take the mean of their differences,
# 3. do so thousands of times, and keep the middle 95% of the means.

# %% [markdown]
# ## Exercise: write it
#
# `bootstrap_difference(a, b, draws, seed)` takes two NumPy arrays, with AKT and without, where
# `a[i]` and `b[i]` have the same seed. It returns `low, high`: the 2.5th and the 97.5th percentile
# of `draws` resampled means of `a - b`.
#
# <details><summary>Hint 1: what to do</summary>
#
# Subtract first, and the pairs can no longer come
# apart. Then only one array is resampled.
#
# </details>
#
# <details><summary>Hint 2: places</summary>
#
# `np.random.default_rng(seed).integers(n, size=(draws,
# n))` holds `draws` rows of `n` places, and a place can come twice.
#
# </details>
#
# <details><summary>Hint 3: nearly there</summary>
#
# `differences[places].mean(axis=1)` has one mean a
# row; `np.percentile(means, [2.5, 97.5])` gives both ends.
#
# </details>


# %% tags=["exercise"]
def bootstrap_difference(a, b, draws, seed):
    """The 95% bootstrap interval, low and high, of the mean of a - b."""
    # SOLUTION
    differences = np.asarray(a) - np.asarray(b)
    n = len(differences)
    places = np.random.default_rng(seed).integers(n, size=(draws, n))
    low, high = np.percentile(differences[places].mean(axis=1), [2.5, 97.5])
    return low, high
    # END


# %% tags=["check"]
checks.bootstrap_difference(bootstrap_difference)

# %% [markdown]
# From here on we use the package's `bootstrap_intervals`. Beside it stands Student's t, on the same
# pairs. A positive gain is only shown if the whole interval lies above 0.

# %%
from akt_lab.analysis.intervals import bootstrap_intervals, covers, t_intervals

RECIPES = {"bootstrap": bootstrap_intervals, "Student's t": t_intervals}
LOOKS = {"bootstrap": ("#d55e00", "s", "--"), "Student's t": ("#0072b2", "o", "-")}
print(f"{'gain in points':32}{'mean':>6}" + "".join(f"{name:>18}" for name in RECIPES))
for key, rows in studies.items():
    gains = rows["gain"].to_numpy()[None]  # one experiment, n pairs
    ends = [interval(gains)[0] for interval in RECIPES.values()]
    shown = "".join(f"{low:+8.2f} to {high:+.2f}" for low, high in ends)
    print(f"{' '.join(key):32}{gains.mean():+6.2f}  {shown}")

# %% [markdown]
# The same three numbers, and two widths. If the two recipes disagree about 0, one of them gives a
# headline and the other does not. Which one is right? Look at what the bootstrap has to work with.

# %%
gains = next(iter(studies.values()))["gain"].to_numpy()
places = np.random.default_rng(0).integers(len(gains), size=(DRAWS, len(gains)))
means, counts = np.unique(gains[places].mean(axis=1).round(6), return_counts=True)
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.vlines(means, 0, 100 * counts / DRAWS, color="0.5", linewidth=4)
for height, (name, recipe) in zip((-4, -8), RECIPES.items(), strict=True):
    colour, marker, dash = LOOKS[name]
    axes.plot(recipe(gains[None])[0], [height] * 2, dash, color=colour, marker=marker, label=name)
axes.set(xlabel="mean gain of a resample (points)", ylim=(-11, None), yticks=[0, 10, 20])
axes.set_ylabel("share of\nresamples (%)")
axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
text = f"{len(gains)} pairs give only {len(means)} different means. Below them: both intervals."
show(figure, alt=f"Bars from {means[0]:.2f} to {means[-1]:.2f}. {text}", reading=text)

# %% [markdown]
# ## Predict again
#
# Now play nature. Imagine thousands of studies in a world where AKT's true gain is **known**, each
# with three seeds, and count how often an interval holds the truth. Both recipes promise 95%.
# **Write down two numbers before you go on.**

# %% tags=["prediction"]
predict("""
...
""")

# %%
SEEDS = (3, 4, 5, 7, 10, 20, 30)
rng = np.random.default_rng(0)
intervals, held = {}, {name: [] for name in RECIPES}
for n in SEEDS:
    studied = rng.normal(TRUTH, SPREAD, size=(EXPERIMENTS, n))
    for name, recipe in RECIPES.items():
        intervals[name, n] = recipe(studied)
        held[name].append(100 * covers(intervals[name, n], TRUTH).mean())
    print(f"{n:2} seeds: " + ", ".join(f"{name} {held[name][-1]:.0f}%" for name in RECIPES))

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, shares in held.items():
    colour, marker, dash = LOOKS[name]
    ends = np.array([proportion_interval(share, EXPERIMENTS) for share in shares])
    style = {"color": colour, "marker": marker, "linestyle": dash, "label": name, "capsize": 3}
    axes.errorbar(SEEDS, shares, np.abs(ends.T - shares), **style)
axes.axhline(95, color="0.3", linewidth=1, linestyle=":")
axes.set(xlabel="seeds in each study", ylabel="intervals that hold\nthe truth (%)", xscale="log")
axes.set_xticks(SEEDS, SEEDS)
axes.minorticks_off()
axes.legend(frameon=False, loc="lower right")
listed = ", ".join(f"{name} {shares[0]:.0f}%" for name, shares in held.items())
text = f"Dotted: the promised 95%. At {SEEDS[0]} seeds the truth is held by: {listed}."
show(figure, alt="Intervals that hold the truth, against seeds. " + text, reading=text)

# %% [markdown]
# Why? With three pairs, one resample in 27 takes the smallest difference three times. That is
# 3.7% of them, more than 2.5%: so the bootstrap's low end *is* the smallest difference, and the
# high end the largest. It misses whenever all three lie on the same side of the truth: $2 \cdot
# (1/2)^3 = 25\%$. The bootstrap is a fine recipe for 30 pairs. For three it is a way to be wrong
# every fourth time. Student's t pays for honesty with width (and it assumes a bell curve).
#
# ## Explore
#
# Forty of those studies. Move the number of seeds, and watch misses *and* widths.


# %%
def forest(seeds=3):
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.6), sharex=True, sharey=True)
    for panel, name in zip(panels, RECIPES, strict=True):
        shown = intervals[name, seeds][:40]
        hits = covers(shown, TRUTH)
        for rows, colour, width in ((hits, "#0072b2", 1), (~hits, "#d55e00", 3)):
            panel.hlines(np.flatnonzero(rows), *shown[rows].T, color=colour, linewidth=width)
        panel.axvline(TRUTH, color="0.2", linewidth=1)
        panel.set(title=f"{name}: {(~hits).sum()} of 40 miss", yticks=[], xlim=(-1.6, 3.6))
        panel.set_xlabel("gain (points)")
    text = f"Forty intervals for {seeds} seeds: " + ", ".join(p.get_title() for p in panels)
    show(figure, alt=text, reading="Thick and vermilion: a miss. The black line is the truth.")


# %%
seeds = ipywidgets.SelectionSlider(options=SEEDS, description="seeds", continuous_update=False)
_ = ipywidgets.interact(forest, seeds=seeds)

# %% [markdown]
# ## Stretch exercise: how many seeds?
#
# `seeds_needed(spread, resolution)`: differences scatter with the standard deviation `spread`. What
# is the smallest $n \ge 2$ for which $t \cdot spread / \sqrt n$ is at most `resolution`? Here $t$ is
# `scipy.stats.t.ppf(0.975, n - 1)`.
#
# <details><summary>Hint 1: no formula</summary>
#
# $t$ itself depends on $n$, so there is nothing to
# solve for. Try them in turn.
#
# </details>
#
# <details><summary>Hint 2: a loop</summary>
#
# Begin with `n = 2`; `while` the half width is still too
# large, add one.
#
# </details>
#
# <details><summary>Hint 3: the half width</summary>
#
# `stats.t.ppf(0.975, n - 1) * spread / n**0.5`,
# after `from scipy import stats`.
#
# </details>


# %% tags=["exercise"]
def seeds_needed(spread, resolution):
    """The fewest seeds whose 95% t-interval reaches at most `resolution` to either side."""
    # SOLUTION
    from scipy import stats

    n = 2
    while stats.t.ppf(0.975, n - 1) * spread / n**0.5 > resolution:
        n += 1
    return n
    # END


# %% tags=["check"]
checks.seeds_needed(seeds_needed)

# %%
from akt_lab.analysis.intervals import seeds_needed as enough

for key, rows in studies.items():
    spread = rows["gain"].std()
    wanted = ", ".join(f"{enough(spread, r)} for ±{r} points" for r in (1, 0.5, 0.2))
    print(f"{' '.join(key):28} gains scatter by {spread:.2f} points: {wanted}")

# %% [markdown]
# Most gains in the paper's table at 4 and 5 bits are below half a point.
#
# ## Trap 1: the best epoch
#
# The released code reports the **best epoch on the test images**. That is a choice made with the
# answers in hand, and the more often one looks, the higher it gets. Suppose that a student's
# accuracy has a level and wobbles about it from epoch to epoch by 0.3 points:

# %%
looks = 2 ** np.arange(10)
wobble = rng.normal(0, 0.3, size=(EXPERIMENTS, looks[-1]))
flattery = [wobble[:, :k].max(axis=1).mean() for k in looks]
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.plot(looks, flattery, "o-", color="#0072b2")
axes.set(xlabel="evaluations to choose from", ylabel="best minus level\n(points)", xscale="log")
axes.set_xticks(looks, looks)
axes.minorticks_off()
ours = (runs["best"] - runs["last"]).dropna()
show(figure, alt=f"The best of {looks[-1]} looks is {flattery[-1]:.2f} points above the level.",
     reading=f"Nothing was learned. Our own runs: best minus last, {ours.mean():.2f} on average.")  # fmt: skip

# %% [markdown]
# The same trap has a second door: twenty comparisons at 95% give one false alarm on average, even
# if no method differs from any other.
#
# ## Trap 2: the budget
#
# A method that was trained on more images may win for that reason alone.

# %%
from akt_lab.figures.training import curves
from akt_lab.runs.results import read

published = {
    r["method"]: r for r in tables.reference() if r["bench"] == "cifar10" and r["bits"] == "3"
}
images = {name: int(published[name]["student_images"]) for name in ("adadfq", "adadfq+akt")}
for name, count in images.items():
    print(f"{name:11} {count:>9,} images   {published[name]['top1']}% in the paper's table")
print(f"AKT's students had {images['adadfq+akt'] / images['adadfq']:.1f} times as many.")
lines = [line for f in files if f.name == "photographs.jsonl" for line in read(f)]
drawing = curves(lines)
show(drawing.figure, alt=drawing.alt,
     reading="Equal budgets here. Where a curve has not levelled off, the end is a choice, too.")  # fmt: skip

# %% [markdown]
# Those budgets are what the two released configurations say. That the extra images explain the
# gain is *not* shown by this; nor is that they do not.
#
# ## Trap 3: the test images
#
# Seeds are one source of chance. The other: these test images, and not others. For an accuracy $p$
# on $m$ images the **Wilson interval** tells how much. Let us see it at work: one network, never
# changed, judged on 400 random handfuls of its test images.

# %%
import torch

from akt_lab.benches import BenchSpec, load_bench

bench = load_bench(BenchSpec(BENCH))
with torch.no_grad():
    right = [bench.teacher(x).argmax(1) == labels for x, labels in bench.batches()]
right = 100 * torch.cat(right).numpy()  # 100 or 0 for each test image
scores = rng.choice(right, size=(400, HANDFUL)).mean(axis=1)
ends = np.array([proportion_interval(score, HANDFUL) for score in scores])
print(
    f"all {len(right)} images: {right.mean():.1f}%. Handfuls: {scores.min():.0f} to {scores.max():.0f}%"
)
print(
    f"{100 * covers(ends, right.mean()).mean():.0f}% of their Wilson intervals hold the {right.mean():.1f}%"
)

# %%
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
counts = np.geomspace(50, 50_000, 60).astype(int)
halves = {}
for percent, colour, dash in ((80, "#d55e00", "--"), (99, "#0072b2", "-")):
    half = [np.diff(proportion_interval(percent, m))[0] / 2 for m in counts]
    axes.plot(counts, half, dash, color=colour, label=f"accuracy {percent}%")
    for m, marker in ((len(right), "o"), (tables.PAPER_IMAGES, "s")):
        halves[percent, m] = np.diff(proportion_interval(percent, m))[0] / 2
        axes.plot(m, halves[percent, m], marker, color=colour)
axes.set(xlabel="test images", ylabel="half the interval\n(points)", xscale="log", ylim=0)
axes.xaxis.set_major_formatter("{x:,g}")
axes.legend(frameon=False)
text = ", ".join(f"±{h:.1f} at {p}% of {m:,} images" for (p, m), h in halves.items())
show(figure, alt=f"Wilson's half width falls with the number of images: {text}.",
     reading=f"Circles: our bench; squares: CIFAR's test set. {text}.")  # fmt: skip

# %% [markdown]
# The intervals over seeds above know nothing of this: all runs were judged on the same images. (In
# a difference of two networks on the *same* images, a part of it cancels.)
#
# ## You are the judge
#
# Four claims, the paper's or behind its method, and what was measured for each. **Undecided** is a verdict, too, and
# often the right one. First the gradients: do they *explode* at low bits under plain distillation,
# and does AKT calm them? Then the error of a rounded feature map: which part of it is the costly
# one?

# %%
from akt_lab.figures.error_cost import draw_error_cost
from akt_lab.figures.gradients import draw_gradients_by_bits

data = {file.stem: pd.read_csv(file) for file in find("figures", "*.csv")}
if "gradients_by_bits" in data:
    drawing = draw_gradients_by_bits(data["gradients_by_bits"], about="")
    show(drawing.figure, alt=drawing.alt,
         reading="A run's worst step over its usual one: with its first steps, and without.")  # fmt: skip
if "error_cost" in data:
    drawing = draw_error_cost(data["error_cost"], about="")
    show(drawing.figure, alt=drawing.alt, reading="Dear per square is not dear in sum: see both.")
if not data:
    print("No figures/*.csv: judge claim 1 by notebook 2, claim 2 by notebook 5, claim 3 by 7.")

# %% [markdown]
# And last: does AKT raise the accuracy? Every row below is a comparison at equal settings and
# budget, by the last epoch, with Student's t. Mind how many rows there are.

# %%
from akt_lab.figures.table import gains as gain_plot

drawing = gain_plot(cells)
gained = drawing.data
show(drawing.figure, alt=drawing.alt,
     reading="Right of the line: AKT is ahead. Long bars may run beyond the frame.")  # fmt: skip

# %%
CLAIMS = (
    "1. With plain distillation, gradients explode at low bits.",
    "2. AKT calms them.",
    "3. (behind the method) Errors in attention are the costly ones.",
    "4. AKT improves accuracy at 3 to 5 bits.",
)
WORDS = ("choose", "supported", "contradicted", "undecided")
judged = {claim: ipywidgets.Dropdown(options=WORDS, description=claim) for claim in CLAIMS}
for menu in judged.values():
    menu.style.description_width, menu.layout.width = "30em", "42em"
ipywidgets.VBox(list(judged.values()))

# %% [markdown]
# For each: at which bits, on which bench, with how many seeds would you say so in public? **Run the
# next cell only when you have chosen.**

# %%
from akt_lab.analysis.claims import judge

print("You:", *(f"   {claim} {menu.value}" for claim, menu in judged.items()), sep="\n")
print("\nakt_lab:")
if not data:
    print("   claims 1 to 3: no figures/ here; `akt-lab figures` makes them")
else:
    for verdict in judge(find("figures", "*.csv")[0].parent):
        print(f"   {verdict.claim}: {verdict.word}. {verdict.numbers}")
for row in gained.itertuples():
    ends = f"{row.gain_last:+.2f} ({row.gain_last_low:+.2f} to {row.gain_last_high:+.2f})"
    print(f"   {row.name}: {row.verdict}, {ends}")

# %% [markdown]
# The package has one rule for claims 1 to 3: an effect, its interval, and a margin below which nobody
# would mind. The whole interval above the margin: `supported`; below it: `contradicted`; in between, or
# with one seed: `undecided`. Where several bit-widths are compared, intervals are wider (Holm). `helps`:
# Student's interval lies above 0. Where you differ, whose rule is better? `akt-lab verdicts` judges claim
# 4 by the same rule, says for which margins each word holds, and what would decide the rest.
#
# ## What would prove this wrong?
#
# The mean gain does not depend on who is whose partner, but its *interval* does: it is narrow only if
# the same seed makes a *pair*. If the seed decided nothing that both share, pairing would bring
# nothing and cost degrees of freedom. How would you find out with
# what is in `photographs`? (Shuffle the partners, and compare the spread of the differences.) And
# which single further experiment would most likely overturn your verdict on claim 4: more seeds,
# more images, another teacher, or another bit-width?
#
# ## Recap
#
# - Compare runs that differ in one thing. Settings, teacher and budget are three others.
# - Pairs by seed remove what the two runs share.
# - The bootstrap needs a sample; with three pairs its ends are the smallest and the largest.
#   Student's t is wide there, and for bell-shaped differences it keeps its promise.
# - The best epoch flatters, many comparisons raise false alarms, test images are a sample.
# - A claim is supported, contradicted, or undecided: at some bits, on some bench, at some budget.
#
# **Next:** the shape of the loss, and what each part of the error costs there.
