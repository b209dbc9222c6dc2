// What is picked. `show` redraws everything that depends on it, so the parts always agree.
const state = {
  clip: data.start[0], word: data.start[1], kind: "attention", layer: data.start[2], head: 0, cell: null,
};

// The frames of the picked clip, each under a canvas; rebuilt only for another clip.
let shownClip = null;
function placePictures() {
  if (shownClip === state.clip) return;
  shownClip = state.clip;
  const images = $$(`.card img[data-clip="${state.clip}"]`);
  const pictures = $("#pictures");
  pictures.className = images.length === 1 ? "" : images.length <= 4 ? "several" : "many";
  pictures.replaceChildren(...images.map((image, i) => {
    const figure = document.createElement("figure");
    const [shown, canvas] = [new Image(), document.createElement("canvas")];
    shown.src = image.src;
    shown.alt = `frame ${i + 1} of ${data.clips[state.clip]}`;
    canvas.width = 720;
    canvas.height = Math.max(1, Math.round((720 * heightShare) / widthShare));
    canvas.tabIndex = i ? -1 : 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Map over the picture. Arrow keys go from cell to cell.");
    figure.append(shown, canvas);
    return figure;
  }));
}

function outlineCell(canvas, cell) {
  const context = canvas.getContext("2d");
  for (const [style, width] of [["#000", 6], ["#fff", 2.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect(...cellBox(canvas, cell));
  }
}

function tellCell(at, values, cell) {
  const value = told(at.kind, values[cell]);
  const what = {
    attention: `${value} of the attention of ${word(at.word)}`,
    picture: `gives ${value} of its attention to ${word(at.word)}`,
    gradient: `${value} for ${word(at.word)}`,
    rollout: `${value} of what reaches ${word(at.word)}`,
    ablation: `the score changes by ${value} without it`,
  }[at.kind];
  return `Row ${Math.floor(cell / numColumns) + 1}, column ${(cell % numColumns) + 1}: ${what}`;
}

const tellLargest = (at, values) => `Largest in the picture: ${tellCell(at, values, largestCell(values)).replace("Row", "row")}`;

function showScale(at, top) {
  const canvas = $("#scale");
  const signed = isSigned(at.kind);
  const opacity = $("#opacity").value / 100;
  const ramp = Array.from({ length: canvas.width }, (_, i) => (signed ? -1 : 0) + (i * (signed ? 2 : 1)) / 255);
  paintPixels(canvas, ramp, 1, signed, opacity);
  $("#low").textContent = signed ? `${told(at.kind, -top)} falls without it` : "0";
  $("#high").textContent = signed ? `rises without it ${told(at.kind, top)}` : told(at.kind, top);
  const isRow = at.kind === "attention" || at.kind === "rollout";
  $("#even").textContent = signed ? "0" : isRow ? `evenly spread: ${percent(data.even)}` : "";
}

function showSums(at, map) {
  const [picture, padding] = [map.onPicture, map.onPadding];
  const isRow = at.kind === "attention" || at.kind === "rollout";
  const all = isRow ? 1 : picture + padding;
  const rows = isRow
    ? [["on the picture", picture], ["on cells of padding", padding], ["on the text", Math.max(0, 1 - picture - padding)]]
    : [["of the map, on the picture", picture / all], ["on cells of padding", padding / all]];
  const has = map.onPicture !== undefined && all > 0;
  $("#sums").replaceChildren(...(has ? rows : []).map(([name, share]) => {
    const row = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", percent(share)]]) {
      row.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
    return row;
  }));
  $(".split").hidden = !has;
  $$(".split i").forEach((part, i) => (part.style.width = `${has ? 100 * rows[i][1] : 0}%`));
}

function showVerdict(at) {
  const layer = data.layers[at.layer];
  const name = { attention: `attention, layer ${layer}`, gradient: `gradient-weighted, layer ${layer}`, rollout: "rollout" };
  const isMean = at.kind !== "attention" || at.head === 0;
  const [level, sentence] = (isMean && data.verdicts[name[at.kind]]) || [
    "untested",
    at.kind === "ablation"
      ? "This is the test that the other maps are compared with."
      : "This map was not compared with the ablation: take it as a picture, not as evidence.",
  ];
  $("#verdict").dataset.level = level;
  $("#verdict").textContent = sentence;
  $("#judged").hidden = level === "untested";
}

function showSliders() {
  const { layers, heads } = data.maps[state.kind];
  const hasLayers = !["rollout", "ablation"].includes(state.kind);
  const noLayers = data.layers[0] > 1 ? "This page keeps only the last layers." : "The model has one layer.";
  const noHeads = state.kind === "attention" ? "This page does not have single heads." : "This map combines all heads.";
  const sliders = {
    layer: [data.layers.length, hasLayers ? `${data.layers[state.layer]} of ${data.numLayers}` : "all",
      layers > 1 ? "" : hasLayers ? noLayers : "This map combines all layers."],
    head: [data.maps.attention.heads, heads > 1 && state.head ? `${state.head} of ${heads - 1}` : state.kind === "ablation" ? "all" : "mean",
      heads > 1 ? "" : noHeads],
  };
  for (const [name, [count, shown, reason]] of Object.entries(sliders)) {
    const slider = $(`#${name}`);
    slider.max = count - 1;
    slider.value = state[name];
    slider.disabled = reason !== "";
    slider.setAttribute("aria-valuetext", shown);
    $(`output[for="${name}"]`).textContent = shown;
    $(`#${name}-reason`).textContent = reason;
  }
  $('output[for="opacity"]').textContent = `${$("#opacity").value} %`;
}

// Draw the map; `preview` is under the pointer and does not change what is picked.
function showMap(preview = {}) {
  const at = { ...state, ...preview };
  const map = lookUp(at);
  const clips = $("#shared").checked ? data.clips.map((_, clip) => clip) : [at.clip];
  const top = Math.max(...clips.map((clip) => largest(lookUp({ ...at, clip }).values)));
  const look = { signed: isSigned(at.kind), opacity: $("#opacity").value / 100, smooth: $("#smooth").checked };
  placePictures();
  for (const canvas of $$("#pictures canvas")) {
    paint(canvas, map.values, top, look);
    if (at.cell !== null) outlineCell(canvas, at.cell);
  }
  $("#reading").textContent = at.cell === null ? tellLargest(at, map.values) : tellCell(at, map.values, at.cell);
  showScale(at, top);
  showSums(at, map);
  showVerdict(at);
}

// The grid of heads: a row for each layer, the mean first.
function makeHeads() {
  const count = data.maps.attention.heads;
  const grid = $("#heads");
  const make = (role, ...children) => {
    const element = document.createElement("div");
    element.setAttribute("role", role);
    element.append(...children);
    return element;
  };
  const names = ["", ...Array.from({ length: count }, (_, head) => (head ? `${head}` : "mean"))];
  grid.style.gridTemplateColumns = `max-content repeat(${count}, minmax(0, ${count > 1 ? "1fr" : "90px"}))`;
  grid.style.minWidth = `${60 + 51 * count}px`;
  grid.style.maxWidth = `${60 + 120 * count}px`;
  grid.append(make("row", ...names.map((name) => make("columnheader", name))));
  data.layers.forEach((name, layer) => {
    const cells = names.slice(1).map((_, head) => make("gridcell", makeHead(layer, head)));
    grid.append(make("row", make("rowheader", `layer ${name}`), ...cells));
  });
}

function makeHead(layer, head) {
  const button = document.createElement("button");
  button.type = "button";
  Object.assign(button.dataset, { layer, head });
  const canvas = document.createElement("canvas");
  // As many pixels as on dense screens.
  canvas.width = 96;
  canvas.height = Math.max(1, Math.round((96 * heightShare) / widthShare));
  button.append(canvas);
  let name = `layer ${data.layers[layer]}, ${head ? `head ${head}` : "mean of heads"}`;
  if (head) {
    const numHeads = data.heads.length / data.numLayers;
    const change = data.heads[(data.layers[layer] - 1) * numHeads + head - 1];
    const strongest = data.heads.reduce((most, each) => Math.max(most, Math.abs(each) || 0), 0);
    const [bar, part] = [document.createElement("span"), document.createElement("b")];
    bar.className = "bar";
    part.className = change < 0 ? "falls" : "rises";
    part.style.width = `${strongest ? (100 * Math.abs(change)) / strongest : 0}%`;
    bar.append(part);
    button.append(bar);
    name += `: ${number(change, "+")} without it`;
  }
  button.title = name;
  button.setAttribute("aria-label", name);
  button.addEventListener("click", () => pick({ kind: "attention", layer, head }));
  return button;
}

// Heads are drawn only when visible or printed, and only after another word or clip was picked.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.dataset.seen = isIntersecting ? "1" : "";
  showHeads();
});

function showHeads({ isPrinting = false } = {}) {
  for (const button of $$("#heads button")) {
    const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
    const isPicked = state.kind === "attention" && layer === state.layer && head === state.head;
    button.setAttribute("aria-current", isPicked);
    button.tabIndex = layer === state.layer && head === state.head ? 0 : -1;
    const drawn = `${state.clip} ${state.word}`;
    if (!(button.dataset.seen || isPrinting) || button.dataset.drawn === drawn) continue;
    button.dataset.drawn = drawn;
    const { values } = lookUp({ ...state, kind: "attention", layer, head });
    paint(button.firstChild, values, largest(values));
  }
}

function show() {
  for (const name of ["clip", "word", "kind"]) $(`input[name="${name}"][value="${state[name]}"]`).checked = true;
  for (const span of $$(".axis .span")) span.classList.toggle("picked", Number(span.dataset.clip) === state.clip);
  const name = data.clips[state.clip];
  $("#clip-name").textContent = name[0].toUpperCase() + name.slice(1);
  $("#before").disabled = state.clip === 0;
  $("#after").disabled = state.clip === data.clips.length - 1;
  const about = $(`input[name="kind"][value="${state.kind}"]`).dataset.about;
  // In `picture`, the next states of the cells themselves are not read.
  const isUnread = state.kind !== "ablation" && state.kind !== "rollout" && data.layers[state.layer] === data.numLayers
    && (state.word !== 0 || state.kind === "picture");
  $("#about").textContent = about + (isUnread ? " In the last layer the score is read from [CLS], so this map has no effect there." : "");
  showSliders();
  showMap();
  showHeads();
}

function pick(change) {
  Object.assign(state, change);
  show();
  const kind = $('input[name="kind"]:checked').parentElement.textContent.trim();
  const place = ["layer", "head"].filter((id) => !$(`#${id}`).disabled);
  const where = place.map((id) => `${id} ${$(`output[for="${id}"]`).textContent}`).join(", ");
  $("#announcement").textContent = "cell" in change
    ? $("#reading").textContent
    : [`${data.clips[state.clip]}, word ${word(state.word)}, ${kind}`, where, $("#reading").textContent].filter(Boolean).join(", ");
}

// Return the cell under the pointer.
function cellAt(event) {
  const box = event.target.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * widthShare * numColumns);
  const row = Math.floor(((event.clientY - box.top) / box.height) * heightShare * numRows);
  // The picture is larger than the grid where pooling has dropped pixels.
  const isOutside = row < 0 || column < 0 || row >= numRows || column >= numColumns;
  return isOutside ? null : row * numColumns + column;
}

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function moveCell(event) {
  if (event.key === "Escape") return pick({ cell: null });
  if (!(event.key in MOVES)) return;
  event.preventDefault();
  const [down, right] = MOVES[event.key];
  const [row, column] = [Math.floor((state.cell ?? 0) / numColumns) + down, ((state.cell ?? 0) % numColumns) + right];
  const cell = state.cell === null ? 0 : row * numColumns + column;
  const inside = row >= 0 && column >= 0 && row < numRows && column < numColumns && touchesPicture(cell);
  if (state.cell === null || inside) pick({ cell });
}

function moveHead(event) {
  const from = event.target.dataset;
  if (!(event.key in MOVES) || !from.layer) return;
  event.preventDefault();
  const [down, right] = MOVES[event.key];
  const to = $(`#heads button[data-layer="${Number(from.layer) + down}"][data-head="${Number(from.head) + right}"]`);
  if (!to) return;
  event.target.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

function listen() {
  for (const input of $$('input[name="clip"], input[name="word"], input[name="kind"]')) {
    const value = input.name === "kind" ? input.value : Number(input.value);
    input.addEventListener("change", () => pick({ [input.name]: value }));
    input.addEventListener("keydown", (event) => event.key === "Enter" && input.click());
    if (input.name !== "word") continue;
    input.parentElement.addEventListener("pointerenter", () => showMap({ word: value }));
    input.parentElement.addEventListener("pointerleave", () => showMap());
  }
  $("#before").addEventListener("click", () => pick({ clip: state.clip - 1 }));
  $("#after").addEventListener("click", () => pick({ clip: state.clip + 1 }));
  for (const id of ["layer", "head"]) $(`#${id}`).addEventListener("input", (event) => pick({ [id]: Number(event.target.value) }));
  for (const id of ["opacity", "shared", "smooth"]) $(`#${id}`).addEventListener("input", show);
  const pictures = $("#pictures");
  const onCanvas = (act) => (event) => event.target.tagName === "CANVAS" && act(event);
  pictures.addEventListener("pointermove", onCanvas((event) => {
    const cell = cellAt(event);
    if (cell !== null) $("#reading").textContent = tellCell(state, lookUp(state).values, cell);
  }));
  pictures.addEventListener("pointerleave", () => showMap());
  pictures.addEventListener("click", onCanvas((event) => pick({ cell: cellAt(event) === state.cell ? null : cellAt(event) })));
  pictures.addEventListener("keydown", onCanvas(moveCell));
  $("#heads").addEventListener("keydown", moveHead);
  addEventListener("beforeprint", () => showHeads({ isPrinting: true }));
}

unpackAll().then(() => {
  $("#where").hidden = false;
  makeHeads();
  listen();
  show();
  for (const button of $$("#heads button")) seen.observe(button);
  document.documentElement.dataset.ready = "1";
}).catch((error) => {
  const warning = Object.assign(document.createElement("p"), { className: "warning" });
  warning.textContent = `This browser cannot show the maps (${error.message}): use one of 2023 or later.`;
  $("#where").before(warning);
});
