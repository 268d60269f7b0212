// (d) What a generator makes of noise, with and without each of its losses, epoch by epoch.

const SWITCHES = [["both", "teacher", "both losses"], ["class", "student dashed", "without statistics"],
  ["statistics", "third dotted", "without class"]];
const SIDE = 16, BETWEEN = 1; // pixels of an image; between two

function imagesFromNothing({ generators: { epochs, steps, bits, real, losses } }) {
  const now = { digit: 3, epoch: epochs };
  const controls = $("images-controls");
  choice(controls, "class", Array.from({ length: 10 }, (_, d) => [d, String(d)]), now.digit,
    (digit) => { now.digit = digit; show(); });
  const epoch = slider(controls, "epoch", [0, epochs, 1], epochs, (e) => (e ? String(e) : "0, untrained"),
    (e) => { now.epoch = e; show(); }, true);
  const words = { both: "Both losses", class: "Class loss alone", statistics: "Statistics loss alone" };
  const about = { both: "believed, and like the data inside the teacher",
    class: "the teacher believes the class", statistics: "batch norms see what they saw in training" };
  const rows = SWITCHES.map(([name]) => {
    const canvas = make("canvas"), told = make("p");
    $("images-rows").append(make("div", { class: "made" },
      make("div", {}, make("h3", {}, words[name]), make("p", {}, about[name])), canvas, told));
    return { name, canvas, told, pixels: decoded(losses[name].images.data, "uint8") };
  });
  const entries = SWITCHES.map(([, line, label]) => [line, label]);
  const places = [
    figure($("images-plots"), `What they are worth: accuracy of a ${bits}-bit student`,
      [...entries, ["quiet dashed", "real images"]],
      "Its ranges were observed on the images, and nothing was trained. Click to move the epoch."),
    figure($("images-plots"), "How far from the statistics, at this epoch",
      [...entries, ["quiet dashed", "real images"]], "Mismatch of each batch norm; lower is nearer."),
  ];

  function show() {
    const said = rows.map(({ name, canvas, told, pixels }) => {
      const { images: { shape: [, classes, count, bytes] }, belief, accuracy } = losses[name];
      const from = (now.epoch * classes + now.digit) * count * bytes;
      strip(canvas, pixels.subarray(from, from + count * bytes), count);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label",
        `${count} images of class ${now.digit}, epoch ${now.epoch}: ${words[name].toLowerCase()}.`);
      const sure = belief[now.epoch][now.digit];
      told.replaceChildren("believed to be a ", String(now.digit), ": ", make("b", {}, percent(sure)),
        make("br"), "student: ", make("b", {}, `${accuracy[now.epoch].toFixed(1)}%`));
      return `${words[name].toLowerCase()}, believed ${percent(sure)}, student ` +
        `${accuracy[now.epoch].toFixed(1)}%`;
    });
    $("images-reading").textContent = `Class ${now.digit}, epoch ${now.epoch} of ${epochs} ` +
      `(${steps} steps each): ${said.join("; ")}; on real images ${real.accuracy.toFixed(1)}%.`;
    drawWorth();
    drawMismatch();
  }

  function drawWorth() {
    const plot = new Plot(places[0], {
      x: { domain: [0, epochs], label: "epoch", ticks: evenly(0, epochs, stepFor(epochs)) },
      y: { domain: [0, 100], ticks: evenly(0, 100, 25, (v) => `${v}%`) },
      words: "Accuracy of the student by epoch. " + SWITCHES.map(([name, , label]) =>
        `${label}: ${losses[name].accuracy[epochs]}% at the end`).join("; ") + "." });
    plot.mark(now.epoch);
    plot.line([[0, real.accuracy], [epochs, real.accuracy]], "quiet dashed");
    for (const [name, line] of SWITCHES)
      plot.line(losses[name].accuracy.map((v, e) => [e, v]), line);
    plot.dragged((x) => epoch.set(Math.round(x)));
  }

  function drawMismatch() {
    const norms = real.mismatch.length, at = (name) => losses[name].mismatch[now.epoch];
    const all = [real.mismatch, ...SWITCHES.flatMap(([name]) => losses[name].mismatch)].flat();
    const low = 10 ** Math.floor(Math.log10(Math.min(...all)));
    const high = 10 ** Math.ceil(Math.log10(Math.max(...all)));
    const plot = new Plot(places[1], {
      x: { domain: [1, norms], label: "batch norm",
        ticks: Array.from({ length: norms }, (_, i) => [i + 1, String(i + 1)]) },
      y: { domain: [low, high], log: true, ticks: decades(low, high) },
      words: `Mismatch of ${norms} batch norms at epoch ${now.epoch}.` });
    plot.line(real.mismatch.map((v, i) => [i + 1, v]), "quiet dashed");
    for (const [name, line] of SWITCHES) plot.line(at(name).map((v, i) => [i + 1, v]), line);
  }

  const end = (name) => `${losses[name].accuracy[epochs].toFixed(0)}%`;
  const sure = losses.class.belief[epochs].reduce((a, b) => a + b, 0) / 10;
  $("images").querySelector(".point").textContent =
    `What a network believes in need not look like anything, and may be of use all the same. With ` +
    `the class loss alone the teacher gives an image's class ${percent(sure)} at the end, and a student whose ` +
    `ranges come from those images is right on ${end("class")} of real ones; with both losses on ` +
    `${end("both")}, and with real images on ${real.accuracy.toFixed(0)}%.`;
  return show;
}

function strip(canvas, bytes, count) {
  // Images side by side; two pixels of 4 bits in a byte.
  const wide = count * (SIDE + BETWEEN) - BETWEEN, values = new Array(wide * SIDE).fill(null);
  const each = bytes.length / count;
  for (let n = 0; n < count; n++)
    for (let i = 0; i < SIDE * SIDE; i++) {
      const byte = bytes[n * each + (i >> 1)], grey4 = i % 2 ? byte & 15 : byte >> 4;
      values[Math.floor(i / SIDE) * wide + n * (SIDE + BETWEEN) + (i % SIDE)] = grey4 / 15;
    }
  const paper = ink("paper");
  heat(canvas, values, wide, (v) => (v === null ? paper : grey(v)));
}
