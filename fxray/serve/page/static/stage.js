// The image with its boxes: an SVG in pixels of the original lies over it, so that no box is ever scaled by hand.

import { h, svg } from "./dom.js";

export const PALETTE = [
  ["#d55e00", "#000"], ["#0072b2", "#fff"], ["#009e73", "#000"], ["#cc79a7", "#000"], ["#e69f00", "#000"], ["#56b4e9", "#000"],
];
const ZOOMS = [1, 2, 4, 8];

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/**
 * @param {object} item - An examination.
 * @param {{select: (index: number) => void, drawn: (box: number[]) => void, typed: (box: number[]) => void}} told - What
 *   happens on the stage; `typed` has a box to begin with, where the reader will type its corners.
 */
export function makeStage(item, told) {
  const image = h("img", { src: item.url, alt: `${item.name}, the image that is examined`, draggable: "false" });
  const overlay = svg("svg", { class: "boxes", role: "group", "aria-label": "Regions in the image" });
  const canvas = h("div", { class: "canvas" }, image, overlay);
  const view = h("div", { class: "view", tabindex: "0", role: "region", "aria-label": "Image; scrolls when it is enlarged" }, canvas);
  const label = h("span", { class: "zoom-label", role: "status" });
  const zoom = (step) => {
    const index = clamp(ZOOMS.indexOf(item.zoom) + step, -1, ZOOMS.length - 1);
    setZoom(index < 0 ? 0 : ZOOMS[index]);
  };
  const bar = h("div", { class: "zoom" },
    h("button", { type: "button", class: "button small", onclick: () => setZoom(0) }, "Fit"),
    h("button", { type: "button", class: "button small", onclick: () => setZoom(1) }, "Original pixels"),
    h("button", { type: "button", class: "button small", "aria-label": "Smaller", onclick: () => zoom(-1) }, "−"),
    h("button", { type: "button", class: "button small", "aria-label": "Larger", onclick: () => zoom(1) }, "+"),
    label);
  const element = h("figure", { class: "stage" }, view, h("figcaption", {}, bar));
  let size = { width_px: 1, height_px: 1 };
  let drawing = null;

  function setZoom(value) {
    item.zoom = value;
    view.classList.toggle("fit", value === 0);
    // In CSS pixels an image pixel is 1 / devicePixelRatio wide where it covers one pixel of the screen.
    canvas.style.width = value === 0 ? "" : `${(size.width_px * value) / window.devicePixelRatio}px`;
    tell();
    place();
    scrollToSelected();
  }

  function tell() {
    if (drawing) label.textContent = "Draw a box over the image. Enter: type its corners. Escape: none.";
    else label.textContent = item.zoom === 0 ? "fitted" : `${item.zoom * 100} %`;
  }

  /** Marks have one size on the screen, however large the image is shown. */
  function place() {
    const shownWidth = image.getBoundingClientRect().width;
    if (shownWidth === 0) return;
    const unit = size.width_px / shownWidth;
    overlay.style.setProperty("--unit", String(unit));
    const taken = [];
    for (const mark of overlay.querySelectorAll(".mark-group")) placeNumber(mark, unit, size, taken);
  }

  function scrollToSelected() {
    const region = item.regions[item.selected];
    if (!region || item.zoom === 0) return;
    const scale = image.getBoundingClientRect().width / size.width_px;
    const [x0, y0, x1, y1] = region.box;
    view.scrollTo({ left: ((x0 + x1) / 2) * scale - view.clientWidth / 2, top: ((y0 + y1) / 2) * scale - view.clientHeight / 2 });
  }

  function update() {
    size = item.size ?? { width_px: image.naturalWidth || 1, height_px: image.naturalHeight || 1 };
    overlay.setAttribute("viewBox", `0 0 ${size.width_px} ${size.height_px}`);
    canvas.style.aspectRatio = `${size.width_px} / ${size.height_px}`;
    canvas.style.setProperty("--aspect", String(size.width_px / size.height_px));
    const focused = overlay.contains(document.activeElement) ? document.activeElement.dataset.index : null;
    overlay.replaceChildren(...item.regions.map((region, index) => boxOf(region, index)), ...(drawing ? [drawing.box] : []));
    if (focused !== null) overlay.querySelector(`[data-index="${focused}"]`)?.focus({ preventScroll: true });
    mark();
    place();
  }

  function boxOf(region, index) {
    const [x0, y0, x1, y1] = region.box;
    const [colour, ink] = PALETTE[index % PALETTE.length];
    const rectangle = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    return svg("g", {
      class: `mark-group ${region.state}`, tabindex: "0", role: "button", "data-index": index, "data-box": region.box.join(" "),
      "aria-label": `Region ${index + 1}: ${region.caption || "no caption"}`,
      onfocus: () => told.select(index), onmouseenter: () => drawing === null && told.select(index),
    },
    svg("rect", { ...rectangle, class: "rim" }), svg("rect", { ...rectangle, class: "line", stroke: colour }),
    svg("rect", { class: "badge", fill: colour }), svg("text", { class: "digit", fill: ink }, String(index + 1)));
  }

  function mark() {
    for (const group of overlay.querySelectorAll(".mark-group")) {
      group.classList.toggle("selected", Number(group.dataset.index) === item.selected);
    }
    overlay.classList.toggle("has-selected", item.selected >= 0);
  }

  /** Lets the reader draw one box, or type the corners of one; Escape gives up. */
  function draw() {
    stopDrawing();
    drawing = { start: null, box: svg("rect", { class: "drawing" }) };
    overlay.append(drawing.box);
    view.classList.add("is-drawing");
    tell();
    view.focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest", behavior: "instant" });  // on a phone the list lies below the image
  }

  function stopDrawing() {
    drawing?.box.remove();
    drawing = null;
    view.classList.remove("is-drawing");
    tell();
  }

  function pointAt(event) {
    const bounds = image.getBoundingClientRect();
    const x = ((event.clientX - bounds.left) / bounds.width) * size.width_px;
    const y = ((event.clientY - bounds.top) / bounds.height) * size.height_px;
    return [clamp(x, 0, size.width_px), clamp(y, 0, size.height_px)];
  }

  const spanned = ([ax, ay], [bx, by]) => [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)].map((value) => Math.round(value));

  view.addEventListener("pointerdown", (event) => {
    if (drawing === null || event.target.closest(".zoom")) return;
    event.preventDefault();
    drawing.start = pointAt(event);
    view.setPointerCapture(event.pointerId);
  });
  view.addEventListener("pointermove", (event) => {
    if (!drawing?.start) return;
    const [x0, y0, x1, y1] = spanned(drawing.start, pointAt(event));
    for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) drawing.box.setAttribute(name, value);
  });
  view.addEventListener("pointerup", (event) => {
    if (!drawing?.start) return;
    const box = spanned(drawing.start, pointAt(event));
    stopDrawing();
    if (box[2] > box[0] && box[3] > box[1]) told.drawn(box);
  });
  view.addEventListener("pointercancel", () => {  // the system took the pointer: the reader may begin again
    if (!drawing) return;
    drawing.start = null;
    for (const name of ["width", "height"]) drawing.box.setAttribute(name, 0);
  });
  view.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stopDrawing();
    else if (event.key === "Enter" && drawing) {
      event.preventDefault();
      stopDrawing();
      told.typed([1, 1, 3, 3].map((quarters, k) => Math[k < 2 ? "floor" : "ceil"]((quarters * (k % 2 ? size.height_px : size.width_px)) / 4)));
    }
    else if (event.key === "+" || event.key === "=") zoom(1);
    else if (event.key === "-") zoom(-1);
    else if (event.key === "0") setZoom(0);
    else if (event.key === "1") setZoom(1);
  });
  image.addEventListener("load", () => {
    update();
    setZoom(item.zoom);
  });
  image.addEventListener("error", () => canvas.classList.add("unseen"));
  new ResizeObserver(place).observe(view);
  update();
  setZoom(item.zoom);
  return { element, update, mark, draw, scrollToSelected };
}

/** The number stands in the box's corner; outside it, where it would hide what it points at; beside those that are `taken`. */
function placeNumber(group, unit, size, taken) {
  const [x0, y0, x1, y1] = group.dataset.box.split(" ").map(Number);
  const digit = group.querySelector(".digit");
  const height = 20 * unit;
  const width = (digit.textContent.length * 8 + 12) * unit;
  const isSmall = Math.min(x1 - x0, y1 - y0) < 2 * height;
  const y = clamp(isSmall ? (y0 >= height ? y0 - height : y1) : y0, 0, Math.max(0, size.height_px - height));
  let x = clamp(x0, 0, Math.max(0, size.width_px - width));
  const isFree = () => taken.every((other) => Math.abs(other.x - x) >= width || Math.abs(other.y - y) >= height);
  while (!isFree() && x + 2 * width <= size.width_px) x += width;
  taken.push({ x, y });
  const badge = group.querySelector(".badge");
  for (const [name, value] of Object.entries({ x, y, width, height })) badge.setAttribute(name, value);
  digit.setAttribute("x", x + width / 2);
  digit.setAttribute("y", y + height / 2);
  digit.setAttribute("font-size", 13 * unit);
}
