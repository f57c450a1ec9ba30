// What the notebook's modules share: the page's elements, Gradio's functions, and what is shown now.

export const page = {
  root: null, // #vp-notebook
  element: null, // gr.HTML's, around it
  server: null, trigger: null, upload: null, // gr.HTML's functions
  browser: null, // the token under which the server lists this browser's notebooks
  key: null, // of the notebook that is shown
  canEdit: false,
  choosesFirst: true, // whether the panel shows the first cell of a notebook that is opened
  active: null, // the cell whose settings the panel shows
  problem: null, // why the notebook could not be saved
  savedAt: 0,
};

export const $ = (selector, within = page.root) => within.querySelector(selector);
export const $$ = (selector, within = page.root) => [...within.querySelectorAll(selector)];
export const article = id => $(`.vp-cell[data-cell="${CSS.escape(id)}"]`);
export const cellOf = node => node.closest(".vp-cell")?.dataset.cell;
export const position = id => $$(".vp-cell").findIndex(cell => cell.dataset.cell === id);
export const panel = () => document.getElementById("vp-side");
export const frame = () => document.getElementById("vp-body");
export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

export function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}
