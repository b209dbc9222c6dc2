"use strict";
// Curves: show their last values, or those under the pointer.
for (const figure of document.querySelectorAll(".curve")) {
  const svg = figure.querySelector("svg");
  const output = figure.querySelector(".reading");
  const last = output.textContent;
  const readings = JSON.parse(figure.dataset.readings);
  const frame = svg.viewBox.baseVal;
  const pin = document.createElementNS("http://www.w3.org/2000/svg", "line");
  pin.setAttribute("class", "pin");
  pin.setAttribute("y1", figure.dataset.top);
  pin.setAttribute("y2", figure.dataset.bottom);
  let place = readings.length - 1;
  const show = (number) => {
    place = Math.max(0, Math.min(readings.length - 1, number));
    const [x, text] = readings[place];
    output.textContent = text;
    pin.setAttribute("x1", x);
    pin.setAttribute("x2", x);
    svg.append(pin);
  };
  const rest = () => {
    output.textContent = last;
    pin.remove();
  };
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * frame.width;
    let nearest = 0;
    readings.forEach(([at], number) => {
      if (Math.abs(at - x) < Math.abs(readings[nearest][0] - x)) nearest = number;
    });
    show(nearest);
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key in moves) {
      show(place + moves[event.key]);
      event.preventDefault();
    }
  });
}

// Config: show the rows that contain every word of the search.
const search = document.querySelector("#search");
if (search) {
  search.hidden = false;
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/[\s_]+/).filter(Boolean);
    for (const group of document.querySelectorAll(".settings section")) {
      let shown = 0;
      for (const row of group.querySelectorAll("tr")) {
        const text = `${row.dataset.group} ${row.textContent}`.toLowerCase().replaceAll("_", " ");
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      group.hidden = !shown;
    }
  });
}
