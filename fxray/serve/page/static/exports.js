// Files to take along: a report, an annotated picture, and corrections that `fxray data import labelme` reads.

import { sentence } from "./stability.js";
import { PALETTE } from "./stage.js";
import { TAGS, sentenceOf, verdictOf, weightSentence } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

async function base64(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}

/** Why nothing could be made of the corrections as they stand; "" where all is well. */
export function whyNoCorrections(item) {
  const kept = item.kept();
  if (!item.verdict) return "Choose your verdict before you take the corrections.";
  if (item.verdict === "generated" && kept.length === 0) return "A generated image needs at least one region that is not rejected.";
  if (item.verdict === "real" && kept.length > 0) return "A real image has no regions: reject them, or choose generated.";
  if (kept.some((region) => !region.caption.trim())) return "Every region needs a caption.";
  return "";
}

export async function corrections(item) {
  const flags = { [item.verdict]: true };
  if (item.verdict === "generated") for (const tag of item.detection.tags) flags[tag] = true;
  const shapes = item.kept().map((region) => ({
    label: "flaw", description: region.caption, shape_type: "rectangle", group_id: null, flags: {},
    points: [[region.box[0], region.box[1]], [region.box[2], region.box[3]]],
  }));
  const document = {
    version: "5.5.0", flags, shapes, imagePath: item.file.name || item.name, imageData: await base64(item.file),
    imageHeight: item.size.height_px, imageWidth: item.size.width_px,
  };
  return new Blob([JSON.stringify(document)], { type: "application/json" });
}

/** The image in its own pixels with boxes and numbers, and the captions below it. */
export async function annotatedPng(item) {
  const bitmap = await createImageBitmap(item.file, { imageOrientation: "from-image" });
  const canvas = document.createElement("canvas");
  const width = Math.max(bitmap.width, 480);
  const font = Math.max(14, Math.round(width / 42));
  const context = canvas.getContext("2d");
  context.font = `${font}px system-ui, sans-serif`;
  const lines = [
    [null, verdictOf(item.detection).short],
    ...item.regions.flatMap((region, index) => region.state === "rejected" ? [] : wrapped(context, region.caption, width - 4 * font).map((line, k) => [k === 0 ? index : -1, line])),
    [null, "Evidence to be checked, not proof."],
  ];
  canvas.width = width;
  canvas.height = bitmap.height + Math.round(font * (1.6 * lines.length + 1.2));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  item.regions.forEach((region, index) => region.state === "rejected" || drawBox(context, region.box, index, font));
  lines.forEach(([index, line], row) => {
    const y = bitmap.height + font * (1.4 + 1.6 * row);
    if (index !== null && index >= 0) drawNumber(context, index, font, y - 0.7 * font, font);
    context.fillStyle = "#1b1f24";
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.font = `${index === null && row === 0 ? 600 : 400} ${font}px system-ui, sans-serif`;
    context.fillText(line, index === null ? font : 3.4 * font, y);
  });
  return new Promise((resolve, reject) => canvas.toBlob(
    (blob) => blob ? resolve(blob) : reject(new Error("The picture is too large for this browser.")), "image/png",
  ));
}

function wrapped(context, text, width) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const joined = `${lines.at(-1)} ${word}`.trim();
    if (context.measureText(joined).width <= width || !lines.at(-1)) lines[lines.length - 1] = joined;
    else lines.push(word);
  }
  return lines.slice(0, 4);
}

function drawBox(context, [x0, y0, x1, y1], index, font) {
  const line = Math.max(2, font / 7);
  for (const [style, extra] of [["#fff", 2], [PALETTE[index % PALETTE.length][0], 0]]) {
    context.strokeStyle = style;
    context.lineWidth = line + extra;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  const height = 1.4 * font;
  const isSmall = Math.min(x1 - x0, y1 - y0) < 2 * height;
  drawNumber(context, index, x0, isSmall ? (y0 >= height ? y0 - height : y1) : y0, font);
}

function drawNumber(context, index, x, y, font) {
  const [colour, ink] = PALETTE[index % PALETTE.length];
  context.font = `700 ${font}px system-ui, sans-serif`;
  const width = context.measureText(String(index + 1)).width + 0.8 * font;
  context.fillStyle = colour;
  context.fillRect(x, y, width, 1.4 * font);
  context.fillStyle = ink;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(String(index + 1), x + width / 2, y + 0.72 * font);
}

const REPORT_CSS = `
body{margin:0 auto;max-width:60rem;padding:2rem 1.25rem;font:16px/1.55 system-ui,sans-serif;color:#1c1b19;background:#fff}
h1{font:500 2.1rem/1.15 "Iowan Old Style",Palatino,Georgia,serif;margin:0 0 .5rem}h2{font-size:1rem;margin:2rem 0 .5rem}
.picture{position:relative;margin:1.5rem 0}.picture img,.picture svg{display:block;width:100%;height:auto}.picture svg{position:absolute;inset:0;height:100%;overflow:visible}
text{font-family:system-ui,sans-serif;font-weight:700;text-anchor:middle;dominant-baseline:central}
rect{fill:none;vector-effect:non-scaling-stroke}.rim{stroke:#fff;stroke-width:5}.line{stroke-width:3}
li b{display:inline-block;min-width:1.6em;text-align:center;margin-right:.6em;border-radius:3px}ol{list-style:none;padding:0}li{margin:.4rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.9rem}dt{color:#5d5a54}dd{margin:0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f5f3ef;padding:1rem;border-radius:6px;font-size:.85rem}.fine{color:#5d5a54;font-size:.9rem}`;

/** One HTML file that needs nothing else: no script, no outside asset, and a policy that says so. */
export async function report(item) {
  const page = document.implementation.createHTMLDocument(`fxray: ${item.name}`);
  const found = item.detection;
  const add = (parent, tag, text, attributes = {}, space = null) => {
    const element = space ? page.createElementNS(space, tag) : page.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  };
  page.documentElement.lang = "en";
  add(page.head, "meta", "", { "http-equiv": "Content-Security-Policy", content: "default-src 'none'; img-src data:; style-src 'unsafe-inline'" });
  add(page.head, "meta", "", { name: "viewport", content: "width=device-width, initial-scale=1" });
  const kept = item.regions.map((region, index) => [region, index]).filter(([region]) => region.state !== "rejected");
  const colours = kept.map(([, index]) => `.c${index}{stroke:${PALETTE[index % PALETTE.length][0]}}b.c${index}{background:${PALETTE[index % PALETTE.length][0]};color:${PALETTE[index % PALETTE.length][1]}}`);
  const body = page.body;
  add(body, "p", item.name, { class: "fine" });
  add(body, "h1", verdictOf(found).short);
  add(body, "p", `${sentenceOf(found)} ${weightSentence(found)}`);
  if (item.stability.found) add(body, "p", sentence(item.stability.found));
  const picture = add(body, "div", "", { class: "picture" });
  add(picture, "img", "", { alt: item.name, src: `data:${item.file.type || "image/png"};base64,${await base64(item.file)}` });
  const overlay = add(picture, "svg", "", { viewBox: `0 0 ${found.width_px} ${found.height_px}`, "aria-hidden": "true" }, SVG);
  const font = found.width_px / 40;
  for (const [{ box: [x, y, right, bottom] }, index] of kept) {
    for (const kind of ["rim", `line c${index}`]) add(overlay, "rect", "", { class: kind, x, y, width: right - x, height: bottom - y }, SVG);
    const [colour, ink] = PALETTE[index % PALETTE.length];
    const height = 1.4 * font;
    const top = Math.min(right - x, bottom - y) >= 2 * height ? y : y >= height ? y - height : bottom;
    const left = Math.min(x, found.width_px - 2 * font);
    add(overlay, "path", "", { fill: colour, d: `M${left} ${top}h${2 * font}v${height}h${-2 * font}z` }, SVG);
    add(overlay, "text", String(index + 1), { fill: ink, x: left + font, y: top + height / 2, "font-size": font }, SVG);
  }
  if (kept.length) add(body, "h2", "Where, and what");
  const list = add(body, "ol");
  for (const [region, index] of kept) {
    const entry = add(list, "li");
    add(entry, "b", String(index + 1), { class: `c${index}` });
    entry.append(region.caption || "(no caption)", region.state === "open" ? "" : ` (${region.state} by the reader)`);
  }
  const facts = add(body, "dl");
  for (const tag of found.tags) {
    add(facts, "dt", tag);
    add(facts, "dd", TAGS[tag] ?? "");
  }
  const rows = [["Size", `${found.width_px} × ${found.height_px} px`], ["SHA-256", found.sha256], ["Model", found.model.id], ["Adapter", found.model.adapter_sha256 ?? "none"],
    ["Policy version", String(found.model.policy_version)], ["Made", new Date().toISOString()]];
  for (const [name, value] of rows) {
    add(facts, "dt", name);
    add(facts, "dd", value);
  }
  add(body, "h2", "The answer itself");
  add(body, "pre", found.answer);
  // This page's policy holds for documents that it makes, so the style, which holds nothing foreign, comes in as text.
  const [head, ...rest] = new XMLSerializer().serializeToString(page.documentElement).split("</head>");
  const style = `<style>${REPORT_CSS}.picture{aspect-ratio:${found.width_px}/${found.height_px}}${colours.join("")}</style></head>`;
  return new Blob(["<!doctype html>\n", head, style, rest.join("</head>")], { type: "text/html" });
}
