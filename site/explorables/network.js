// Runs a network in the page, from the whole numbers of its ONNX file, node by node.
//
// A tensor is {shape, data}; one image at a time, so the first axis is 1. What a node gives is
// float32, as in ONNX Runtime; within a node sums are kept in float64.

const ARRAYS = {
  int8: Int8Array, uint8: Uint8Array, int32: Int32Array, float32: Float32Array, int64: BigInt64Array,
};

function decoded(text, kind) {
  // base64 -> a typed array
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new ARRAYS[kind](bytes.buffer);
}

function size(shape) {
  return shape.reduce((product, side) => product * side, 1);
}

function roundHalfEven(x) {
  // As IEEE and ONNX round, where Math.round takes every half upwards.
  const down = Math.floor(x), rest = x - down;
  if (rest !== 0.5) return rest < 0.5 ? down : down + 1;
  return down % 2 === 0 ? down : down + 1;
}

function each(x, change) {
  const data = new Float32Array(x.data.length);
  for (let i = 0; i < data.length; i++) data[i] = change(x.data[i], i);
  return { shape: x.shape, data };
}

function alongAxis(x, axis = 1) {
  // Where a value lies on an axis: (i) -> index, for one scale a channel.
  const inner = size(x.shape.slice(axis + 1)), count = x.shape[axis];
  return (i) => Math.floor(i / inner) % count;
}

const OPERATIONS = {
  Identity: (a, [x]) => x,

  Relu: (a, [x]) => each(x, (v) => Math.max(v, 0)),

  Clip: (a, [x, low, high]) =>
    each(x, (v) => Math.min(Math.max(v, low.data[0]), high.data[0])),

  QuantizeLinear: (a, [x, scale, zero]) => {
    // q = clamp(round(x / scale) + zero, 0, 255); narrower grids are clipped before.
    const s = scale.data[0], z = zero.data[0];
    return each(x, (v) => Math.min(Math.max(roundHalfEven(Math.fround(v / s)) + z, 0), 255));
  },

  DequantizeLinear: (a, [q, scale, zero]) => {
    // x_hat = (q - zero) scale, with one scale for all, or one for each index of an axis.
    const place = scale.data.length > 1 ? alongAxis(q, a.axis) : () => 0;
    return each(q, (v, i) => (v - (zero ? zero.data[place(i)] : 0)) * scale.data[place(i)]);
  },

  Add: (a, [x, y]) => {
    if (x.data.length < y.data.length) [x, y] = [y, x];
    if (x.data.length === y.data.length) return each(x, (v, i) => v + y.data[i]);
    // A shift: one number for each channel, the second axis.
    const channel = alongAxis(x);
    if (y.data.length !== x.shape[1]) throw new Error(`Add: ${x.shape} and ${y.shape}`);
    return each(x, (v, i) => v + y.data[channel(i)]);
  },

  Conv: (a, [x, weight, bias]) => convolution(x, weight, bias, a.pads?.[0] ?? 0, a.strides?.[0] ?? 1),

  ReduceMean: (a, [x]) => {
    // Over height and width: (1, C, H, W) -> (1, C).
    const [, channels, height, width] = x.shape, data = new Float32Array(channels);
    for (let c = 0; c < channels; c++) {
      let sum = 0;
      for (let i = 0; i < height * width; i++) sum += x.data[c * height * width + i];
      data[c] = sum / (height * width);
    }
    return { shape: [1, channels], data };
  },

  Gemm: (a, [x, weight, bias]) => {
    // (1, C) and (K, C) -> (1, K)
    const [outputs, inputs] = weight.shape, data = new Float32Array(outputs);
    for (let k = 0; k < outputs; k++) {
      let sum = bias ? bias.data[k] : 0;
      for (let c = 0; c < inputs; c++) sum += x.data[c] * weight.data[k * inputs + c];
      data[k] = sum;
    }
    return { shape: [1, outputs], data };
  },
};

function convolution(x, weight, bias, pad, stride) {
  // (1, C, H, W) and (K, C, k, k) -> (1, K, H', W')
  const [, channels, height, width] = x.shape, [outputs, , k] = weight.shape;
  const high = Math.floor((height + 2 * pad - k) / stride) + 1;
  const wide = Math.floor((width + 2 * pad - k) / stride) + 1;
  const data = new Float32Array(outputs * high * wide), sums = new Float64Array(high * wide);
  for (let o = 0; o < outputs; o++) {
    sums.fill(bias ? bias.data[o] : 0);
    for (let c = 0; c < channels; c++)
      for (let dy = 0; dy < k; dy++)
        for (let dx = 0; dx < k; dx++) {
          const w = weight.data[((o * channels + c) * k + dy) * k + dx];
          if (w === 0) continue;
          for (let i = 0; i < high; i++) {
            const row = i * stride + dy - pad;
            if (row < 0 || row >= height) continue;
            for (let j = 0; j < wide; j++) {
              const column = j * stride + dx - pad;
              if (column >= 0 && column < width)
                sums[i * wide + j] += w * x.data[(c * height + row) * width + column];
            }
          }
        }
    data.set(sums, o * high * wide);
  }
  return { shape: [1, outputs, high, wide], data };
}

class Network {
  // From what networks.py writes: nodes [operation, inputs, output, attributes], and constants.
  constructor({ nodes, constants }) {
    this.constants = new Map();
    for (const [name, { kind, shape, data }] of Object.entries(constants))
      this.constants.set(name, { shape, data: decoded(data, kind) });
    this.nodes = nodes.filter((node) => !this.isConstant(node));
  }

  isConstant([operation, inputs, output, attributes]) {
    // What needs no image, such as a weight on its grid, is computed once, here.
    if (!(operation in OPERATIONS)) throw new Error(`this page cannot run ${operation}`);
    if (!inputs.every((name) => this.constants.has(name))) return false;
    const given = inputs.map((name) => this.constants.get(name));
    this.constants.set(output, OPERATIONS[operation](attributes, given));
    return true;
  }

  run(image) {
    // A normalised image {shape: [1, C, H, W], data} -> a Map with all that the nodes give.
    const values = new Map(this.constants).set("images", image);
    for (const [operation, inputs, output, attributes] of this.nodes)
      values.set(output, OPERATIONS[operation](attributes, inputs.map((name) => values.get(name))));
    return values;
  }
}
