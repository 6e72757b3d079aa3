// The page of a study: one image, two annotations, one choice. A vote counts once the server says that it is saved.

import { announce, byId, h } from "./dom.js";
import { PALETTE, makeStage } from "./stage.js";
import { VERDICTS, count } from "./words.js";

const LETTERS = { left: "A", right: "B" };
const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 3: "neutral", ArrowDown: "neutral" };
const MAX_TRIES = 6;
const MAX_PAUSE_S = 8;

const images = new Map(); // by position: what the address of the image will be
let state = null;
let busy = true;
let shownAt = 0;

class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? "The server gave no reason.");
    Object.assign(this, { status, remedy: body.remedy ?? "" });
  }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const newVoteId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** A good response; asked for again while the server is away or busy, which for a vote with its id is safe. */
async function ask(path, options = {}) {
  for (let tried = 1; ; tried += 1) {
    let problem;
    try {
      const response = await fetch(path, { ...options, headers: { ...options.headers, Authorization: `Bearer ${location.hash.slice(1)}` } });
      if (response.ok) {
        if (tried > 1) notice("");
        return response;
      }
      problem = new Problem(response.status, await response.json().catch(() => ({})));
    } catch {
      problem = new Problem(503, { detail: "The server does not answer." });
    }
    if (problem.status !== 503 || tried === MAX_TRIES) throw problem;
    notice(`${problem.message} Trying again …`);
    await pause(Math.min(2 ** tried / 4, MAX_PAUSE_S));
  }
}

function notice(text, again = null) {
  const place = byId("notice");
  place.replaceChildren(text, again ? h("button", { type: "button", class: "button small", onclick: again }, "Try again") : "");
  place.hidden = text === "";
}

function imageAt(position) {
  if (!images.has(position)) {
    const loading = ask(`/v1/pairs/${position}/image`).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob));
    loading.catch(() => images.delete(position));
    images.set(position, loading);
  }
  return images.get(position);
}

/** Does one thing at a time, and whether it went well; what fails is said, and can be tried again. */
async function settle(action) {
  setBusy(true);
  notice("");
  try {
    await show(await action());
    return true;
  } catch (problem) {
    if (problem.status === 409) {
      if (await reload()) notice(`${problem.message[0].toUpperCase()}${problem.message.slice(1)}.`);
    } else if (problem.status === 401) {
      stop("This link is not known. Open the whole link that you were given.");
    } else {
      notice(`${problem.message} ${problem.remedy} Your last answer may not be saved.`, () => settle(action));
    }
    return false;
  }
}

function stop(text) {
  for (const id of ["ask", "choices", "pace", "undo", "end"]) byId(id).hidden = true;
  notice(text);
}

const reload = () => settle(async () => (await ask("/v1/pair")).json());

function choose(choice) {
  if (busy || !state?.pair) return;
  const id = newVoteId();
  const seconds = Math.min((performance.now() - shownAt) / 1000, 86_400);
  const body = JSON.stringify({ position: state.pair.position, choice, seconds });
  byId(`choose-${choice}`).classList.add("chosen");
  settle(async () => {
    const saved = await (await ask(`/v1/votes/${id}`, { method: "PUT", body, headers: { "Content-Type": "application/json" } })).json();
    byId("how").open = false;
    announce(saved.pair ? `Saved. Pair ${saved.num_done + 1} of ${saved.num_pairs}.` : "Saved. That was the last pair.");
    return saved;
  });
}

function undo() {
  if (busy || !state?.last_vote) return;
  const id = state.last_vote;
  settle(async () => {
    const saved = await (await ask(`/v1/votes/${id}`, { method: "DELETE" })).json();
    announce("Your last answer is undone.");
    return saved;
  });
}

function setBusy(isBusy) {
  busy = isBusy;
  for (const button of byId("choices").children) button.setAttribute("aria-disabled", String(isBusy));
  byId("undo").disabled = isBusy || !state?.last_vote;
}

async function show(next) {
  const { pair } = next;
  const url = pair ? await imageAt(pair.position) : "";
  for (const [position, loading] of images) {
    if (position === pair?.position) continue;
    images.delete(position);
    loading.then(URL.revokeObjectURL, () => {});
  }
  const hadFocus = byId("choices").contains(document.activeElement);
  state = next;
  for (const id of ["ask", "choices"]) byId(id).hidden = !pair;
  byId("end").hidden = Boolean(pair);
  byId("pace").hidden = byId("undo").hidden = false;
  byId("count").textContent = pair ? `Pair ${next.num_done + 1} of ${next.num_pairs}` : count(next.num_done, "pair");
  Object.assign(byId("bar"), { value: next.num_done, max: next.num_pairs || 1 });
  if (pair) {
    for (const side of ["left", "right"]) byId(side).replaceChildren(...annotation(side, pair, url));
    await Promise.allSettled([...document.querySelectorAll(".canvas img")].map((image) => image.decode()));
  } else if (hadFocus) {
    byId("thanks").focus();
  }
  for (const button of byId("choices").children) button.classList.remove("chosen");
  window.scrollTo({ top: 0, behavior: "instant" });
  shownAt = performance.now();
  setBusy(false);
  if (next.next_position !== null) imageAt(next.next_position).catch(() => {});
}

/** One side: verdict, image with boxes, captions. Who says so is not known here. */
function annotation(side, pair, url) {
  const said = pair[side];
  const letter = LETTERS[side];
  const item = {
    name: `Annotation ${letter}`, url, size: pair, zoom: 0, selected: -1,
    regions: said.regions.map((region) => ({ ...region, state: "open" })),
  };
  const stage = makeStage(item, { select, drawn: () => {} });
  const rows = item.regions.map((region, index) => row(region, index, () => {
    select(index);
    stage.scrollToSelected();
  }, select));
  function select(index) {
    item.selected = index;
    stage.mark();
    rows.forEach((entry, k) => entry.classList.toggle("selected", k === index));
  }
  stage.element.addEventListener("mouseleave", () => select(-1));
  const list = rows.length ? h("ol", { class: "regions", onmouseleave: () => select(-1) }, rows) : h("p", { class: "none" }, "No place is marked.");
  const kind = said.verdict ?? "none";
  return [
    h("h2", { id: `${side}-title` }, h("span", { class: "visually-hidden" }, "Annotation "), h("span", { class: "letter" }, letter), h("span", { class: `verdict-${kind}` }, VERDICTS[kind].short)),
    stage.element, list,
  ];
}

function row(region, index, onclick, select) {
  const [colour, ink] = PALETTE[index % PALETTE.length];
  const badge = h("span", { class: "number" }, String(index + 1));
  Object.assign(badge.style, { background: colour, color: ink });
  return h("li", { class: "region" }, h("button", {
    type: "button", class: "caption", onclick, onfocus: () => select(index), onmouseenter: () => select(index),
  }, badge, h("span", {}, region.caption || "(no caption)")));
}

// Before the stage's own keys: 1 is a vote here, wherever the focus is. An enlarged image keeps its arrows.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isScrolling = event.key.startsWith("Arrow") && event.target.closest?.(".view:not(.fit)");
  const isUndo = event.key.toLowerCase() === "u";
  if (isScrolling || !(event.key in KEYS || isUndo)) return;
  event.preventDefault();
  event.stopPropagation();
  if (event.repeat) return;
  if (isUndo) undo();
  else choose(KEYS[event.key]);
}, { capture: true });

for (const choice of ["left", "neutral", "right"]) byId(`choose-${choice}`).addEventListener("click", () => choose(choice));
byId("undo").addEventListener("click", undo);
window.addEventListener("hashchange", () => location.reload());
document.body.classList.toggle("touch", navigator.maxTouchPoints > 0);
if (location.hash.length > 1) reload();
else stop("This page needs the whole link that you were given.");
