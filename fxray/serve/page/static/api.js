// Talks to the service that this page came from, and to nothing else.

import { byId } from "./dom.js";

const KEY = "fxray-key";
const MAX_TRIES = 6;

export class Problem extends Error {
  constructor(body) {
    super(body.detail ?? "the service gave no reason");
    this.remedy = body.remedy ?? "";
    this.status = body.status ?? 0;
  }

  /** Whether the same image may well be answered later: it was not the image that was refused. */
  get mayPass() {
    return this.status < 400 || this.status >= 500 || [401, 408, 429].includes(this.status);
  }
}

const keyNow = () => sessionStorage.getItem(KEY);

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

let asking = null;
let isDeclined = false;

/** After a reader gave none, a key is asked for again only when they want something more. */
export function askForKeyAnew() {
  isDeclined = false;
}

/** Asks once for a key, however many requests want one. `refused` is the one that is not accepted, or null. */
function askForKey(refused) {
  if (isDeclined) return false;
  asking ??= new Promise((resolve) => {
    const dialog = byId("ask-key");
    dialog.addEventListener("close", () => {
      asking = null;
      byId("key-refused").hidden = true;
      const key = dialog.returnValue === "ok" ? byId("key").value.trim() : "";
      byId("key").value = "";
      if (key) sessionStorage.setItem(KEY, key);
      isDeclined = key === "";
      resolve(key !== "");
    }, { once: true });
    dialog.returnValue = "";
    byId("key-refused").hidden = !refused;
    dialog.showModal();
  });
  return asking;
}

/** A response that is good; one that may be tried again is, after the time that the service asks for. */
async function ask(path, options = {}) {
  for (let tried = 1; ; tried += 1) {
    let response;
    const key = keyNow();
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ detail: "The service does not answer.", remedy: "Check that it still runs, then try again." });
    }
    if (response.ok) return response;
    if (response.status === 401 && (keyNow() !== key || (await askForKey(key)))) continue;
    // A proxy that answers alone, in plain text, is that of a service on a cluster that starts or stops.
    const isAlone = response.status === 404 && !response.headers.get("Content-Type")?.includes("json");
    const retryAfter = isAlone ? 2 : Number(response.headers.get("Retry-After"));
    if ((isAlone || response.status === 503 || response.status === 429) && retryAfter && tried < MAX_TRIES) {
      await pause(Math.min(retryAfter, 30));
      continue;
    }
    const body = await response.json().catch(() => ({}));
    throw new Problem({ status: response.status, ...body });
  }
}

export async function models() {
  return (await (await ask("/v1/models")).json()).models;
}

const asked = (path, model) => (model ? `${path}?model=${encodeURIComponent(model)}` : path);

/** What becomes of a model's answer when the image is changed: a `StabilityOut`. */
export async function stability(file, model) {
  const form = new FormData();
  form.append("images", file, file.name || "pasted image");
  return (await ask(asked("/v1/stability", model), { method: "POST", body: form })).json();
}

/** Events of a stream, as [kind, data]. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => {
      throw new Problem({ detail: "The service went away while it answered.", remedy: "Check that it still runs, then try again." });
    });
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const kind = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (kind && data) yield [kind, JSON.parse(data)];
    }
  }
}

/**
 * Examines one image.
 * @param {File} file - The image.
 * @param {string} model - Name of the model that is to answer; "" for the service's choice.
 * @param {(kind: string, data: object) => void} tell - Called with "image" and "region" while they come.
 * @returns {Promise<object>} The detection.
 */
export async function detect(file, model, tell) {
  for (let tried = 1; ; tried += 1) {
    const form = new FormData();
    form.append("images", file, file.name || "pasted image");
    const response = await ask(asked("/v1/detect", model), { method: "POST", body: form, headers: { Accept: "text/event-stream" } });
    let problem = { detail: "The answer broke off." };
    for await (const [kind, data] of events(response)) {
      if (kind === "detection") return data.detection;
      if (kind === "problem") problem = data.problem;
      else tell(kind, data);
    }
    if (problem.status !== 503 || tried === MAX_TRIES) throw new Problem(problem);
    await pause(problem.retry_after_s ?? 2);
  }
}
