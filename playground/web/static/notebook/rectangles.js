// A rectangle within an image, in its pixels. Pure: tests/js/rectangles.test.mjs.

const SMALLEST = 8; // pixels of a side
const within = (value, low, high) => Math.max(low, Math.min(high, Math.round(value)));

// Between two points, whichever comes first; null: it is too small to be meant.
export function between(a, b, size) {
  const [left, right] = [a.x, b.x].map(x => within(x, 0, size.width)).sort((m, n) => m - n);
  const [top, bottom] = [a.y, b.y].map(y => within(y, 0, size.height)).sort((m, n) => m - n);
  const width = right - left, height = bottom - top;
  return width < SMALLEST || height < SMALLEST ? null : {x: left, y: top, width, height};
}

// The middle of an image, from where keys go on.
export const middle = ({width, height}) => ({
  x: Math.round(width / 4), y: Math.round(height / 4), width: Math.round(width / 2), height: Math.round(height / 2),
});

// What an arrow key makes of it: moved by a twentieth of the image, or with Shift larger or smaller. null: another key.
export function keyed(key, shift, box, size) {
  const [across, down] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key] ?? [];
  if (across === undefined) return null;
  const dx = Math.ceil(across * size.width / 20), dy = Math.ceil(down * size.height / 20);
  if (shift) {
    return {
      ...box, width: within(box.width + dx, SMALLEST, size.width - box.x),
      height: within(box.height + dy, SMALLEST, size.height - box.y),
    };
  }
  return {...box, x: within(box.x + dx, 0, size.width - box.width), y: within(box.y + dy, 0, size.height - box.height)};
}
