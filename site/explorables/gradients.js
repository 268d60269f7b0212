// (c) Gradient norms of stored runs, layer by step, plain beside AKT at equal bits.

const EXPLOSION = 10; // times the median: as akt_lab/analysis/gradients.py calls one
const SIDES = [["plain", "teacher", "plain distillation"], ["akt", "student dashed", "with AKT"]];

function median(values) {
  const sorted = Float64Array.from(values).sort(), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

class Norms {
  // (layer, step); all layers together at each step, and the largest over the median.
  constructor({ kind, shape: [layers, steps], data }) {
    this.values = decoded(data, kind);
    this.steps = steps;
    this.together = Array.from({ length: steps }, (_, step) => {
      let sum = 0;
      for (let layer = 0; layer < layers; layer++) sum += this.values[layer * steps + step] ** 2;
      return Math.sqrt(sum);
    });
    this.ratio = Math.max(...this.together) / median(this.together);
    this.largest = this.together.indexOf(Math.max(...this.together));
  }

  at(step) {
    return Array.from({ length: this.values.length / this.steps },
      (_, layer) => this.values[layer * this.steps + step]);
  }
}

function watchGradients({ gradients: { layers, first, runs }, bits }) {
  const norms = Object.fromEntries(SIDES.map(([side]) => [side,
    Object.fromEntries(bits.map((b) => [b, new Norms(runs[side][b])]))]));
  const every = SIDES.flatMap(([side]) => bits.map((b) => norms[side][b]));
  const steps = Math.max(...every.map((n) => n.steps));
  const finite = (name) => every.flatMap((n) => Array.from(n[name]))
    .filter((v) => v > 0 && v < Infinity).sort((a, b) => a - b);
  const each = finite("values"), most = finite("together").at(-1);
  const low = 10 ** Math.floor(Math.log10(each[Math.floor(each.length / 100)]));
  const high = 10 ** Math.ceil(Math.log10(most));
  const shade = (v) => cividis(share({ domain: [low, high], log: true }, v));
  const few = Math.min(...bits), now = { bits: few, step: norms.plain[few].largest };
  const controls = $("gradients-controls");
  choice(controls, "bits", bits.map((b) => [b, String(b)]), now.bits,
    (b) => { now.bits = b; show(); });
  const scrubber = slider(controls, "step", [0, steps - 1, 1], now.step, (s) => String(s + 1),
    (s) => { now.step = s; show(); }, true);
  const maps = SIDES.map(([side, , words]) => {
    const canvas = make("canvas"), cursor = make("i");
    const map = make("div", { class: "map" }, canvas, cursor);
    const to = (event) => {
      const box = canvas.getBoundingClientRect();
      scrubber.set(Math.min(Math.floor((steps * (event.clientX - box.left)) / box.width), steps - 1));
    };
    canvas.addEventListener("pointerdown", to);
    canvas.addEventListener("pointermove", (event) => event.buttons && to(event));
    $("gradients-maps").append(make("figure", {}, make("h3", {}, capital(words)),
      map, make("figcaption", {}, "down: layers from input to output; across: steps")));
    return { side, words, canvas, cursor };
  });
  const colours = make("canvas", { "aria-hidden": "true" });
  heat(colours, Array.from({ length: 64 }, (_, i) => i / 63), 64, cividis);
  $("gradients-maps").after(make("p", { class: "scale" }, `norm ${short(low)}`, colours, short(high)));
  const lines = SIDES.map(([, line, words]) => [line, words]);
  const places = [figure($("gradients-plots"), "All layers together, at each step", lines),
    figure($("gradients-plots"), "Each layer, at this step", lines)];

  function show() {
    const pair = SIDES.map(([side]) => norms[side][now.bits]);
    const said = pair.map((n, i) => `${SIDES[i][2]}, norm ${short(n.together[now.step])} here, largest ` +
      `${n.ratio.toFixed(1)} times the median, at step ${n.largest + 1}`);
    $("gradients-reading").textContent = `${now.bits} bits, step ${now.step + 1} of ${steps} after the ` +
      `warm-up: ${said.join("; ")}.`;
    maps.forEach(({ words, canvas, cursor }, i) => {
      heat(canvas, Array.from(pair[i].values), pair[i].steps, shade,
        `Gradient norms of ${layers.length} layers over ${pair[i].steps} steps, ${words}, ` +
        `${now.bits} bits; largest step ${pair[i].largest + 1}.`);
      cursor.style.left = percent((now.step + 0.5) / steps, 3);
    });
    drawSteps(pair);
    drawLayers(pair);
  }

  function drawSteps(pair) {
    const plot = new Plot(places[0], {
      x: { domain: [1, steps], label: "step", ticks: evenly(1, steps, stepFor(steps)) },
      y: { domain: [low, high], log: true, ticks: decades(low, high) },
      words: `The norm of the whole gradient at each step; the scrubber is at ${now.step + 1}.` });
    plot.mark(now.step + 1);
    pair.forEach((n, i) => {
      plot.line(n.together.map((v, step) => [step + 1, Math.min(v, high)]), SIDES[i][1]);
      plot.dot(n.largest + 1, Math.min(n.together[n.largest], high), `${SIDES[i][1]} fill`);
    });
    plot.dragged((x) => scrubber.set(Math.round(x) - 1));
  }

  function drawLayers(pair) {
    const count = layers.length;
    const plot = new Plot(places[1], {
      x: { domain: [0.5, count + 0.5], label: "layer",
        ticks: layers.map((_, i) => [i + 1, String(i + 1)]) },
      y: { domain: [low, high], log: true, ticks: decades(low, high) },
      words: "The norm of each layer's gradient at this step." });
    pair.forEach((n, i) => {
      const points = n.at(now.step).map((v, layer) => [layer + 1, v]);
      plot.line(points, SIDES[i][1]);
      for (const [x, y] of points)
        if (i) plot.square(x, y, "student fill");
        else plot.dot(x, y, "teacher fill");
    });
  }

  const bursts = every.filter((n) => n.ratio > EXPLOSION).length;
  const largest = SIDES.map(([side]) => Math.max(...bits.map((b) => norms[side][b].ratio)).toFixed(1));
  $("gradients").querySelector(".point").textContent =
    `The paper says that few bits make gradients explode, and that AKT calms them. In ` +
    `${bursts || "none"} of these ${every.length} runs a step rises above ${EXPLOSION} times the run's ` +
    `median: at most ${largest[0]} times plain, ${largest[1]} times with AKT.`;
  return show;
}
