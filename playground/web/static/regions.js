// A page whose server renders regions of HTML: the models page and the inspect page.

export function regionsOf(root) {
  const region = name => root.querySelector(`[data-region=${name}]`);
  let timer;

  // Says something at the top of the page for a while.
  function tell(text, {bad = false, seconds = bad ? 20 : 6} = {}) {
    const note = document.createElement("p");
    note.className = bad ? "vp-error" : "vp-note";
    note.textContent = text;
    region("toast").replaceChildren(note);
    clearTimeout(timer);
    timer = setTimeout(() => note.remove(), seconds * 1000);
  }

  return {region, tell};
}
