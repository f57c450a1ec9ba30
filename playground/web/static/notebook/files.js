// Files: pictures and question sets that are uploaded, notebooks and cards that are downloaded.
import {call} from "./calls.js";
import {$, article, page, parse, sleep} from "./page.js";
import {sendAll, turns} from "./texts.js";
import {toast} from "./toasts.js";

const notUploaded = (file, error) =>
  toast(`${file.name} could not be uploaded: ${error.message ?? error}`, {bad: true});

export const imagesOf = files => [...(files ?? [])].filter(file => file.type.startsWith("image/") || /\.(pdf|heic|heif|avif|tiff?)$/i.test(file.name));

// `instead`: the sha256 of the picture that the first file was dropped on.
export async function addPictures(id, files, instead) {
  for (const [at, file] of files.entries()) {
    try {
      const {path} = await page.upload(file);
      const {replaced, document: pages} = await call("add_picture", {cell: id, path, instead: at ? null : instead});
      if (replaced) tellReplaced(id);
      if (pages) tellPages(id, path, pages);
    } catch (error) {
      if (!document.querySelector(".vp-toast.vp-bad")) notUploaded(file, error);
    }
  }
}

function tellPages(id, path, document) {
  toast(`${document.name} has ${document.pages} pages; in the cell: ${document.taken}.`, {
    actions: [["Choose pages", () => choosePages(id, path, document)]],
  });
}

// Asks which pages of a document the cell shall hold, in place of those that it holds.
function choosePages(id, path, {name, pages, most, taken, pictures}) {
  const dialog = $("[data-pages]"), field = $("[data-pages-wanted]");
  $("[data-pages-of]").textContent = `Of the ${pages} pages of ${name}, at most ${most}, such as 3 or 2, 5-7:`;
  field.value = taken;
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "take") return;
    const wanted = {cell: id, path, pages: field.value.trim() || "1", others: pictures};
    const reply = await call("add_picture", wanted).catch(() => null); // the person was told
    tellPages(id, path, reply?.document ?? {name, pages, most, taken, pictures});
  };
  dialog.showModal();
  field.select();
}

function tellReplaced(id) {
  const putBack = both => call("put_back", {cell: id, both}).catch(() => { /* the person was told */ });
  toast("Your image replaced the one that was here.", {
    actions: [["Undo", () => putBack(false)], ["Keep both", () => putBack(true)]],
  });
}

export const addQuestions = (id, file) => addFile(id, file, "own_questions");

export const addPack = (id, file) => addFile(id, file, "own_pack");

async function addFile(id, file, name) {
  if (!file) return;
  let path;
  try { ({path} = await page.upload(file)); } catch (error) { notUploaded(file, error); return; }
  await turns.take(id, () => call(name, {cell: id, path}));
}

const suiteOf = id => {
  const value = name => $(`[data-suite${name}]`, article(id))?.value ?? "";
  return {cell: id, suite: value(""), seed: Number(value("-seed")), hub_token: value("-token")};
};

const outlook = id => $("[data-outlook]", article(id));

// What a sample of a dataset would be, before it is fetched.
export async function showOutlook(id) {
  const asked = suiteOf(id);
  if (!outlook(id)) return;
  outlook(id).textContent = asked.suite && "Looking at the set on the Hub…";
  if (!asked.suite) return;
  let html = "";
  try { ({html} = await call("suite_outlook", asked)); } finally { if (outlook(id)) outlook(id).replaceChildren(...(html ? [parse(html)] : [])); }
}

// A sample takes seconds to minutes, so the cell's other changes do not wait for it.
export async function drawQuestions(id) {
  let done = false;
  const drawn = call("suite_questions", suiteOf(id)).finally(() => { done = true; });
  outlook(id).textContent = "Reading questions from the Hub…";
  const watch = async () => {
    for (await sleep(500); !done; await sleep(500)) {
      const {html} = await call("suite_progress", {cell: id});
      if (html && !done && outlook(id)) outlook(id).replaceChildren(parse(html));
    }
  };
  watch().catch(() => {}); // the draw itself says what is wrong
  try { await drawn; } finally { if (outlook(id)) outlook(id).textContent = ""; }
}

export const stopDrawing = id => call("stop_suite", {cell: id});

export async function importFile(file) {
  if (!file) return;
  await sendAll();
  let path;
  try { ({path} = await page.upload(file)); } catch (error) { notUploaded(file, error); return; }
  try { await call("import_file", {path}); } catch { /* the person was told */ }
}

export async function download(cell, format) {
  await sendAll();
  if (format === "json") { await downloadJson(cell); return; }
  const {name, mime, text} = await call("export", {cell, format});
  save(name, mime, text);
}

// However many runs it has: the server sends it in pieces.
async function downloadJson(cell) {
  const fields = new URLSearchParams({notebook: page.key, ...(cell && {cell})});
  try {
    const reply = await fetch(new URL(`vp-notebook?${fields}`, document.baseURI));
    if (!reply.ok) { toast(await reply.text(), {bad: true}); return; }
    const name = decodeURIComponent(reply.headers.get("Content-Disposition").split("''")[1]);
    save(name, "application/json", await reply.blob());
  } catch {
    toast("The download broke off. Try again in a moment.", {bad: true});
  }
}

export async function downloadCard(cell, format) {
  const shown = $("[data-look]", article(cell));
  const {name, mime, data} = await call("card", {cell, format, ...(shown && {run: Number(shown.value)})});
  save(name, mime, bytesOf(data));
}

export async function downloadResults(cell, uploader) {
  const shown = $("[data-look]", article(cell));
  const {name, mime, text} = await call("results", {cell, uploader, ...(shown && {run: Number(shown.value)})});
  save(name, mime, text);
}

export async function downloadQuestions() {
  const {name, mime, data} = await call("questions_file");
  save(name, mime, bytesOf(data));
}

const bytesOf = data => Uint8Array.from(atob(data), letter => letter.charCodeAt(0));

function save(name, mime, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type: mime}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
