// The image that is shown large: enlarged and moved, and the part that a person draws a rectangle around to ask about.
import {call} from "./calls.js";
import {fitting, pinched, PIXELS_FROM, scaled, turned} from "./magnify.js";
import {$, page} from "./page.js";
import {between, keyed, middle} from "./rectangles.js";

let shown = null; // the cell and sha256 of the image
let box = null; // in pixels of the image
let start = null; // where a rectangle began
let scale = 1; // pixels of the screen for one of the image
const pointers = new Map(); // of the mouse or the fingers that are down on the image: where

const image = () => $("[data-zoom] img");
const room = () => $("[data-zoom] .vp-zoom-room");
const size = () => ({width: image().naturalWidth, height: image().naturalHeight});
const fit = () => fitting(size(), {width: room().clientWidth, height: room().clientHeight});

export async function zoom(cell, sha256) {
  const {url} = await call("picture", {cell, sha256});
  shown = {cell, sha256};
  image().src = url;
  await image().decode().catch(() => {});
  pointers.clear();
  draw(null);
  $("[data-zoom]").showModal();
  room().onwheel = onWheel; // a listener of the notebook's would hold up the page's own scrolling
  magnify(fit() / scale);
}

// The point of the image that is at `at` on the screen, else the middle of what is seen, stays there.
export function magnify(by, at) {
  const view = room().getBoundingClientRect(), before = image().getBoundingClientRect();
  const {x, y} = at ?? {x: view.left + view.width / 2, y: view.top + view.height / 2};
  const across = (x - before.left) / before.width, down = (y - before.top) / before.height;
  scale = scaled(scale, by, fit());
  image().style.width = `${size().width * scale}px`;
  image().classList.toggle("vp-pixels", scale >= PIXELS_FROM);
  $("[data-zoom-share]").textContent = `${Math.round(100 * scale)} %`;
  const after = image().getBoundingClientRect();
  room().scrollBy(after.left + across * after.width - x, after.top + down * after.height - y);
}

export const fitAll = () => magnify(fit() / scale);

function onWheel(event) {
  if (event.shiftKey || !event.deltaY) return;
  event.preventDefault();
  magnify(turned(event), {x: event.clientX, y: event.clientY});
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

// One finger or the left button draws, where the person may ask and "Move" is not pressed; all else moves the image.
const draws = event =>
  page.canEdit && event.button === 0 && $("[data-do=zoom-move]").getAttribute("aria-pressed") !== "true";

export function onPointer(event) {
  const {type, pointerId} = event, at = {x: event.clientX, y: event.clientY};
  if (type === "pointerdown") {
    const within = event.target.closest?.(".vp-zoom-room");
    if (!within || event.button > 1) return;
    event.preventDefault();
    within.setPointerCapture(pointerId);
    $(".vp-zoom-picture", within).focus({preventScroll: true});
    pointers.set(pointerId, at);
    start = pointers.size === 1 && draws(event) ? point(event) : null;
    return;
  }
  const old = pointers.get(pointerId), before = [...pointers.values()];
  if (!old) return;
  if (type === "pointermove") {
    pointers.set(pointerId, at);
    if (pointers.size === 2) {
      const pinch = pinched(before, [...pointers.values()]);
      room().scrollBy(-pinch.dx, -pinch.dy);
      magnify(pinch.by, pinch.at);
    } else if (!start) room().scrollBy(old.x - at.x, old.y - at.y);
  }
  if (start) draw(between(start, point(event), size()));
  if (type !== "pointermove") {
    pointers.delete(pointerId);
    start = null;
  }
}

export function onZoomKey(event) {
  if (!event.target.closest?.("[data-zoom]")) return;
  const by = {"+": 1.5, "=": 1.5, "-": 1 / 1.5, "0": fit() / scale}[event.key];
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  if (by && !modified) {
    event.preventDefault();
    magnify(by);
    return;
  }
  if (!page.canEdit || !event.target.matches(".vp-zoom-picture")) return;
  const next = keyed(event.key, event.shiftKey, box ?? middle(size()), size());
  if (!next) return;
  event.preventDefault();
  draw(box ? next : middle(size()));
}
