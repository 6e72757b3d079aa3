// What was found in one image: verdict, regions, tags, and what the reader makes of them.

import { download, h } from "./dom.js";
import { annotatedPng, corrections, report, whyNoCorrections } from "./exports.js";
import { stabilityPanel } from "./stability.js";
import { PALETTE, clamp, makeStage } from "./stage.js";
import { FAULTS_NOTE, TAGS, kindOf, percent, sentenceOf, verdictOf, weightSentence } from "./words.js";

let current = null;

// What the reader fills in or opens is made once and put back on each refresh: with its text, its cursor, its state.
const editors = new WeakMap();
const answers = new WeakMap();

function madeOnce(kept, key, make) {
  if (!kept.has(key)) kept.set(key, make());
  return kept.get(key);
}

/** Shows an examination, or what is new in the one that is shown. */
export function showResult(place, item, again) {
  if (current?.item !== item) {
    const stage = makeStage(item, { select: (index) => select(index), drawn: (box) => drawn(box), typed: (box) => typed(box) });
    const side = h("div", { class: "side" });
    current = { item, stage, side, again, target: null };
    place.replaceChildren(stage.element, side);
  }
  refresh();
}

function refresh() {
  const { item, stage, side } = current;
  const focused = document.activeElement?.dataset?.focus;
  stage.update();
  side.replaceChildren(...(item.detection ? foundParts(item) : waitingParts(item)));
  mark();
  if (focused) side.querySelector(`[data-focus="${focused}"]`)?.focus();
}

function waitingParts(item) {
  if (item.state === "failed") {
    return [h("p", { class: "file" }, item.name), h("h2", { class: "headline" }, "Not examined"), h("p", {}, item.problem.message), h("p", { class: "fine" }, item.problem.remedy),
      ...(item.problem.mayPass ? [h("p", { class: "row" }, h("button", { type: "button", class: "button small", onclick: current.again }, "Try again"))] : [])];
  }
  const words = item.state === "waiting" ? "Waiting for its turn" : item.regions.length ? "Looking on …" : "Looking …";
  return [h("p", { class: "file" }, item.name), h("h2", { class: "headline pending" }, words), regionList(item)];
}

function foundParts(item) {
  const found = item.detection;
  return [
    h("p", { class: "file" }, item.name),
    h("h2", { class: `headline verdict-${kindOf(found)}` }, verdictOf(found).short),
    found.probability === null ? null : weight(found),
    h("p", {}, sentenceOf(found)),
    ...found.notes.map((note) => h("p", { class: "fine" }, `${note}.`)),
    found.is_strict ? null : h("p", { class: "fine" }, FAULTS_NOTE),
    h("h3", {}, item.regions.length ? "Where, and what" : "Regions"),
    item.regions.length ? null : h("p", { class: "fine" }, "None is marked."),
    regionList(item),
    h("p", { class: "row" }, h("button", { type: "button", class: "button small", "data-focus": "add", onclick: () => startDrawing(-1) }, "Mark another region")),
    tagList(found),
    stabilityPanel(item, () => current.item === item && refresh()),
    origin(found),
    ownVerdict(item),
    saving(item),
    madeOnce(answers, found, () => about(found)),
  ].filter((part) => part !== null);
}

function weight(found) {
  const marker = h("i", { class: "marker" });
  marker.style.insetInlineStart = `${found.probability * 100}%`;
  const band = h("i", { class: "band" });
  const [low, high] = found.calibration?.unsure ?? [0, 0];
  band.style.insetInlineStart = `${low * 100}%`;
  band.style.inlineSize = `${(Math.min(high, 1) - low) * 100}%`;
  const label = found.calibration ? "probability that it is generated" : "of the model’s weight is on generated";
  return h("div", { class: "weight" },
    h("div", { class: "scale", role: "img", "aria-label": `${percent(found.probability)} ${label}` }, band, marker),
    h("div", { class: "ends", "aria-hidden": "true" }, h("span", {}, "real"), h("span", {}, "generated")),
    h("p", { class: "fine" }, weightSentence(found)));
}

function regionList(item) {
  return h("ol", { class: "regions" }, item.regions.map((region, index) => {
    const [colour, ink] = PALETTE[index % PALETTE.length];
    const badge = h("span", { class: "number", "aria-hidden": "true" }, String(index + 1));
    badge.style.background = colour;
    badge.style.color = ink;
    const pick = h("button", {
      type: "button", class: "caption", "data-focus": `region-${index}`, "aria-pressed": String(item.selected === index),
      onclick: () => { select(index); current.stage.scrollToSelected(); }, onfocus: () => select(index), onmouseenter: () => select(index),
    }, badge, h("span", {}, region.caption || "(no caption)"), region.state === "open" ? null : h("em", { class: "state" }, region.state));
    return h("li", { class: `region ${region.state}`, "data-index": index }, pick, item.detection ? tools(item, region, index) : null,
      item.editing === index ? madeOnce(editors, region, () => editor(item, region, index)).element : null);
  }));
}

function tools(item, region, index) {
  const set = (state) => () => {
    region.state = region.state === state ? "open" : state;
    item.isChanged = true;
    refresh();
  };
  const button = (text, name, action, isOn) => h("button", {
    type: "button", class: "tool", "data-focus": `${name}-${index}`, "aria-pressed": isOn === undefined ? null : String(isOn),
    "aria-label": `${text} region ${index + 1}`, onclick: action,
  }, text);
  return h("div", { class: "tools" },
    button("Accept", "accept", set("accepted"), region.state === "accepted"),
    button("Reject", "reject", set("rejected"), region.state === "rejected"),
    button("Redraw", "redraw", () => startDrawing(index)),
    button("Edit", "edit", () => {
      if (item.editing === index) editors.delete(region);
      item.editing = item.editing === index ? -1 : index;
      refresh();
    }, item.editing === index));
}

/** Caption and corners as text, for those who cannot or will not draw. */
function editor(item, region, index) {
  const names = ["left", "top", "right", "bottom"];
  const limits = [item.size.width_px, item.size.height_px, item.size.width_px, item.size.height_px];
  const caption = h("input", { type: "text", value: region.caption, maxlength: "240", "data-focus": `caption-${index}` });
  const corners = names.map((name, k) => h("input", { type: "number", min: "0", max: limits[k], value: Math.round(region.box[k]), "data-focus": `${name}-${index}` }));
  const apply = () => {
    const [x0, y0, x1, y1] = corners.map((input, k) => clamp(Number(input.value), 0, limits[k]));
    const text = caption.value.trim();
    if (x0 >= x1 || y0 >= y1 || text === "") {
      problem.textContent = text === "" ? "A caption is needed." : "Left must be less than right, and top less than bottom.";
      return;
    }
    Object.assign(region, { box: [x0, y0, x1, y1], caption: text, state: "drawn" });
    editors.delete(region);
    item.editing = -1;
    item.isChanged = true;
    refresh();
  };
  const problem = h("p", { class: "fine problem", role: "alert" });
  const element = h("form", { class: "editor", onsubmit: (event) => { event.preventDefault(); apply(); } },
    h("label", {}, "Caption", caption),
    h("div", { class: "corners" }, names.map((name, k) => h("label", {}, `${name}, px`, corners[k]))),
    problem, h("button", { class: "button small" }, "Apply"));
  const place = (box) => corners.forEach((input, k) => { input.value = Math.round(box[k]); });
  return { element, place };
}

function tagList(found) {
  if (!found.tags.length) return null;
  return h("div", {}, h("h3", {}, "Kinds of flaw"),
    h("dl", { class: "tags" }, found.tags.flatMap((tag) => [h("dt", {}, tag), h("dd", {}, TAGS[tag] ?? "")])));
}

/** What the file says of itself, apart from what its pixels show. */
function origin(found) {
  if (!found.provenance) return null;
  return h("div", { class: "origin" }, h("h3", {}, "What the file says of itself"),
    found.provenance.sentences.map((sentence) => h("p", { class: found.provenance.marks.length || found.provenance.c2pa !== "absent" ? "" : "fine" }, sentence)));
}

function ownVerdict(item) {
  const choice = (verdict) => h("label", {}, h("input", {
    type: "radio", name: "own-verdict", value: verdict, checked: item.verdict === verdict, "data-focus": `own-${verdict}`,
    onchange: () => { Object.assign(item, { verdict, isChanged: true }); refresh(); },
  }), verdict);
  return h("fieldset", { class: "own" }, h("legend", {}, "Your verdict, for the corrections"), choice("real"), choice("generated"));
}

function saving(item) {
  const stem = item.name.replace(/\.[^.]*$/, "");
  const why = whyNoCorrections(item);
  const said = h("p", { class: "fine", role: "alert" });
  const button = (text, name, make, isOff) => h("button", {
    type: "button", class: "button small", "data-focus": `save-${name}`, disabled: Boolean(isOff),
    onclick: async () => {
      said.textContent = "";
      try {
        download(...(await make()));
      } catch (error) {  // of images that the browser cannot draw, and of files that were changed since
        said.textContent = `${text} cannot be made: ${error.message || error}`;
      }
    },
  }, text);
  return h("div", { class: "saving" }, h("h3", {}, "Take it with you"), h("p", { class: "row" },
    button("JSON", "json", () => [`${stem}.json`, new Blob([JSON.stringify(item.detection, null, 2)], { type: "application/json" })]),
    button("Report", "report", async () => [`${stem}.html`, await report(item)]),
    button("Annotated PNG", "png", async () => [`${stem}.annotated.png`, await annotatedPng(item)]),
    button("Corrections", "corrections", async () => {
      const file = await corrections(item);
      item.isChanged = false;
      return [`${stem}.labelme.json`, file];
    }, why)),
    said, h("p", { class: "fine" }, why || "Corrections are a LabelMe file with the image in it: fxray data import labelme FILE DST."));
}

function about(found) {
  const facts = [
    ["Size", `${found.width_px} × ${found.height_px} px`], ["SHA-256", found.sha256], ["Model", found.model.id],
    ["Policy version", String(found.model.policy_version)], ["Time", `${found.seconds.toFixed(2)} s`],
    ["Faults of form", found.faults.join(", ") || "none"],
  ];
  return h("details", {}, h("summary", { "data-focus": "about" }, "The answer itself"),
    h("dl", { class: "facts" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])), h("pre", { tabindex: "0" }, found.answer));
}

function startDrawing(index) {
  current.target = index;
  current.stage.draw();
}

function drawn(box) {
  const { item, target } = current;
  item.isChanged = true;
  if (target >= 0) {
    Object.assign(item.regions[target], { box, state: "drawn" });
    editors.get(item.regions[target])?.place(box);
  } else item.regions.push({ box, caption: "", state: "drawn" });
  item.selected = target >= 0 ? target : item.regions.length - 1;
  if (target < 0) {
    item.verdict = "generated";
    item.editing = item.selected;
  }
  refresh();
  if (target < 0) current.side.querySelector(`[data-focus="caption-${item.selected}"]`)?.focus();
}

/** The corners are typed: of a new region, or of the one that was to be redrawn, which keeps its own. */
function typed(box) {
  const { item, target, side } = current;
  if (target < 0) return drawn(box);
  item.editing = target;
  refresh();
  side.querySelector(`[data-focus="left-${target}"]`)?.focus();
}

function select(index) {
  if (current.item.selected === index) return;
  current.item.selected = index;
  mark();
}

function mark() {
  const { item, stage, side } = current;
  stage.mark();
  for (const entry of side.querySelectorAll(".region")) {
    const isSelected = Number(entry.dataset.index) === item.selected;
    entry.classList.toggle("selected", isSelected);
    entry.querySelector(".caption").setAttribute("aria-pressed", String(isSelected));
  }
}
