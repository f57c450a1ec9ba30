// Which commands a person means by what they type. Pure: tests/js/commands.test.mjs.

const words = text => text.toLowerCase().split(/\s+/).filter(Boolean);

// Those that hold every word, where it begins a word first; the order stays otherwise.
export function found(query, commands) {
  const wanted = words(query);
  const rank = ({name, group}) => {
    const text = `${name} ${group}`.toLowerCase(), begins = words(text);
    if (!wanted.every(word => text.includes(word))) return -1;
    return wanted.filter(word => begins.some(each => each.startsWith(word))).length;
  };
  return commands.map(command => [rank(command), command]).filter(([n]) => n >= 0)
    .sort(([a], [b]) => b - a).map(([, command]) => command);
}

// The place in a list of `count` that a key leads to, round the ends; null: it is no key of the list.
export function keyed(key, at, count) {
  const to = {ArrowUp: at - 1, ArrowDown: at + 1, PageUp: 0, PageDown: count - 1}[key];
  return to === undefined || !count ? null : (to + count) % count;
}
