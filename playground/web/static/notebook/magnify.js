// How large an image is shown: from the whole image in its room to single pixels. Pure: tests/js/magnify.test.mjs.

const MOST = 16; // pixels of the screen for one of the image
const MOST_AT_FIRST = 4;
export const PIXELS_FROM = 4; // from here on pixels are shown as squares, not blurred

export const fitting = (size, room) =>
  Math.min(room.width / size.width, room.height / size.height, MOST_AT_FIRST);

// `fit`: the smallest scale that is of use.
export const scaled = (scale, by, fit) => Math.max(Math.min(fit, 1), Math.min(Math.max(fit, MOST), scale * by));

// What a turn of the wheel enlarges by; a pinch on a touchpad comes as small turns with Ctrl.
export const turned = ({deltaY, deltaMode, ctrlKey}) => Math.exp(-deltaY * (deltaMode ? 30 : 1) * (ctrlKey ? .01 : .002));

// What two fingers did, of which one moved: larger by how much, around which point, which moved how far.
export function pinched([a, b], [c, d]) {
  const middle = (p, q) => ({x: (p.x + q.x) / 2, y: (p.y + q.y) / 2}), apart = (p, q) => Math.hypot(p.x - q.x, p.y - q.y);
  const from = middle(a, b), at = middle(c, d);
  return {by: apart(c, d) / (apart(a, b) || 1), at, dx: at.x - from.x, dy: at.y - from.y};
}
