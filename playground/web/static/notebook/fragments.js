// The part of an address that names a cell, a pane of one of its runs, and a character of the answer there.
// Pure: tests/js/fragments.test.mjs.

// "#cell-c1", "#cell-c1/run-2.0/pane-fam%3AF16", "#cell-c1/run-2.0/pane-fam%3AF16/word-37"
export function fragment({cell, run, block, variant, word = null}) {
  const parts = [`#cell-${encodeURIComponent(cell)}`];
  if (variant) parts.push(`run-${run}.${block}`, `pane-${encodeURIComponent(variant)}`);
  if (variant && word !== null) parts.push(`word-${word}`);
  return parts.join("/");
}

const FORM = /^#cell-([^/]+)(?:\/run-(\d+)\.(\d+)\/pane-([^/]+)(?:\/word-(\d+))?)?$/;

// null: it names nothing here.
export function parsed(hash) {
  const found = FORM.exec(hash);
  if (!found) return null;
  const [, cell, run, block, variant, word] = found;
  const number = text => text === undefined ? null : Number(text);
  try {
    return {
      cell: decodeURIComponent(cell), run: number(run), block: number(block),
      variant: variant === undefined ? null : decodeURIComponent(variant), word: number(word),
    };
  } catch { // a percent sign that encodes nothing
    return null;
  }
}
