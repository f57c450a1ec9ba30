// Messages that go by themselves, but not while the focus is in them.
import {$, page} from "./page.js";

// `actions`: what each button is called, and does.
export function toast(text, {bad = false, actions = []} = {}) {
  const box = document.createElement("div");
  box.className = bad ? "vp-toast vp-bad" : "vp-toast";
  box.setAttribute("role", bad ? "alert" : "status");
  box.append(Object.assign(document.createElement("span"), {textContent: text}));
  const close = () => box.remove();
  for (const [textContent, run] of actions) {
    const onclick = () => { close(); run(); };
    box.append(Object.assign(document.createElement("button"), {textContent, onclick}));
  }
  box.append(Object.assign(document.createElement("button"), {textContent: "×", ariaLabel: "Close", onclick: close}));
  let region = $(".vp-toasts", page.element);
  if (!region) {
    region = Object.assign(document.createElement("div"), {className: "vp-toasts"});
    page.element.append(region);
  }
  for (const old of [...region.children]) if (old.firstChild.textContent === text) old.remove();
  region.append(box);
  const leave = () => { if (box.matches(":focus-within")) setTimeout(leave, 2000); else close(); };
  setTimeout(leave, bad ? 20_000 : 10_000);
}
