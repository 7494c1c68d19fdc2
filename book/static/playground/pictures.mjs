// Turns drawings, files and bytes into the network's input: Uint8Array [3, 32, 32], red plane first.

export const SIDE = 32, LENGTH = 3 * SIDE * SIDE;

// Enlarge a grey square bilinearly, as bitlib.data.resize does: with pixel centres, repeated borders and rounding.
export function enlarge(grey, side, to = SIDE) {
  const out = new Uint8Array(to * to);
  const at = (p) => {
    const x = Math.max(0, (p + 0.5) * side / to - 0.5), i = Math.min(side - 1, Math.floor(x));
    return [i, Math.min(side - 1, i + 1), x - i];
  };
  for (let y = 0; y < to; y++) {
    const [a, b, f] = at(y);
    for (let x = 0; x < to; x++) {
      const [l, r, g] = at(x);
      out[y * to + x] = Math.round((1 - f) * ((1 - g) * grey[a * side + l] + g * grey[a * side + r])
        + f * ((1 - g) * grey[b * side + l] + g * grey[b * side + r]));
    }
  }
  return out;
}

// A grey image as three equal planes.
export function threefold(grey) {
  const out = new Uint8Array(LENGTH);
  for (let c = 0; c < 3; c++) out.set(grey, c * SIDE * SIDE);
  return out;
}

// Averages over 8 x 8 blocks in each plane: the features for the comparison without a network.
export function blocks(pixels) {
  const out = new Float32Array(192), b = SIDE / 8;
  for (let i = 0; i < LENGTH; i++) {
    const c = Math.floor(i / (SIDE * SIDE)), y = Math.floor(i / SIDE) % SIDE, x = i % SIDE;
    out[c * 64 + Math.floor(y / b) * 8 + Math.floor(x / b)] += pixels[i] / (b * b);
  }
  return out;
}

// The drawing on a canvas, cropped to its ink and centred, light on dark; null if nothing is drawn.
// coarse: reduce it to 8 x 8 pixels first, like the real digits.
export function fromDrawing(canvas, coarse) {
  const { width, height } = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let left = width, right = -1, top = height, bottom = -1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[4 * (y * width + x) + 3] < 32) continue;
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
  }
  if (right < 0) return null;
  const box = Math.max(right - left, bottom - top) + 1, margin = coarse ? 0 : box / 8, cut = box + 2 * margin;
  const small = document.createElement("canvas");
  small.width = small.height = SIDE;
  const context = small.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  context.fillRect(0, 0, SIDE, SIDE);
  context.imageSmoothingQuality = "high";
  context.drawImage(canvas, (left + right + 1 - cut) / 2, (top + bottom + 1 - cut) / 2, cut, cut, 0, 0, SIDE, SIDE);
  const rgba = context.getImageData(0, 0, SIDE, SIDE).data;
  const grey = Uint8Array.from({ length: SIDE * SIDE }, (_, i) => rgba[4 * i]);
  return threefold(coarse ? enlarge(Array.from(blocks(threefold(grey)).subarray(0, 64)), 8) : grey);
}

// The central square of an image file, in colour. Throws if the browser cannot read the file.
export async function fromFile(file) {
  const bitmap = await createImageBitmap(file), edge = Math.min(bitmap.width, bitmap.height);
  const small = document.createElement("canvas");
  small.width = small.height = SIDE;
  const context = small.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#000";
  context.fillRect(0, 0, SIDE, SIDE);
  context.drawImage(bitmap, (bitmap.width - edge) / 2, (bitmap.height - edge) / 2, edge, edge, 0, 0, SIDE, SIDE);
  const rgba = context.getImageData(0, 0, SIDE, SIDE).data, out = new Uint8Array(LENGTH);
  for (let i = 0; i < SIDE * SIDE; i++) for (let c = 0; c < 3; c++) out[c * SIDE * SIDE + i] = rgba[4 * i + c];
  return out;
}
