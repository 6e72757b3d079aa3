// One image on its way: waiting, running, then what was found or why not, and what a person made of it.

let number = 0;

/** Marks that show as nothing or turn the text behind them round, so that a name passes for another one. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/**
 * @param {File} file - The image.
 * @param {string} model - Name of the model that is to answer; "" for the service's choice.
 * Regions as the reader sees them are `{box, caption, state}`; state is "open", "accepted", "rejected" or "drawn".
 */
export function examination(file, model) {
  number += 1;
  const item = {
    file,
    model,
    name: file.name.replace(UNSEEN, " ") || `pasted image ${number}`,
    url: URL.createObjectURL(file),
    state: "waiting",
    size: null,
    regions: [],
    detection: null,
    problem: null,
    verdict: null,
    stability: { state: "open", found: null, problem: null },
    selected: -1,
    editing: -1,
    zoom: 0,
    isChanged: false,  // since the corrections were last taken along
  };
  item.draft = (kind, data) => {
    if (kind === "image") Object.assign(item, { size: data.image, regions: [] });  // a try before may have left some
    if (kind === "region") item.regions.push({ ...data.region, state: "open" });
  };
  item.settle = (detection) => {
    item.state = "done";
    item.detection = detection;
    item.size = { width_px: detection.width_px, height_px: detection.height_px };
    item.regions = detection.regions.map((region) => ({ ...region, box: [...region.box], state: "open" }));
    // Where probability and answer do not say the same, it is for the reader to say.
    item.verdict = detection.assessment === detection.verdict ? detection.verdict : null;
  };
  item.wait = () => Object.assign(item, { state: "waiting", problem: null, regions: [] });
  item.fail = (problem) => {
    item.state = "failed";
    item.problem = problem;
  };
  /** What a person leaves of the regions. */
  item.kept = () => item.regions.filter((region) => region.state !== "rejected");
  return item;
}
