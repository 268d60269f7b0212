// (a) Teacher and students answer as one draws; where each looks, and at which channels.

const RANGES = { "": "usual range", "-pnorm": "range of least error" };

class Digits {
  // Test images and networks; a network is read when it is first asked.
  constructor({ images, labels, mean, std, teacher, students, bits }) {
    this.pixels = decoded(images.data, images.kind);
    Object.assign(this, { labels, bits, known: { teacher } });
    [this.mean, this.std] = [mean, std].map(Math.fround); // as the networks' own input is
    for (const [kind, byBits] of Object.entries(students))
      for (const [width, student] of Object.entries(byBits)) this.known[`${kind} ${width}`] = student;
    this.networks = new Map();
  }

  image(index) {
    return this.pixels.subarray(256 * index, 256 * (index + 1));
  }

  run(name, bytes) {
    // What a network gives for an image, 256 bytes: its logits, and a map of each layer.
    if (!this.networks.has(name)) this.networks.set(name, new Network(this.known[name].graph));
    const data = Float32Array.from(bytes, (v) =>
      Math.fround(Math.fround(Math.fround(v / 255) - this.mean) / this.std));
    const values = this.networks.get(name).run({ shape: [1, 1, 16, 16], data });
    const logits = values.get("logits").data, chances = softmax(logits);
    const answer = chances.indexOf(Math.max(...chances));
    const maps = this.known[name].maps.map((layer) => values.get(`map/${layer}`));
    return { logits, chances, answer, maps };
  }
}

function drawADigit(data) {
  const digits = new Digits(data);
  const now = { index: null, bytes: null, kind: "rounded", ranges: "", bits: 2, layer: 1 };
  const selected = () => `${now.kind}${now.ranges} ${now.bits}`;
  const called = () => `the ${now.bits}-bit student with the ${RANGES[now.ranges]}`;
  const pad = new Pad($("pad"), (bytes) => {
    Object.assign(now, { index: null, bytes });
    soon();
  });
  let waiting = false;

  function soon() {
    // Once a frame, however fast one draws.
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; show(); });
  }

  function open(index) {
    Object.assign(now, { index, bytes: digits.image(index) });
    pad.show(now.bytes);
    show();
  }

  function next(indices) {
    open(indices.find((i) => i > (now.index ?? -1)) ?? indices[0]);
  }

  const buttons = $("draw-buttons");
  const nextWrong = button(buttons, "", () => next(digits.known[selected()].wrong));
  button(buttons, "Next test image", () => next(digits.labels.map((_, i) => i)));
  button(buttons, "Clear", () => pad.clear());
  const answers = answerTable($("answers"), digits, now, soon);
  choice($("layer-controls"), "where and at what they look, after",
    [[0, "unit 1"], [1, "unit 2"], [2, "unit 3"]], now.layer, (layer) => {
      now.layer = layer;
      soon();
    });
  const looks = ["Where the teacher looks", "Where the student looks",
    "Difference: orange, the student looks there more; blue, less"].map((title) => {
    const canvas = make("canvas", { role: "img" });
    $("looks").append(make("figure", {}, canvas, make("figcaption", {}, title)));
    return canvas;
  });
  const both = [["box teacher fill", "teacher"], ["box student fill", "student"]];
  const plots = [
    figure($("draw-plots"), "At which channels they look", both),
    figure($("draw-plots"), "Which digit they see", both),
  ];

  function show() {
    answers.fill();
    const count = digits.known[selected()].wrong.length;
    nextWrong.disabled = !count;
    nextWrong.textContent = count
      ? `Next that the marked student gets wrong (${count})` : "The marked student gets none wrong";
    const bytes = now.bytes ?? new Uint8Array(256);
    heat($("seen"), Array.from(bytes, (v) => v / 255), 16, grey, "The image as the networks see it.");
    const told = now.index === null ? now.bytes ? "your drawing" : "nothing yet"
      : `test image ${now.index + 1} of ${digits.labels.length}, a ${digits.labels[now.index]}`;
    $("seen-words").textContent = `What the networks see, 16 x 16: ${told}.`;
    const teacher = digits.run("teacher", bytes), student = digits.run(selected(), bytes);
    showLooks(teacher, student);
    plots.forEach((place, i) => {
      const of = ({ maps, chances }) => (i ? chances : channelAttention(maps[now.layer]));
      paired(place, of(teacher), of(student), i ? "digit" : "channel");
    });
  }

  function showLooks(teacher, student) {
    const maps = [teacher, student].map(({ maps }) => maps[now.layer]);
    const [t, s] = maps.map(spatialAttention), columns = maps[0].shape[3];
    const most = Math.max(...t, ...s) || 1, difference = s.map((v, i) => v - t[i]);
    const widest = Math.max(...difference.map(Math.abs));
    const at = (values) => `row ${1 + Math.floor(values.indexOf(Math.max(...values)) / columns)}, ` +
      `column ${1 + (values.indexOf(Math.max(...values)) % columns)}`;
    heat(looks[0], t.map((v) => v / most), columns, cividis, `Teacher: most at ${at(t)}.`);
    heat(looks[1], s.map((v) => v / most), columns, cividis, `Student: most at ${at(s)}.`);
    heat(looks[2], difference.map((v) => v / most), columns, signed(),
      `Student less teacher: the largest difference is ${short(widest / most)} of the most.`);
    const apart = attentionDivergence(...maps);
    $("draw-reading").textContent = now.bytes
      ? `The teacher says ${teacher.answer} (${percent(Math.max(...teacher.chances))}), ${called()} ` +
        `${student.answer} (${percent(Math.max(...student.chances))}). After unit ${now.layer + 1} ` +
        `their attention differs by ${short(apart.spatial)} nats in space and ` +
        `${short(apart.channel)} over channels.`
      : "Draw a digit, or take a test image.";
  }

  const [few] = digits.bits.slice(-1), right = (kind) => data.students[kind][few].accuracy;
  $("draw").querySelector(".point").textContent =
    `Bits are one thing, where the grid ends is another. At ${few} bits, rounding alone leaves ` +
    `${right("rounded").toFixed(1)}% of ${digits.labels.length} test images right with the usual ` +
    `range, and ${right("rounded-pnorm").toFixed(1)}% with the range that errs least; after ` +
    `training without data, ${right("plain").toFixed(1)}% and ${right("plain-pnorm").toFixed(1)}%. ` +
    `The teacher: ${data.teacher.accuracy.toFixed(1)}%.`;
  next(digits.known[selected()].wrong.length ? digits.known[selected()].wrong : [0]);
  return show;
}

function answerTable(host, digits, now, changed) {
  // The teacher's answer, and below it those of six students, of which one is looked at.
  const cell = (teacher, ...more) => {
    const parts = { digit: make("b", { class: "digit" }), bar: make("i"),
      says: make("span", { class: "says" }) };
    const node = make(teacher ? "div" : "label", { class: teacher ? "answer teacher" : "answer" },
      parts.digit, make("span", {}, make("span", { class: "bar" }, parts.bar), parts.says), ...more);
    return { node, ...parts };
  };
  const teacher = cell(true), cells = [];
  const rows = digits.bits.map((bits) => make("tr", {}, make("th", { scope: "row" }, `${bits} bits`),
    ...Object.keys(RANGES).map((ranges) => {
      const radio = make("input", { type: "radio", name: "student",
        "aria-label": `look at the ${bits}-bit student, ${RANGES[ranges]}`,
        checked: bits === now.bits && ranges === now.ranges,
        onchange: () => { Object.assign(now, { bits, ranges }); changed(); } });
      const made = cell(false, radio);
      cells.push({ bits, ranges, ...made });
      return make("td", {}, made.node);
    })));
  const controls = make("div", { class: "controls" });
  choice(controls, "students", [["rounded", "only rounded"], ["plain", "trained without data"]],
    now.kind, (kind) => { now.kind = kind; changed(); });
  host.append(controls, make("h3", {}, "Teacher"), teacher.node, make("p"),
    make("table", {}, make("caption", {}, "Students: choose one to look at"),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, make("span", { class: "help" }, "bits")),
        ...Object.values(RANGES).map((words) => make("th", { scope: "col" }, words)))),
      make("tbody", {}, ...rows)));

  function put({ node, digit, bar, says }, name, truth) {
    if (!now.bytes) {
      digit.textContent = "–";
      bar.style.width = "0";
      says.textContent = "waits";
      node.classList.remove("apart");
      return null;
    }
    const { answer, chances } = digits.run(name, now.bytes);
    digit.textContent = answer;
    bar.style.width = percent(chances[answer]);
    const apart = truth !== null && answer !== truth;
    const verdict = now.index === null ? (apart ? "≠ teacher" : "") : apart ? "✗ wrong" : "✓ right";
    says.textContent = `${percent(chances[answer])} ${verdict}`;
    node.classList.toggle("apart", apart);
    return answer;
  }

  return {
    fill() {
      const truth = now.index === null ? null : digits.labels[now.index];
      const answer = put(teacher, "teacher", truth);
      for (const one of cells) put(one, `${now.kind}${one.ranges} ${one.bits}`, truth ?? answer);
    },
  };
}

function paired(place, teacher, student, label) {
  // Two bars for each of some places.
  const count = teacher.length, most = Math.max(...teacher, ...student, 1e-9);
  const first = label === "digit" ? 0 : 1, apart = count > 16 ? 4 : count > 10 ? 2 : 1;
  const top = label === "digit" ? 1 : 1.1 * most;
  const ticks = [];
  for (let i = 0; i < count; i += apart) ticks.push([i + 0.5, String(i + first)]);
  const most_of = (values) => first + values.indexOf(Math.max(...values));
  const plot = new Plot(place, { height: 210,
    x: { domain: [0, count], label, ticks },
    y: { domain: [0, top], ticks: evenly(0, top, stepFor(top, 3), (v) => percent(v, top < 0.1 ? 1 : 0)) },
    words: `Shares by ${label}: the teacher's largest is ${percent(Math.max(...teacher))} for ` +
      `${most_of(teacher)}, the student's ${percent(Math.max(...student))} for ${most_of(student)}.` });
  const inset = count > 16 ? 0.5 : 1;
  for (let i = 0; i < count; i++) {
    plot.box(i + 0.1, i + 0.5, teacher[i], "teacher fill", inset / 2);
    plot.box(i + 0.5, i + 0.9, student[i], "student fill", inset / 2);
  }
}
