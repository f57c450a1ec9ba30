// Makes an element look like another one, node by node: what a person has focused, opened, selected or scrolled stays.
import {Idiomorph} from "./vendor/idiomorph-0.8.0.esm.js";

// Idiomorph knows an element again by its id. These have names of their own, and come, go and move.
const NAMED = {handle: "[data-handle]", download: "[data-download]", outputs: ".vp-outputs"};

function identify(element) {
  for (const [kind, selector] of Object.entries(NAMED)) {
    const all = element.matches(selector) ? [element] : [...element.querySelectorAll(selector)];
    for (const one of all) one.id = `vp-${kind}-${one.dataset[kind] ?? one.closest("[data-cell]")?.dataset.cell ?? ""}`;
  }
}

const focused = element => element === document.activeElement;

// `isHeld`: whether a text field holds something that the server does not have, and keeps it.
function options(isHeld) {
  const keeps = field => focused(field) || isHeld(field);
  return {
    callbacks: {
      beforeNodeMorphed(old, fresh) {
        if (fresh.dataset?.keep !== undefined) return false; // the server left it out: it is as it was
        return !(old.parentElement?.matches("textarea") && keeps(old.parentElement));
      },
      beforeAttributeUpdated(name, element, change) {
        // What a person has opened, or the script has shown, stays so; "hidden" comes back with the server's word only.
        if (change === "remove" && (name === "open" || name === "hidden")) return false;
        if (element.matches("textarea")) return name !== "hidden" && !(name === "value" && keeps(element));
        if (element.matches("input, option")) return !focused(element.closest("select") ?? element);
        return true;
      },
    },
  };
}

export function morph(old, fresh, {isHeld = () => false} = {}) {
  identify(old);
  identify(fresh);
  Idiomorph.morph(old, fresh, options(isHeld));
}

// Makes the content of an element look like this HTML.
export function morphContent(element, html, {isHeld = () => false} = {}) {
  const fresh = document.createElement("div");
  fresh.innerHTML = html;
  identify(element);
  identify(fresh);
  Idiomorph.morph(element, [...fresh.childNodes], {...options(isHeld), morphStyle: "innerHTML"});
}
