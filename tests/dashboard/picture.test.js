import assert from "node:assert/strict";
import { test } from "node:test";
import { Matrix } from "../../dashboard/gradhelm_dashboard/assets/matrix.js";
import { Picture } from "../../dashboard/gradhelm_dashboard/assets/picture.js";
import { mapFromMatrix } from "../../dashboard/gradhelm_dashboard/assets/views.js";

globalThis.ImageData = class {
  constructor(width, height) {
    Object.assign(this, { width, height, data: new Uint8ClampedArray(4 * width * height) });
  }
};

/** A canvas of numbers, one per pixel, that counts the columns put into it. */
function canvas() {
  const made = { width: 1, height: 1, put: 0, pixels: new Map() };
  made.getContext = () => ({
    putImageData(image, x, y, fromX, fromY, width, height) {
      const words = new Uint32Array(image.data.buffer);
      made.put += width;
      for (let i = fromX; i < fromX + width; i++) {
        assert.ok(x + i >= 0 && x + i < made.width);
        for (let j = fromY; j < fromY + height; j++) made.pixels.set(`${x + i},${y + j}`, words[j * image.width + i]);
      }
    },
  });
  return made;
}

/** What a Picture shows of bins first…last, put together from the pieces it draws. */
function shown(picture, bins, lines) {
  const out = Array.from({ length: lines }, () => Array(bins).fill(0));
  picture.draw({
    drawImage(from, sx, _sy, count, _height, dx) {
      for (let i = 0; i < count; i++) for (let j = 0; j < lines; j++) out[j][dx + i] = from.pixels.get(`${sx + i},${j}`) ?? 0;
    },
  }, 0, 1, lines);
  return out;
}

const float = new Float32Array(1);
const bitsOf = (value) => {
  float[0] = value;
  return new Uint32Array(float.buffer)[0];
};
const table = Uint32Array.from({ length: 256 }, (_, i) => i);
const range = [1, 254];
const order = [2, 0, 1];

function write(matrix, step, value) {
  const row = matrix.row(step);
  for (let j = 0; j < matrix.rows; j++) matrix.setNorm(row, j, bitsOf(value * (j + 1)));
}

/** Brings `picture` to low…high of the matrix, and holds it to one painted from nothing. */
function check(picture, matrix, low, high, size = 1) {
  const view = { ...mapFromMatrix(matrix, low, high), order };
  const options = { first: Math.floor(low / size), last: Math.floor(high / size), size, lines: 3, range, medians: null, table };
  const fresh = new Picture(canvas());
  const dirty = matrix.dirtyFrom;
  fresh.update(view, options);
  matrix.dirtyFrom = dirty;
  const painted = picture.update(view, options);
  const bins = options.last - options.first + 1;
  // Of a bin that the window has half left, the picture still shows the whole.
  const whole = (rows) => rows.map((row) => row.slice(low % size ? 1 : 0));
  assert.deepEqual(whole(shown(picture, bins, 3)), whole(shown(fresh, bins, 3)), `${low}…${high}`);
  assert.deepEqual(picture.bad().toSorted(), fresh.bad().toSorted());
  return painted;
}

test("while the window moves on, only what is new is painted, and it looks as if all were", () => {
  const matrix = new Matrix(3, 400);
  const picture = new Picture(canvas());
  for (let step = 0; step < 1000; step++) {
    write(matrix, step, step % 97 === 5 ? NaN : 1e-3 * (1 + (step % 50)));
    if (step < 100 || step % 3) continue;
    const painted = check(picture, matrix, step - 99, step);
    if (step > 102) assert.equal(painted, 3);
  }
});

test("bins of several steps are painted again until they are full", () => {
  const matrix = new Matrix(3, 400);
  const picture = new Picture(canvas());
  for (let step = 0; step < 600; step++) {
    write(matrix, step, 1e-3 * (1 + (step % 50)));
    if (step >= 200) check(picture, matrix, step - 199, step, 4);
  }
});

test("steps that come late are painted where they belong, and the gap before them is a hole", () => {
  const matrix = new Matrix(3, 400);
  const picture = new Picture(canvas());
  for (let step = 0; step < 200; step++) if (step < 150 || step > 170) write(matrix, step, 1);
  check(picture, matrix, 100, 199);
  for (let step = 150; step <= 170; step++) write(matrix, step, 2);
  assert.equal(check(picture, matrix, 100, 199), 50);
  assert.equal(check(picture, matrix, 100, 199), 0);
});

test("zooming, panning and going back paint what they need", () => {
  const matrix = new Matrix(3, 400);
  const picture = new Picture(canvas());
  for (let step = 0; step < 400; step++) write(matrix, step, 1 + step);
  for (const [low, high] of [[300, 399], [310, 330], [0, 20], [0, 399], [100, 199], [150, 249], [399, 399]]) check(picture, matrix, low, high);
});
