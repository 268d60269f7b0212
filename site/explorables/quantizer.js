// The grid: q = clamp(round(x / scale) + zero, 0, 2^bits - 1), x_hat = (q - zero) scale.
//
// As akt_lab/quantizer/grid.py has it; a range is [low, high], of the numbers or of what is kept.

const LEAST_SCALE = 2 ** -23;
const COARSE = Array.from({ length: 95 }, (_, n) => 0.96 ** (n + 1));
const FINE = [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8].map((n) => 1 + n / 200);

function gridOf([low, high], bits) {
  // Zero always lies on the grid.
  low = Math.min(low, 0);
  high = Math.max(high, 0);
  const most = 2 ** bits - 1, scale = Math.max((high - low) / most, LEAST_SCALE);
  const zero = Math.min(Math.max(roundHalfEven(-low / scale), 0), most);
  return { scale, zero, most };
}

function fakeQuantize(x, { scale, zero, most }) {
  const q = Math.min(Math.max(roundHalfEven(x / scale) + zero, 0), most);
  return (q - zero) * scale;
}

function levelsOf({ scale, zero, most }) {
  return Array.from({ length: most + 1 }, (_, q) => (q - zero) * scale);
}

function errorOf(values, range, bits, p) {
  // sum |x_hat - x|^p
  const grid = gridOf(range, bits);
  let sum = 0;
  for (const x of values) sum += Math.abs(fakeQuantize(x, grid) - x) ** p;
  return sum;
}

function extremes(values) {
  let low = 0, high = 0;
  for (const x of values) {
    if (x < low) low = x;
    if (x > high) high = x;
  }
  return [low, high];
}

function pnormRange(values, bits, p = 2.4) {
  // The share of the numbers' own range whose error is least: both ends at once, then each alone.
  let best = extremes(values), least = errorOf(values, best, bits, p);
  const both = best[0] < 0 && best[1] > 0;
  const ends = both ? [[1, 1], [1, 0], [0, 1]] : [[1, 1]];
  for (const shares of [COARSE, FINE])
    for (const [movesLow, movesHigh] of ends) {
      const [low, high] = best;
      for (const share of shares) {
        const tried = [movesLow ? low * share : low, movesHigh ? high * share : high];
        const error = errorOf(values, tried, bits, p);
        if (error < least) [least, best] = [error, tried];
      }
    }
  return best;
}
