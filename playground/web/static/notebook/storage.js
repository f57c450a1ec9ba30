// What the browser keeps. Without storage, it is kept for this tab only.
const NAME = "vlm-quant-playground";

function get(name) {
  try { return localStorage.getItem(NAME + name); } catch { return null; }
}

function set(name, text) {
  try { localStorage.setItem(NAME + name, text); } catch { /* this tab only */ }
}

export const storage = {
  get browser() { return get(""); },
  set browser(token) { set("", token); },
  get introClosed() { return get("-intro") === "closed"; },
  set introClosed(closed) { set("-intro", closed ? "closed" : ""); },
  get drafts() { return JSON.parse(get("-drafts") ?? "{}"); }, // by notebook and cell: texts that were not sent
  set drafts(texts) { set("-drafts", JSON.stringify(texts)); },
};
