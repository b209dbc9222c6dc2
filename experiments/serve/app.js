// Everything works without this script too. It shows progress while a video is sent, and loads results when they
// are ready.
"use strict";

const POLL_MILLISECONDS = 500;
const ALOUD_MILLISECONDS = 20_000;
const GONE = "The server does not answer. Is it still running?";

function say(element, text, isWrong = false) {
  if (element.textContent !== text) element.textContent = text; // a repeated text would be read out again
  element.classList.toggle("wrong", isWrong);
}

// ---- Forms -------------------------------------------------------------------------------------------------

function tooLarge(form) {
  const input = form.querySelector('input[type="file"]');
  const file = input?.files[0];
  const most = Number(input?.dataset.maxBytes);
  return file && file.size > most ? `${file.name} has ${(file.size / 1e6).toFixed(1)} MB; the limit is ${most / 1e6} MB.` : "";
}

function send(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const [line, bar, button] = [form.querySelector(".said"), form.querySelector(".sending"), form.querySelector("button")];
  const problem = tooLarge(form);
  if (problem) return say(line, problem, true);
  const data = new FormData(form);
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.setRequestHeader("Accept", "application/json");
  const end = (text) => {
    button.disabled = false;
    if (bar) bar.hidden = true;
    say(line, text, true);
  };
  request.upload.onprogress = ({ loaded, total }) => {
    if (bar && data.get("file")?.size) [bar.hidden, bar.value] = [false, loaded / total];
    if (bar && loaded < total) say(line, `Sending the video: ${Math.floor((100 * loaded) / total)} %`);
  };
  request.onload = () => {
    let answer = {};
    try { answer = JSON.parse(request.responseText); } catch { /* not our answer */ }
    if (!answer.location) return end(answer.error ?? GONE);
    const here = location.pathname;
    location.assign(answer.location);
    if (answer.location === here) location.reload();
  };
  request.onerror = () => end(GONE);
  button.disabled = true;
  say(line, "");
  request.send(form.enctype === "multipart/form-data" ? data : new URLSearchParams(data));
}

for (const form of document.querySelectorAll("form[data-sent]")) form.addEventListener("submit", send);
addEventListener("pageshow", () => document.querySelectorAll("button").forEach((button) => (button.disabled = false)));

for (const area of document.querySelectorAll("textarea")) {
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) area.form.requestSubmit();
  });
}

// ---- Choosing a video ----- ---------------------------------------------------------------------------------

const [picker, file, find] = [".picker", "#file", "#name"].map((one) => document.querySelector(one));

function chosen() {
  return picker.querySelector('input[name="video"]:checked')?.value ?? "";
}

function show(name) {
  const [line, strong] = [document.createElement("span"), document.createElement("b")];
  strong.textContent = name;
  line.append("Video: ", strong);
  picker.querySelector("summary").replaceChildren(line);
}

picker?.addEventListener("change", ({ target }) => {
  if (target.name === "video") {
    file.value = "";
    show(target.parentElement.querySelector("bdi").textContent);
  } else if (target === file && file.files.length) {
    for (const radio of picker.querySelectorAll(":checked")) radio.checked = false;
    show(file.files[0].name);
  }
});

if (find) {
  let [timer, last] = [0, 0];
  find.hidden = false;
  find.addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
  find.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const mine = ++last;
      const answer = await fetch(`/videos?${new URLSearchParams({ name: find.value, video: chosen() })}`);
      const [list, text] = [document.querySelector("#videos"), await answer.text()];
      if (!answer.ok || mine !== last) return;
      const id = chosen(); // the choice may have changed
      list.innerHTML = text;
      for (const radio of list.querySelectorAll("input")) radio.checked = radio.value === id;
      say(document.querySelector("#found"), `${list.querySelectorAll(".pick").length} videos to choose from`);
    }, 200);
  });
}

// ---- Progress ------------------------------------------------------------------------------------------------

function poll(address, use) {
  const again = async () => {
    let goesOn = true;
    try {
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      goesOn = use(await answer.json());
    } catch {
      use(null);
    }
    if (goesOn) setTimeout(again, POLL_MILLISECONDS);
  };
  setTimeout(again, POLL_MILLISECONDS);
}

// Progress is shown at once, but read out only when a new stage begins, and now and then.
function teller(element) {
  const [line, aloud] = [element.querySelector(".line"), element.querySelector("[role=status]")];
  let [stage, spoken] = ["", 0];
  return (text) => {
    say(line, text);
    const now = text.replace(/[\d.,]+/g, "");
    if (now === stage && Date.now() - spoken < ALOUD_MILLISECONDS) return;
    [stage, spoken] = [now, Date.now()];
    say(aloud, text);
  };
}

for (const job of document.querySelectorAll("[data-job]")) {
  const tell = teller(job);
  poll(`/jobs/${job.dataset.job}`, (answer) => {
    tell(answer?.sentence ?? answer?.error ?? GONE);
    if (answer?.is_ended) location.reload();
    return !answer?.is_ended && !answer?.error;
  });
}

for (const index of document.querySelectorAll("[data-index]")) {
  const [tell, bar] = [teller(index), index.querySelector("progress")];
  poll("/api/status", (answer) => {
    tell(answer?.index?.sentence ?? GONE);
    if (answer?.index?.num_total) [bar.max, bar.value] = [answer.index.num_total, answer.index.num_done];
    const isOver = Boolean(answer?.index?.is_ready || answer?.index?.has_failed);
    bar.hidden = isOver;
    return !isOver;
  });
}

const result = location.hash === "#result" && document.querySelector("#result");
if (result) result.focus({ preventScroll: true });
