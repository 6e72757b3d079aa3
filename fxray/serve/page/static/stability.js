// What becomes of an answer when the image is changed, asked for by the reader: it costs as much as many images.

import { stability } from "./api.js";
import { announce, h } from "./dom.js";
import { VERDICTS, count, percent } from "./words.js";

const OVERLAP = "Overlap is that of the copy’s regions with the original’s: 1 where they are the same places, 0 where they are others.";
const shortOf = (assessment) => VERDICTS[assessment ?? "none"].short;

/** The panel; `refresh` is called when there is something new to show. */
export function stabilityPanel(item, refresh) {
  return h("div", { class: "stability" }, h("h3", {}, "Does the answer hold?"), ...parts(item, refresh));
}

function parts(item, refresh) {
  const { state, found, problem } = item.stability;
  if (state === "done") return [h("p", {}, sentence(found)), table(found), h("p", { class: "fine" }, OVERLAP)];
  const ask = h("button", {
    type: "button", class: "button small", "data-focus": "stability", "aria-disabled": state === "running" ? "true" : null,
    onclick: () => state !== "running" && examine(item, refresh),
  }, state === "running" ? "Trying …" : "Try changed copies");
  return [
    h("p", { class: "fine" }, "The image is saved as JPEG again, resized, cropped and made a screenshot, and each copy is examined. This takes longer than the answer did."),
    problem ? h("p", { class: "problem" }, `${problem.message} ${problem.remedy}`.trim()) : null,
    h("p", { class: "row" }, ask),
  ];
}

async function examine(item, refresh) {
  item.stability = { state: "running", found: null, problem: null };
  refresh();
  try {
    item.stability = { state: "done", found: await stability(item.file, item.model), problem: null };
    announce(`${item.name}: ${sentence(item.stability.found)}`);
  } catch (error) {
    item.stability = { state: "open", found: null, problem: error };
    announce(`${item.name}: ${error.message}`);
  }
  refresh();
}

/** What came out, in the words of this page. */
export function sentence(found) {
  const answer = shortOf(found.original.assessment);
  const left = found.not_tried.length ? ` Not tried, as the image is too long: ${found.not_tried.join("; ")}.` : "";
  if (found.num_flips === 0) return `“${answer}” holds under all of ${count(found.num_changes, "change")}. What holds can still be wrong.${left}`;
  return `“${answer}” does not hold under ${found.num_flips} of ${count(found.num_changes, "change")}.${left}`;
}

function table(found) {
  const row = (title, answer, iou, isSame) => h("tr", { class: isSame ? null : "flipped" }, h("th", { scope: "row" }, title),
    h("td", {}, answer.assessment ?? "no verdict"), h("td", { class: "num" }, answer.probability === null ? "–" : percent(answer.probability)), h("td", { class: "num" }, iou));
  const head = ["Image", "Answer", "Generated", "Overlap"];
  return h("table", { class: "trials" },
    h("thead", {}, h("tr", {}, head.map((text, index) => h("th", { scope: "col", class: index > 1 ? "num" : null }, text)))),
    h("tbody", {}, row("as it is", found.original, "", true), found.trials.map((trial) => row(trial.title, trial, trial.iou.toFixed(2), trial.is_same))));
}
