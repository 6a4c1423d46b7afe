/**
 * LeNet-5 (20-50-500-10) in plain JavaScript, and digits as MNIST has them.
 */

const SIDE = 28; // pixels of an image of MNIST
const BOX = 20; // a digit is scaled to fit so many of them
const MEAN = 0.1307; // of MNIST's training images, as in the experiment that made the file
const STD = 0.3081;

/** The network of a file: scores of the ten digits for an image of 28 x 28 numbers from 0 to 1. */
export function network(tensors) {
  const weights = (name) => tensors.get(name).data;
  return (image) => {
    let maps = { data: image.map((value) => (value - MEAN) / STD), channels: 1, side: SIDE };
    maps = pool(relu(convolve(maps, weights("conv1.weight"), weights("conv1.bias")))); // 20 x 12 x 12
    maps = pool(relu(convolve(maps, weights("conv2.weight"), weights("conv2.bias")))); // 50 x 4 x 4
    const hidden = relu({ data: linear(maps.data, weights("fc1.weight"), weights("fc1.bias")) }).data; // 500
    return linear(hidden, weights("fc2.weight"), weights("fc2.bias")); // 10
  };
}

/** Probabilities from scores. */
export function softmax(scores) {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/**
 * A drawing as MNIST would have it: its ink in a box of 20 x 20 pixels, the centre of mass in the middle of 28 x 28.
 *
 * @param {ArrayLike<number>} ink From 0 to 1, row by row.
 * @param {number} width Pixels of a row.
 * @returns {Float32Array|null} 28 x 28 numbers from 0 to 1; null if there is no ink.
 */
export function likeMnist(ink, width) {
  const height = ink.length / width;
  const sums = new Float64Array((width + 1) * (height + 1)); // of all ink above and left of a corner
  let [left, right, top, bottom] = [width, 0, height, 0];
  let [mass, massX, massY] = [0, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = ink[y * width + x];
      const corner = (y + 1) * (width + 1) + x + 1;
      sums[corner] = value + sums[corner - 1] + sums[corner - width - 1] - sums[corner - width - 2];
      if (value < 0.05) continue;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x + 1), Math.min(top, y), Math.max(bottom, y + 1)];
      [mass, massX, massY] = [mass + value, massX + value * (x + 0.5), massY + value * (y + 0.5)];
    }
  }
  if (mass === 0) return null;
  const pixel = Math.max(right - left, bottom - top) / BOX; // of MNIST, in pixels of the drawing

  /** Ink above and left of a point, by interpolation between corners: exact for pixels of one value each. */
  const inkBefore = (x, y) => {
    [x, y] = [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
    const [column, row] = [Math.min(Math.floor(x), width - 1), Math.min(Math.floor(y), height - 1)];
    const [right, down] = [x - column, y - row];
    const corner = row * (width + 1) + column;
    const above = sums[corner] * (1 - right) + sums[corner + 1] * right;
    const below = sums[corner + width + 1] * (1 - right) + sums[corner + width + 2] * right;
    return above * (1 - down) + below * down;
  };
  return Float32Array.from({ length: SIDE * SIDE }, (_, i) => {
    const x = massX / mass + ((i % SIDE) - SIDE / 2) * pixel;
    const y = massY / mass + (Math.floor(i / SIDE) - SIDE / 2) * pixel;
    const [x2, y2] = [x + pixel, y + pixel];
    return (inkBefore(x2, y2) - inkBefore(x, y2) - inkBefore(x2, y) + inkBefore(x, y)) / (pixel * pixel);
  });
}

/** A convolution of 5 x 5 without padding. */
function convolve({ data, channels, side }, weights, bias) {
  const outSide = side - 4;
  const out = new Float32Array(bias.length * outSide * outSide);
  for (let filter = 0; filter < bias.length; filter++) {
    const plane = out.subarray(filter * outSide * outSide, (filter + 1) * outSide * outSide).fill(bias[filter]);
    for (let i = 0; i < channels * 25; i++) {
      const weight = weights[filter * channels * 25 + i];
      if (weight === 0) continue; // most of them
      const [channel, row, column] = [Math.floor(i / 25), Math.floor((i % 25) / 5), i % 5];
      for (let y = 0; y < outSide; y++) {
        const from = channel * side * side + (y + row) * side + column;
        for (let x = 0; x < outSide; x++) plane[y * outSide + x] += weight * data[from + x];
      }
    }
  }
  return { data: out, channels: bias.length, side: outSide };
}

function relu(maps) {
  return { ...maps, data: maps.data.map((value) => Math.max(value, 0)) };
}

/** The largest of each 2 x 2. */
function pool({ data, channels, side }) {
  const half = side / 2;
  const out = new Float32Array(channels * half * half);
  for (let i = 0; i < out.length; i++) {
    const [channel, row, column] = [Math.floor(i / (half * half)), Math.floor(i / half) % half, i % half];
    const from = channel * side * side + 2 * row * side + 2 * column;
    out[i] = Math.max(data[from], data[from + 1], data[from + side], data[from + side + 1]);
  }
  return { data: out, channels, side: half };
}

function linear(inputs, weights, bias) {
  return Float32Array.from(bias, (start, row) => {
    let sum = start;
    for (let i = 0; i < inputs.length; i++) sum += weights[row * inputs.length + i] * inputs[i];
    return sum;
  });
}
