"use strict";
// The maps of a probe: unpacks, looks up and paints them. `probe_page.js` follows in the same script.
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const data = JSON.parse($("#data").textContent);
const [numRows, numColumns] = data.grid;
// Of the padded square that the grid covers, the picture is the left and upper part.
const [widthShare, heightShare] = data.picture;
const numCells = numRows * numColumns;

// Packed arrays are zlib inside base64, little-endian like all machines with browsers.
async function unpack(text, Numbers = Float32Array) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Numbers(await new Response(stream).arrayBuffer());
}

async function unpackAll() {
  data.heads = await unpack(data.heads);
  for (const maps of Object.values(data.maps)) {
    maps.values = await unpack(maps.values, maps.units ? Uint8Array : Float32Array);
    for (const name of ["units", "onPicture", "onPadding"]) if (maps[name]) maps[name] = await unpack(maps[name]);
  }
}

// The values of one map and their sums; sizes that a kind does not have are 1.
function lookUp({ kind, layer, head, clip, word }) {
  const maps = data.maps[kind];
  const at = (place, size) => (size > 1 ? place : 0);
  const row = at(layer, maps.layers) * maps.heads + at(head, maps.heads);
  const index = (row * data.clips.length + clip) * maps.words + at(word, maps.words);
  const steps = maps.values.subarray(index * numCells, (index + 1) * numCells);
  const values = Float32Array.from(steps, maps.units ? (step) => step * maps.units[index] : undefined);
  return { values, onPicture: maps.onPicture?.[index], onPadding: maps.onPadding?.[index] };
}

const isSigned = (kind) => kind === "ablation";
const isShare = (kind) => kind === "attention" || kind === "rollout" || kind === "picture";
const touchesPicture = (cell) =>
  (cell % numColumns) < widthShare * numColumns - 1e-6 && Math.floor(cell / numColumns) < heightShare * numRows - 1e-6;

// The cell of the largest value, whatever its sign; cells of padding are never drawn.
function largestCell(values) {
  let best = 0;
  values.forEach((value, cell) => {
    if (touchesPicture(cell) && Math.abs(value) > Math.abs(values[best])) best = cell;
  });
  return best;
}
const largest = (values) => Math.abs(values[largestCell(values)]);

function number(value, plus = "") {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text = size.toFixed(size >= 10 ? 1 : size >= 0.095 ? 2 : size >= 0.0095 ? 3 : 4);
  if (!Number(text)) return size ? value.toExponential(1).replaceAll("-", "−") : "0";
  return (value < 0 ? "−" : plus) + text;
}
const percent = (share) => `${number(100 * share)} %`;
const told = (kind, value) => (isShare(kind) ? percent(value) : number(value, isSigned(kind) ? "+" : ""));
const word = (i) => `“${data.words[i]}”`;

// Dark violet to pale yellow with even brightness steps, readable without colour vision.
const HEAT = [
  [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164],
];
// Orange where the score falls, blue where it rises: all kinds of colour vision tell them apart.
const FALLS = [255, 120, 20];
const RISES = [40, 120, 255];

// Return red, green, blue and alpha of a value between 0 and 1, or -1 and 1 if it is signed.
function color(value, signed, opacity) {
  const size = Math.min(1, Math.abs(value));
  if (signed) return [...(value < 0 ? FALLS : RISES), opacity * size];
  const place = size * (HEAT.length - 1);
  const below = Math.min(HEAT.length - 2, Math.floor(place));
  const mixed = HEAT[below].map((part, i) => part + (place - below) * (HEAT[below + 1][i] - part));
  return [...mixed, opacity * (0.4 + 0.6 * size)];
}

// Return the box of a cell on a canvas over the picture, in whole pixels so that there are no seams. Padding lies
// outside the canvas.
function cellBox(canvas, cell) {
  const [width, height] = [canvas.width / (numColumns * widthShare), canvas.height / (numRows * heightShare)];
  const [column, row] = [cell % numColumns, Math.floor(cell / numColumns)];
  const [left, upper] = [Math.round(column * width), Math.round(row * height)];
  return [left, upper, Math.round((column + 1) * width) - left, Math.round((row + 1) * height) - upper];
}

// Draw a map over the picture.
function paint(canvas, values, top, { signed = false, opacity = 1, smooth = false } = {}) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (smooth) {
    const small = new OffscreenCanvas(numColumns, numRows);
    paintPixels(small, values, top, signed, opacity);
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width / widthShare, canvas.height / heightShare);
    return;
  }
  values.forEach((value, cell) => {
    const [red, green, blue, alpha] = color(top ? value / top : 0, signed, opacity);
    context.fillStyle = `rgb(${red} ${green} ${blue} / ${alpha})`;
    context.fillRect(...cellBox(canvas, cell));
  });
}

// One pixel for each cell.
function paintPixels(canvas, values, top, signed, opacity) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    const [red, green, blue, alpha] = color(top ? value / top : 0, signed, opacity);
    image.data.set([red, green, blue, 255 * alpha], 4 * i);
  });
  context.putImageData(image, 0, 0);
}
