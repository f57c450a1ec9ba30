// The image that is shown large, and the part of it that a person draws a rectangle around to ask about.
import {call} from "./calls.js";
import {$, page} from "./page.js";
import {between, keyed, middle} from "./rectangles.js";

let shown = null; // the cell and sha256 of the image
let box = null; // in pixels of the image
let start = null; // where a drag began

const image = () => $("[data-zoom] img");
const size = () => ({width: image().naturalWidth, height: image().naturalHeight});

export async function zoom(cell, sha256) {
  const {url} = await call("picture", {cell, sha256});
  shown = {cell, sha256};
  image().src = url;
  draw(null);
  $("[data-zoom]").showModal();
}

// Adds the part to the cell's images, or asks about it alone in a new cell; its id.
export async function takePart(alone) {
  const {cells: [cell]} = await call("crop", {...shown, ...box, alone});
  $("[data-zoom]").close();
  return cell.id;
}

function draw(next) {
  box = next;
  const {width, height} = size(), mark = $(".vp-region");
  mark.hidden = !box;
  for (const button of page.root.querySelectorAll("[data-zoom] [data-part]")) button.disabled = !box;
  const text = $("[data-zoom] [data-part-size]");
  if (text) text.textContent = box ? `${box.width} × ${box.height} pixels at ${box.x}, ${box.y}` : "";
  if (!box) return;
  const share = (part, whole) => `${100 * part / whole}%`;
  Object.assign(mark.style, {
    left: share(box.x, width), top: share(box.y, height),
    width: share(box.width, width), height: share(box.height, height),
  });
}

function point({clientX, clientY}) {
  const {left, top, width, height} = image().getBoundingClientRect(), whole = size();
  return {x: (clientX - left) / width * whole.width, y: (clientY - top) / height * whole.height};
}

export function onDraw(event) {
  if (!page.canEdit || !event.target.closest?.(".vp-zoom-picture")) {
    if (event.type !== "pointermove") start = null;
    return;
  }
  if (event.type === "pointerdown" && event.button === 0) {
    event.preventDefault();
    event.target.closest(".vp-zoom-picture").focus();
    start = point(event);
  } else if (start) {
    draw(between(start, point(event), size()));
    if (event.type === "pointerup") start = null;
  }
}

export function onDrawKey(event) {
  if (!page.canEdit || !event.target.matches(".vp-zoom-picture")) return;
  const next = keyed(event.key, event.shiftKey, box ?? middle(size()), size());
  if (!next) return;
  event.preventDefault();
  draw(box ? next : middle(size()));
}
