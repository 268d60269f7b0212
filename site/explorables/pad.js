// A drawing pad, and what becomes of a drawing: an image as scikit-learn's digits are.

const PAD = 320, PEN = 26, GRID = 32; // pixels; of the bitmap that a drawing is first put on
const STROKE = 4.2, ROOM = 27; // on that bitmap: a pen's width; how wide a digit may be
const STEP = PAD / 20; // of an arrow key

function asDigit(strokes) {
  // As those were made: brought to one size and to the middle of 32 x 32 dots, which are counted
  // in blocks of 4 x 4, and enlarged from 8 x 8 to 16 x 16. Bytes, (256,).
  const points = strokes.flat(), xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
  const scale = Math.min((GRID - STROKE) / Math.max(bottom - top, 1),
    (ROOM - STROKE) / Math.max(right - left, 1), (4 * GRID) / PAD);
  const canvas = make("canvas", { width: GRID, height: GRID });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  trace(pen, strokes.map((stroke) => stroke.map(([x, y]) => [
    GRID / 2 + (x - (left + right) / 2) * scale,
    GRID / 2 + (y - (top + bottom) / 2) * scale,
  ])), STROKE);
  const dots = pen.getImageData(0, 0, GRID, GRID).data, small = new Float64Array(64);
  for (let i = 0; i < GRID * GRID; i++) {
    const block = 8 * Math.floor(i / GRID / 4) + Math.floor((i % GRID) / 4);
    small[block] += dots[4 * i + 3] / 255 / 16;
  }
  return enlarged(small.map((v) => Math.round(16 * v) / 16));
}

function enlarged(small) {
  // 8 x 8 -> 16 x 16, between neighbours.
  const from = (i) => {
    const place = Math.max(i / 2 - 0.25, 0), low = Math.floor(place);
    return [low, Math.min(low + 1, 7), place - low];
  };
  const large = new Uint8Array(256);
  for (let i = 0; i < 16; i++)
    for (let j = 0; j < 16; j++) {
      const [a, b, down] = from(i), [c, d, across] = from(j);
      const above = small[8 * a + c] * (1 - across) + small[8 * a + d] * across;
      const below = small[8 * b + c] * (1 - across) + small[8 * b + d] * across;
      large[16 * i + j] = roundHalfEven(255 * (above * (1 - down) + below * down));
    }
  return large;
}

function trace(pen, strokes, width) {
  Object.assign(pen, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  for (const stroke of strokes) {
    pen.beginPath();
    pen.moveTo(...stroke[0]);
    for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) pen.lineTo(...point);
    pen.stroke();
  }
}

class Pad {
  // Strokes by mouse, finger or keyboard; tells `drawn` of each change, with bytes or null.
  constructor(canvas, drawn) {
    this.canvas = canvas;
    this.drawn = drawn;
    this.strokes = [];
    this.shown = null; // an image in place of strokes
    this.at = [PAD / 2, PAD / 4]; // the keyboard's pen
    this.down = false; // and whether it draws
    this.byKey = false;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, () => { this.drawing = false; });
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("blur", () => { this.byKey = this.down = false; this.draw(); });
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect(), scale = PAD / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.drawing = true;
    this.byKey = this.down = false;
    this.start(this.place(event));
  }

  go(event) {
    if (!this.drawing) return;
    for (const part of event.getCoalescedEvents?.() ?? []) this.last.push(this.place(part));
    this.last.push(this.place(event));
    this.changed();
  }

  press(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else if (event.key === " ") {
      this.down = !this.down;
      if (this.down) this.start([...this.at]);
    } else if (move) {
      this.at = this.at.map((v, i) => Math.min(Math.max(v + move[i] * STEP, STEP), PAD - STEP));
      if (this.down) {
        this.last.push([...this.at]);
        this.changed();
      }
    } else return;
    event.preventDefault();
    this.byKey = true;
    this.draw();
  }

  get last() {
    return this.strokes[this.strokes.length - 1];
  }

  start(point) {
    if (this.shown) this.strokes = [];
    this.shown = null;
    this.strokes.push([point]);
    this.changed();
  }

  clear() {
    this.strokes = [];
    this.shown = null;
    this.down = false;
    this.changed();
  }

  show(image) {
    // Bytes, (256,), in place of a drawing.
    this.strokes = [];
    this.shown = image;
    this.down = false;
    this.draw();
  }

  changed() {
    this.draw();
    this.drawn(this.strokes.length ? asDigit(this.strokes) : null);
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, PAD, PAD);
    if (this.shown) {
      const image = make("canvas");
      heat(image, Array.from(this.shown, (v) => v / 255), 16, grey);
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image, 0, 0, PAD, PAD);
    }
    trace(pen, this.strokes, PEN);
    if (!this.byKey) return;
    pen.beginPath();
    pen.arc(...this.at, this.down ? 7 : 12, 0, 7);
    Object.assign(pen, { lineWidth: 3, strokeStyle: "#ffa25a", fillStyle: "#ffa25a" });
    if (this.down) pen.fill();
    else pen.stroke();
  }
}
