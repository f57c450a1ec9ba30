// Files: pictures and question sets that are uploaded, notebooks and cards that are downloaded.
import {call} from "./calls.js";
import {$, article, page} from "./page.js";
import {sendAll, turns} from "./texts.js";
import {toast} from "./toasts.js";

const notUploaded = (file, error) =>
  toast(`${file.name} could not be uploaded: ${error.message ?? error}`, {bad: true});

export const imagesOf = files => [...(files ?? [])].filter(file => file.type.startsWith("image/") || /\.(pdf|heic|heif|avif)$/i.test(file.name));

// `instead`: the sha256 of the picture that the first file was dropped on.
export async function addPictures(id, files, instead) {
  for (const [at, file] of files.entries()) {
    try {
      const {path} = await page.upload(file);
      const {replaced} = await call("add_picture", {cell: id, path, instead: at ? null : instead});
      if (replaced) tellReplaced(id);
    } catch (error) {
      if (!document.querySelector(".vp-toast.vp-bad")) notUploaded(file, error);
    }
  }
}

function tellReplaced(id) {
  const putBack = both => call("put_back", {cell: id, both}).catch(() => { /* the person was told */ });
  toast("Your image replaced the one that was here.", {
    actions: [["Undo", () => putBack(false)], ["Keep both", () => putBack(true)]],
  });
}

export async function addQuestions(id, file) {
  if (!file) return;
  let path;
  try { ({path} = await page.upload(file)); } catch (error) { notUploaded(file, error); return; }
  await turns.take(id, () => call("own_questions", {cell: id, path}));
}

// A sample of a dataset takes seconds to minutes, so the cell's other changes do not wait for it.
export async function drawQuestions(id, field) {
  if (!field.value) return;
  field.disabled = true;
  toast("Reading questions from the Hub…");
  try { await call("suite_questions", {cell: id, suite: field.value}); } finally { field.disabled = false; }
}

export async function importFile(file) {
  if (!file) return;
  await sendAll();
  let path;
  try { ({path} = await page.upload(file)); } catch (error) { notUploaded(file, error); return; }
  try { await call("import_file", {path}); } catch { /* the person was told */ }
}

export async function download(cell, format) {
  await sendAll();
  const {name, mime, text} = await call("export", {cell, format});
  save(name, mime, text);
}

export async function downloadCard(cell, format) {
  const shown = $("[data-look]", article(cell));
  const {name, mime, data} = await call("card", {cell, format, ...(shown && {run: Number(shown.value)})});
  save(name, mime, bytesOf(data));
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
