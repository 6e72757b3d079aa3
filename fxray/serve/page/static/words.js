// The words of the page. They claim evidence, never proof.

export const VERDICTS = {
  generated: { short: "Looks generated", sentence: "Flaws like those marked here are what generated images show. Look at them: a photograph can have them too." },
  real: { short: "Looks real", sentence: "No flaw was found. That is evidence, not proof: good generated images have few flaws, too." },
  unsure: { short: "Unsure", sentence: "What was found is no ground for a verdict: with such a probability, too many answers were wrong." },
  none: { short: "No verdict", sentence: "The model’s answer could not be read. Nothing follows from that." },
};

const NOWHERE = "The model named no place for it, so there is little to check.";
const MARKED = "The model marked flaws all the same. Look at them: the verdict is evidence, not proof.";

export const TAGS = {
  "perspective errors": "Lines, sizes or shadows that no camera would see together.",
  "artistic styles": "A painted, rendered or airbrushed look where a photograph was to be expected.",
  "unknown objects": "Things that are nothing: shapes without a name or a use.",
  "structure errors": "Parts that are missing, too many, or joined where they cannot be.",
  "texture errors": "Surfaces that are too smooth, repeated, or noisy without a reason.",
  "other anomalies": "Flaws of none of the other kinds.",
};

export const FAULTS_NOTE = "The answer does not keep to its form in every point; what could be read is shown.";

/** "generated", "real", "unsure" or "none": what follows from the probability. */
export const kindOf = (detection) => detection.assessment ?? "none";

export const verdictOf = (detection) => VERDICTS[kindOf(detection)];

/** Whole percent on one line, but never 0 or 100: nothing here is certain. */
export function percent(fraction) {
  if (fraction > 0.99) return "over 99\u00a0%";
  if (fraction < 0.01) return "under 1\u00a0%";
  return `${Math.round(fraction * 100)}\u00a0%`;
}

/** A calibrated probability may speak against what the answer marks, or fails to mark. */
export function sentenceOf(detection) {
  const kind = kindOf(detection);
  const isMarked = detection.regions.length > 0;
  if (kind === "generated" && !isMarked) return NOWHERE;
  return kind === "real" && isMarked ? MARKED : verdictOf(detection).sentence;
}

/** What the number behind a verdict says, and what it does not. */
export function weightSentence(detection) {
  if (detection.probability === null) return "";
  const used = detection.calibration;
  if (used) {
    const kind = `${count(used.num_sources, "source")}${used.is_synthetic ? ", photographs with planted defects" : ""}`;
    const [low, high] = used.unsure;
    const band = low < high ? ` From ${percent(low)} to ${percent(Math.min(high, 1))} it is unsure.` : "";
    return `Probability that it is generated: ${percent(detection.probability)}, calibrated on ${used.num_images} images of ${used.data} (${kind}). It holds for images like those.${band}`;
  }
  const word = detection.verdict === "real" ? "real" : "generated";
  const fraction = word === "real" ? 1 - detection.probability : detection.probability;
  return `The model puts ${percent(fraction)} of its weight on “${word}”. This number is uncalibrated: it does not say how often such a verdict is right.`;
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
