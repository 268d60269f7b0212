// What all four pictures are drawn with: elements, controls, heat maps, plots.

const $ = (id) => document.getElementById(id);
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;

const capital = (words) => words[0].toUpperCase() + words.slice(1);

function short(x) {
  // Three digits that count.
  if (!Number.isFinite(x)) return "not finite";
  const size = Math.abs(x);
  if (size >= 1000) return x.toFixed(0);
  return size !== 0 && size < 0.001 ? x.toExponential(1) : String(Number(x.toPrecision(3)));
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  return dressed(node, attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return dressed(node, attributes, children);
}

function dressed(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// ---- controls -----------------------------------------------------------------------------------

let named = 0;

function choice(host, legend, options, chosen, changed) {
  // A row of radio buttons; options are [value, label].
  const name = `choice-${named++}`;
  const buttons = options.map(([value, label]) =>
    make("label", {},
      make("input", { type: "radio", name, value, checked: value === chosen,
        onchange: () => changed(value) }),
      make("span", {}, label)));
  host.append(make("fieldset", {}, make("legend", {}, legend),
    make("div", { class: "options" }, ...buttons)));
}

function menu(host, label, options, chosen, changed) {
  const id = `menu-${named++}`;
  const items = options.map(([value, text]) =>
    make("option", { value, selected: value === chosen }, text));
  const select = make("select", { id, onchange: () => changed(select.value) }, ...items);
  host.append(make("div", { class: "field menu" }, make("label", { for: id }, label), select));
  return select;
}

function slider(host, label, [low, high, step], value, words, changed, wide = false) {
  // Gives a function that sets it; `words` says a value.
  const id = `slider-${named++}`, shown = make("output", { for: id });
  const input = make("input", { type: "range", id, min: low, max: high, step, value });
  const field = make("div", { class: wide ? "field wide" : "field" },
    make("label", { for: id }, label, " ", shown), input);
  const tell = () => {
    shown.textContent = words(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => { tell(); changed(Number(input.value)); });
  tell();
  host.append(field);
  const set = (v) => {
    input.value = v;
    tell();
    changed(Number(input.value));
  };
  return { set, input, field };
}

function button(host, label, pressed) {
  const node = make("button", { type: "button", onclick: pressed }, label);
  host.append(node);
  return node;
}

// ---- colours ------------------------------------------------------------------------------------

const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74",
  "#c3b369", "#e1cc55", "#fee838"].map(rgb);

function rgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function between(a, b, t) {
  return a.map((v, i) => v + (b[i] - v) * t);
}

function cividis(t) {
  const place = Math.min(Math.max(t, 0), 1) * (CIVIDIS.length - 1), low = Math.floor(place);
  return between(CIVIDIS[low], CIVIDIS[Math.min(low + 1, CIVIDIS.length - 1)], place - low);
}

const grey = (t) => [255 * t, 255 * t, 255 * t];

function ink(name) {
  return rgb(getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
}

function signed() {
  // From -1, the teacher's colour, over nothing to 1, the student's.
  const [less, none, more] = ["teacher", "middle", "student"].map(ink);
  return (t) => between(none, t < 0 ? less : more, Math.min(Math.abs(t), 1));
}

function heat(canvas, values, columns, colour, words) {
  // A pixel a value, row by row.
  const rows = values.length / columns;
  canvas.width = columns;
  canvas.height = rows;
  const image = new ImageData(columns, rows);
  for (let i = 0; i < values.length; i++) {
    image.data.set(colour(values[i]), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  if (words) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", words);
  }
}

// ---- plots --------------------------------------------------------------------------------------

const MARGIN = { left: 46, right: 10, top: 8, bottom: 38 };

class Plot {
  // Axes in an SVG as wide as its place, in real pixels, so that text keeps its size on a phone.
  constructor(host, { x, y, height = 230, words }) {
    // x and y: {domain: [low, high], log, label, ticks: [[value, text], ...]}
    const width = Math.max(host.clientWidth, 200);
    this.x = x;
    this.y = y;
    this.right = width - MARGIN.right;
    this.bottom = height - MARGIN.bottom;
    this.svg = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
      "aria-label": words });
    for (const [value, text] of x.ticks) {
      const at = this.across(value);
      this.svg.append(svg("line", { class: "grid", x1: at, x2: at, y1: MARGIN.top, y2: this.bottom }),
        svg("text", { x: at, y: this.bottom + 16, "text-anchor": "middle" }, text));
    }
    for (const [value, text] of y.ticks) {
      const at = this.up(value);
      this.svg.append(svg("line", { class: "grid", x1: MARGIN.left, x2: this.right, y1: at, y2: at }),
        svg("text", { x: MARGIN.left - 7, y: at + 4, "text-anchor": "end" }, text));
    }
    this.svg.append(
      svg("line", { class: "axis", x1: MARGIN.left, x2: this.right, y1: this.bottom, y2: this.bottom }),
      svg("text", { x: this.right, y: height - 4, "text-anchor": "end" }, x.label));
    host.replaceChildren(this.svg);
  }

  across(value) {
    return MARGIN.left + share(this.x, value) * (this.right - MARGIN.left);
  }

  up(value) {
    return this.bottom - share(this.y, value) * (this.bottom - MARGIN.top);
  }

  value(event) {
    // What a pointer's place is on the x axis.
    const box = this.svg.getBoundingClientRect();
    const at = (event.clientX - box.left - MARGIN.left) / (this.right - MARGIN.left);
    const [low, high] = this.x.domain;
    return low + Math.min(Math.max(at, 0), 1) * (high - low);
  }

  line(points, kind) {
    const path = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y))
      .map(([x, y], i) => `${i ? "L" : "M"}${this.across(x).toFixed(1)} ${this.up(y).toFixed(1)}`);
    this.svg.append(svg("path", { class: `line ${kind}`, d: path.join("") }));
  }

  mark(x) {
    const at = this.across(x);
    this.svg.append(svg("line", { class: "mark", x1: at, x2: at, y1: MARGIN.top, y2: this.bottom }));
  }

  dot(x, y, kind, radius = 4.5) {
    this.svg.append(svg("circle", { class: kind, cx: this.across(x), cy: this.up(y), r: radius }));
  }

  square(x, y, kind, side = 8) {
    this.svg.append(svg("rect", { class: kind, x: this.across(x) - side / 2,
      y: this.up(y) - side / 2, width: side, height: side }));
  }

  box(x1, x2, y, kind, inset = 0) {
    const left = this.across(x1) + inset, top = this.up(y);
    this.svg.append(svg("rect", { class: kind, x: left, y: top,
      width: Math.max(this.across(x2) - inset - left, 0.5), height: Math.max(this.bottom - top, 0) }));
  }

  dragged(moved) {
    // A click, or a drag, on the plot.
    this.svg.classList.add("live");
    const follow = (event) => moved(this.value(event));
    this.svg.addEventListener("pointerdown", follow);
    this.svg.addEventListener("pointermove", (event) => event.buttons && follow(event));
  }
}

function share({ domain: [low, high], log }, value) {
  const [a, b, v] = log ? [low, high, Math.max(value, 1e-30)].map(Math.log10) : [low, high, value];
  return Math.min(Math.max((v - a) / (b - a), 0), 1);
}

function evenly(low, high, step, words = short) {
  const ticks = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step)
    ticks.push([v, words(Number(v.toPrecision(6)))]);
  return ticks;
}

function stepFor(width, least = 4) {
  // 1, 2 or 5 times a power of ten, at least so many in a width.
  const power = 10 ** Math.floor(Math.log10(width / least));
  return [5, 2, 1].map((n) => n * power).find((step) => width / step >= least);
}

function decades(low, high) {
  const ticks = [];
  for (let n = Math.ceil(Math.log10(low)); n <= Math.log10(high) + 1e-9; n++)
    ticks.push([10 ** n, n >= -3 && n <= 3 ? String(10 ** n) : `1e${n}`]);
  return ticks;
}

function key(...entries) {
  // [class of a line, or "dot ..." or "square ...", words]
  return make("p", { class: "key" }, ...entries.map(([kind, words]) => {
    const sample = kind.startsWith("box")
      ? svg("rect", { class: kind, x: 8, y: 1, width: 14, height: 9 })
      : svg("path", { class: `line ${kind}`, d: "M1 6H29" });
    return make("span", {},
      svg("svg", { viewBox: "0 0 30 12", "aria-hidden": "true" }, sample), words);
  }));
}

function figure(host, title, entries, caption = "") {
  // A place for a picture, with its title above and its words below.
  const place = make("div");
  host.append(make("figure", {}, make("h3", {}, title), ...(entries.length ? [key(...entries)] : []),
    place, ...(caption ? [make("figcaption", {}, caption)] : [])));
  return place;
}
