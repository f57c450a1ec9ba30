// Numbers and times in words. Pure: tests/js/words.test.mjs.

// As rendering/number_format.py has it.
export const fileSize = bytes =>
  bytes >= 999.5e6 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;

export function saved(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 5) return "saved just now";
  return seconds < 90 ? `saved ${seconds} s ago` : `saved ${Math.round(seconds / 60)} min ago`;
}
