// (b) Bits, range rule and clip, live: the staircase, the levels, the error at every clip.

const RULES = {
  minmax: "the extremes so far",
  ema: "moving average of extremes",
  ema_legacy: "the same, as the papers' code has it",
  pnorm: "where the error is least",
  per_channel_dynamic: "each channel its own",
};
const CLIPS = Array.from({ length: 24 }, (_, n) => Number((0.05 * (n + 1)).toFixed(2)));
const LOWEST = 1e-3, HIGHEST = 300; // percent of error

class Rounding {
  // Numbers of one layer (rows of `width`), and what a grid makes of them.
  constructor({ name, rows, ranges }) {
    this.name = name;
    this.values = decoded(rows.data, rows.kind);
    this.width = rows.shape[1];
    this.ranges = Object.fromEntries(
      Object.entries(ranges).map(([rule, pair]) => [rule, decoded(pair.data, pair.kind)]));
    const [low, high] = extremes(this.values), margin = 0.15 * (high - low);
    this.span = [low - margin, high + margin];
    this.square = this.values.reduce((sum, x) => sum + x * x, 0);
    this.chosen = new Map();
  }

  range(rule, bits, seen) {
    // [low, high], or one for each row.
    if (rule === "pnorm") {
      if (!this.chosen.has(bits)) this.chosen.set(bits, pnormRange(this.values, bits));
      return this.chosen.get(bits);
    }
    const pair = this.ranges[rule];
    if (rule !== "per_channel_dynamic") return [pair[2 * seen - 2], pair[2 * seen - 1]];
    return Array.from({ length: pair.length / 2 }, (_, r) => [pair[2 * r], pair[2 * r + 1]]);
  }

  look({ rule, bits, seen, clip }) {
    const ends = this.range(rule, bits, seen), live = Array.isArray(ends[0]);
    const widest = live ? ends.reduce((a, b) => (b[1] - b[0] > a[1] - a[0] ? b : a)) : ends;
    return {
      grid: gridOf(widest.map((end) => end * clip), bits),
      errors: CLIPS.map((share) => this.error(ends, bits, share)),
      error: this.error(ends, bits, clip),
      beyond: this.beyond(ends, clip),
    };
  }

  error(ends, bits, clip) {
    // Mean squared error, in percent of the numbers' mean square.
    let sum = 0;
    this.byGrid(ends, bits, clip, (x, grid) => { sum += (fakeQuantize(x, grid) - x) ** 2; });
    return (100 * sum) / this.square;
  }

  beyond(ends, clip) {
    // Percent of the numbers outside the range.
    let count = 0;
    const live = Array.isArray(ends[0]);
    this.values.forEach((x, i) => {
      const [low, high] = live ? ends[Math.floor(i / this.width)] : ends;
      if (x < Math.min(0, low * clip) || x > Math.max(0, high * clip)) count++;
    });
    return (100 * count) / this.values.length;
  }

  byGrid(ends, bits, clip, visit) {
    const live = Array.isArray(ends[0]);
    const grids = (live ? ends : [ends]).map((pair) => gridOf(pair.map((end) => end * clip), bits));
    this.values.forEach((x, i) => visit(x, grids[live ? Math.floor(i / this.width) : 0]));
  }
}

function roundNumbers(data) {
  const all = data.numbers.map((numbers) => new Rounding(numbers));
  const now = { which: 1, bits: 3, rule: "ema", clip: 1, seen: 10 };
  const change = (name) => (value) => { now[name] = value; show(); };
  const controls = $("round-controls");
  menu(controls, "numbers", all.map(({ name }, i) => [String(i), capital(name)]), String(now.which),
    (value) => change("which")(Number(value)));
  choice(controls, "bits", [2, 3, 4, 5, 6, 8].map((b) => [b, String(b)]), now.bits, change("bits"));
  menu(controls, "range", Object.entries(RULES), now.rule, change("rule"));
  const seen = slider(controls, "batches seen", [1, 20, 1], now.seen, String, change("seen"));
  const clip = slider(controls, "clip: share of the range", [0.05, 1.2, 0.05], 1,
    (share) => percent(share), change("clip"));
  const host = $("round-plots");
  const places = [
    figure(host, "Where each number goes", [["teacher", "the grid"], ["quiet dashed", "unrounded"]]),
    figure(host, "How many there are, and the levels",
      [["box pale fill", "numbers"], ["teacher", "levels"]]),
    figure(host, "Error at every clip",
      [["student", "error"], ["student dotted", "the least"]], "Drag in it to move the clip."),
  ];

  function show() {
    const numbers = all[now.which], view = numbers.look(now);
    seen.field.hidden = ["pnorm", "per_channel_dynamic"].includes(now.rule);
    const best = view.errors.indexOf(Math.min(...view.errors));
    const levels = levelsOf(view.grid).filter((v) => v >= numbers.span[0] && v <= numbers.span[1]);
    $("round-reading").textContent =
      `${capital(numbers.name)}, ${now.bits} bits: ${2 ** now.bits} levels, ${levels.length} of them where ` +
      `the numbers are. Squared error ${short(view.error)}% with the clip at ${percent(now.clip)}, ` +
      `where ${short(view.beyond)}% of the numbers lie beyond the range. Least error: ` +
      `${short(view.errors[best])}% with the clip at ${percent(CLIPS[best])}.`;
    drawStairs(places[0], numbers, view);
    drawCounts(places[1], numbers, levels);
    drawErrors(places[2], now.clip, view, best, clip.set);
  }

  return show;
}

function valueAxis(span, label) {
  return { domain: span, label, ticks: evenly(...span, stepFor(span[1] - span[0])) };
}

function drawStairs(place, { span }, { grid }) {
  const axis = valueAxis(span, "before"), count = 600;
  const plot = new Plot(place, { x: axis, y: axis,
    words: `A staircase of step ${short(grid.scale)}: what each number becomes.` });
  const stairs = Array.from({ length: count + 1 }, (_, i) => {
    const x = span[0] + ((span[1] - span[0]) * i) / count;
    return [x, fakeQuantize(x, grid)];
  });
  plot.line([[span[0], span[0]], [span[1], span[1]]], "quiet dashed");
  plot.line(stairs, "teacher");
}

function drawCounts(place, { span, values }, levels) {
  const bins = 60, counts = new Array(bins).fill(0);
  for (const x of values)
    counts[Math.min(bins - 1, Math.floor((bins * (x - span[0])) / (span[1] - span[0])))]++;
  const most = 1.5 * Math.max(...counts);
  const plot = new Plot(place, { x: valueAxis(span, "value"),
    y: { domain: [0.7, most], log: true, ticks: decades(1, most) },
    words: `A histogram of ${values.length} numbers, and ${levels.length} levels.` });
  const edge = (i) => span[0] + ((span[1] - span[0]) * i) / bins;
  counts.forEach((count, i) => count && plot.box(edge(i), edge(i + 1), count, "pale fill"));
  for (const level of levels) plot.line([[level, 0.7], [level, most]], "teacher");
}

function drawErrors(place, clip, { errors, error }, best, moved) {
  const plot = new Plot(place, {
    x: { domain: [0, 1.25], label: "clip", ticks: evenly(0, 1.2, 0.4, (v) => percent(v)) },
    y: { domain: [LOWEST, HIGHEST], log: true,
      ticks: [[0.01, "0.01%"], [0.1, "0.1%"], [1, "1%"], [10, "10%"], [100, "100%"]] },
    words: `Error at every clip: least ${short(errors[best])}% at ${percent(CLIPS[best])}, now ` +
      `${short(error)}% at ${percent(clip)}.` });
  plot.line([[CLIPS[best], LOWEST], [CLIPS[best], errors[best]]], "student dotted");
  plot.line(CLIPS.map((share, i) => [share, errors[i]]), "student");
  plot.dot(clip, error, "student fill", 6);
  plot.dragged((value) => moved(Math.min(Math.max(value, 0.05), 1.2)));
}
