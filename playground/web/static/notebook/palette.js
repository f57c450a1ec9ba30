// The command palette: every button of the notebook and of one cell by its name, with its key.
import {found, keyed} from "./commands.js";
import {goTo} from "./differences.js";
import {$, $$, article, page, position} from "./page.js";

const KEYS = {
  run: "Ctrl Enter", up: "Alt ↑", down: "Alt ↓", delete: "Delete", write: "Enter", keys: "Ctrl /",
};
const ELSEWHERE = ".vp-pane, .vp-chips, .vp-examples, .vp-tabs, dialog"; // reached where they stand

let commands = [], shown = [], at = 0;

const nameOf = button => (button.getAttribute("aria-label") ?? button.textContent).replace(/\s+/g, " ").trim();
const isOffered = button => !button.disabled && !button.closest(ELSEWHERE) && !button.hidden
  && (Boolean(button.closest(".vp-menu")) || button.checkVisibility());

function commandOf(button, group) {
  const name = button.dataset.do === "open" ? `Open “${nameOf(button)}”` : nameOf(button);
  return {name, group, key: KEYS[button.dataset.do] ?? "", run: () => button.click()};
}

function gathered(id) {
  const cell = id && article(id), group = cell && `cell ${position(id) + 1}`;
  const buttons = within => [...within.querySelectorAll("[data-do], .vp-file")].filter(isOffered);
  const own = cell ? buttons(cell).map(button => commandOf(button, group)) : [];
  if (cell?.querySelector(".vp-text")) {
    own.push({name: "Next difference", group, key: "n", run: () => goTo(cell, 1)});
    own.push({name: "Previous difference", group, key: "p", run: () => goTo(cell, -1)});
  }
  const places = $$(".vp-title, .vp-new").flatMap(buttons).map(button => commandOf(button, "notebook"));
  const links = [...document.querySelectorAll("#vp-top a")].map(a => ({
    name: `Go to ${nameOf(a)}`, group: "page", key: "", run: () => a.click(),
  }));
  return [...own, ...places, ...links].filter(command => command.name);
}

// `id`: the cell whose commands are offered beside the notebook's.
export function openPalette(id) {
  commands = gathered(id ?? page.active ?? $(".vp-cell")?.dataset.cell);
  $("[data-find]").value = "";
  $("[data-palette]").showModal();
  list();
}

export function list() {
  shown = found($("[data-find]").value, commands);
  at = 0;
  $("#vp-commands").replaceChildren(...shown.map(({name, group, key}, n) => {
    const option = document.createElement("li");
    option.id = `vp-command-${n}`;
    option.role = "option";
    const part = (tag, textContent, className = "") => Object.assign(document.createElement(tag), {textContent, className});
    const keys = key.split(" ").filter(Boolean).flatMap(each => [" ", part("kbd", each)]);
    option.append(part("span", name), " ", part("span", group, "vp-dim"), ...keys); // the spaces are read out
    return option;
  }));
  $("[data-found]").textContent = shown.length === 1 ? "1 command" : `${shown.length} commands`;
  choose(0);
}

function choose(n) {
  at = n;
  $$("#vp-commands > li").forEach((option, each) => {
    option.ariaSelected = each === n;
    if (each === n) option.scrollIntoView({block: "nearest"});
  });
  const field = $("[data-find]");
  if (shown.length) field.setAttribute("aria-activedescendant", `vp-command-${n}`);
  else field.removeAttribute("aria-activedescendant");
}

function take(n) {
  const command = shown[n];
  if (!command) return;
  $("[data-palette]").close();
  command.run();
}

export function onPaletteKey(event) {
  if (!event.target.matches("[data-find]")) return;
  const to = keyed(event.key, at, shown.length);
  if (to !== null) choose(to);
  else if (event.key === "Enter") take(at);
  else return;
  event.preventDefault();
}

export function onPaletteClick({target}) {
  const option = target.closest("#vp-commands > li");
  if (option) take($$("#vp-commands > li").indexOf(option));
}
