// The page: takes images in, has them examined a few at a time, and shows what was found.

import * as api from "./api.js";
import { announce, byId, download, h } from "./dom.js";
import { examination } from "./examination.js";
import { showResult } from "./result.js";
import { count, kindOf, percent, verdictOf } from "./words.js";

const AT_ONCE = 4;
const MAX_FILES = 500;

const items = [];
let shown = null;
let running = 0;

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = text === "";
}

function add(files) {
  const images = [...files].filter((file) => file.type === "" || file.type.startsWith("image/"));
  if (images.length === 0) {
    notice("None of these files is an image. JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF and JPEG 2000 are read.");
    return;
  }
  api.askForKeyAnew();
  const room = MAX_FILES - items.length;
  notice(images.length > room ? `At most ${MAX_FILES} images at a time; left out: ${images.length - room}. Larger sets go to /v1/batches.` : "");
  const added = images.slice(0, room).map((file) => examination(file, byId("models").value));
  items.push(...added);
  document.body.classList.add("busy-page");
  byId("queue").hidden = items.length < 2;
  for (const item of added) byId("rows").append(rowOf(item));
  if (added.length) show(added[0]);
  pump();
}

function pump() {
  while (running < AT_ONCE) {
    const item = items.find((candidate) => candidate.state === "waiting");
    if (!item) break;
    running += 1;
    examine(item).finally(() => {
      running -= 1;
      pump();
    });
  }
  refreshProgress();
}

async function examine(item) {
  item.state = "running";
  refresh(item);
  try {
    item.settle(await api.detect(item.file, item.model, (kind, data) => {
      item.draft(kind, data);
      refresh(item);
    }));
    announce(`${item.name}: ${verdictOf(item.detection).short}, ${count(item.detection.regions.length, "region")}.`);
  } catch (error) {
    item.fail(error);
    announce(`${item.name} could not be examined: ${error.message}`);
  }
  refresh(item);
}

function show(item) {
  shown = item;
  byId("result").hidden = false;
  showResult(byId("result"), item, again);
  for (const each of items) markRow(each);
}

function refresh(item) {
  updateRow(item);
  refreshProgress();
  if (item === shown) showResult(byId("result"), item, again);
}

/** Asks once more for the images that nobody has looked at, as where the service was away. */
function again() {
  api.askForKeyAnew();
  for (const item of items.filter((candidate) => candidate.problem?.mayPass)) {
    item.wait();
    refresh(item);
  }
  pump();
}

function refreshProgress() {
  const settled = items.filter((item) => item.state === "done" || item.state === "failed").length;
  byId("progress").textContent = settled === items.length ? `${settled} examined` : `${settled} of ${items.length} examined`;
  byId("again").hidden = !items.some((item) => item.problem?.mayPass);
  byId("save-all").disabled = !items.some((item) => item.detection);
  const found = items.filter((item) => item.detection).map((item) => item.detection);
  const isCalibrated = found.length > 0 && found.every((detection) => detection.calibration);
  byId("weight-head").textContent = `${isCalibrated ? "Probability of" : "Weight on"} “generated”`;
}

function rowOf(item) {
  item.cells = { verdict: h("td"), weight: h("td", { class: "num" }), regions: h("td", { class: "num" }) };
  item.button = h("button", { type: "button", class: "pick", onclick: () => { show(item); byId("result").focus({ preventScroll: false }); } },
    h("img", { src: item.url, alt: "", class: "thumb", loading: "lazy", onerror: (event) => event.target.classList.add("unseen") }), h("span", {}, item.name));
  item.row = h("tr", {}, h("th", { scope: "row" }, item.button), item.cells.verdict, item.cells.weight, item.cells.regions);
  updateRow(item);
  return item.row;
}

function updateRow(item) {
  const { verdict, weight, regions } = item.cells;
  const found = item.detection;
  const words = { waiting: "waiting", running: "looking …", failed: "not examined" };
  verdict.textContent = found ? verdictOf(found).short : words[item.state];
  verdict.className = found ? `verdict-${kindOf(found)}` : item.state;
  weight.textContent = found && found.probability !== null ? percent(found.probability) : "";
  regions.textContent = found ? String(found.regions.length) : "";
}

function markRow(item) {
  item.row.classList.toggle("shown", item === shown);
  item.button.setAttribute("aria-pressed", String(item === shown));
}

function listen() {
  const drop = byId("drop");
  for (const id of ["files", "camera"]) {
    byId(id).addEventListener("change", (event) => {
      add(event.target.files);
      event.target.value = "";
    });
  }
  let depth = 0;
  const over = (change) => {
    depth = Math.max(0, depth + change);
    drop.classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    if (event.dataTransfer.files.length) add(event.dataTransfer.files);
    else notice("Addresses are not fetched. Save the image first, then drop the file.");
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) add(event.clipboardData.files);
  });
  // A reader's corrections, and what is still asked for, are nowhere but in this page.
  window.addEventListener("beforeunload", (event) => {
    if (items.some((item) => item.isChanged || item.state === "waiting" || item.state === "running")) event.preventDefault();
  });
  byId("again").addEventListener("click", again);
  byId("save-all").addEventListener("click", () => {
    const found = items.filter((item) => item.detection).map((item) => item.detection);
    download("fxray.json", new Blob([JSON.stringify({ detections: found }, null, 2)], { type: "application/json" }));
  });
}

listen();
document.body.classList.toggle("touch", navigator.maxTouchPoints > 0);
api.models().then((models) => {
  const [model] = models;
  byId("model").textContent = model.adapter ? `${model.base}, adapter ${model.adapter_sha256.slice(0, 8)}` : model.base;
  if (models.length === 1) return;
  byId("models").append(...models.map(({ name, adapter }) => h("option", { value: name }, adapter ? name : `${name} (no adapter)`)));
  byId("choice").hidden = false;
  byId("model").hidden = true;
}, (error) => notice(`${error.message} ${error.remedy}`.trim()));
