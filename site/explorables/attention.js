// Where and at what a feature map {shape: [1, C, H, W], data} is active: akt_lab/attention.py.

function energies({ shape: [, channels, height, width], data }) {
  // mean_c(x^2) at each place, and mean_hw(x^2) of each channel.
  const places = height * width;
  const where = new Float64Array(places), what = new Float64Array(channels);
  for (let c = 0; c < channels; c++)
    for (let i = 0; i < places; i++) {
      const square = data[c * places + i] ** 2;
      where[i] += square / channels;
      what[c] += square / places;
    }
  return { where, what };
}

function softmax(values) {
  const most = Math.max(...values);
  return shares(Array.from(values, (v) => Math.exp(v - most)));
}

function shares(values) {
  const sum = values.reduce((a, b) => a + b, 0);
  return Array.from(values, (v) => (sum ? v / sum : 0));
}

function spatialAttention(map) {
  // Scaled to unit length.
  const { where } = energies(map), length = Math.hypot(...where);
  return Array.from(where, (v) => (length ? v / length : 0));
}

function channelAttention(map) {
  return softmax(energies(map).what);
}

function divergence(p, q) {
  // KL(p || q) in nats, of shares.
  return p.reduce((sum, v, i) => sum + (v > 0 ? v * Math.log(v / Math.max(q[i], 1e-12)) : 0), 0);
}

function attentionDivergence(teacher, student) {
  // Spatial and channel part of one layer, as AKT's equations have them.
  const where = [teacher, student].map((map) => shares(energies(map).where));
  const what = [teacher, student].map(channelAttention);
  return { spatial: divergence(...where), channel: divergence(...what) };
}
