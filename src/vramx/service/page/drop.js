// A place to drop files on. It is a file button too, for keyboards and phones.

import { upload } from "./api.js";
import { write } from "./dom.js";
import { size } from "./words.js";

/** Call back with the files that are dropped or chosen, one by one. */
export function takeFiles(zone, onFile) {
  const input = zone.querySelector("input");
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    (input.multiple ? files : files.slice(0, 1)).forEach(onFile);
  });
  for (const kind of ["dragenter", "dragover"]) {
    zone.addEventListener(kind, () => zone.classList.add("over"));
  }
  for (const kind of ["dragleave", "drop"]) {
    zone.addEventListener(kind, () => zone.classList.remove("over"));
  }
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    const files = [...event.dataTransfer.files];
    (input.multiple ? files : files.slice(0, 1)).forEach(onFile);
  });
}

/** A file that is dropped anywhere else goes to a zone; browsers would leave the page for it. */
export function takeStrays(zone) {
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.dispatchEvent(new DragEvent("drop", { dataTransfer: event.dataTransfer }));
  });
}

/** Upload a file and show in the zone how far that is. Returns what the service says it is. */
export async function send(zone, file) {
  const [name, hint, bar] = ["strong", "small", "progress"].map((each) => zone.querySelector(each));
  write(name, file.name);
  write(hint, `sending ${size(file.size)} …`);
  zone.dataset.state = "sending";
  bar.value = 0;
  try {
    const stored = await upload(file, (part) => { bar.value = part; });
    const shape = `${stored.width} × ${stored.height}`;
    const frames = stored.kind === "video" && stored.frames ? `, ${stored.frames} frames` : "";
    write(hint, `${shape}${frames}, ${size(stored.bytes)}`);
    zone.dataset.state = "there";
    return stored;
  } catch (error) {
    write(hint, "not taken");
    zone.dataset.state = "refused";
    throw error;
  }
}

/** Make a zone ask for more files. */
export function empty(zone, text) {
  write(zone.querySelector("strong"), text);
  write(zone.querySelector("small"), "or choose files");
  delete zone.dataset.state;
}

/** Show a picture of a chosen file where a browser can. */
export function thumbnail(file) {
  const image = document.createElement(file.type.startsWith("video/") ? "video" : "img");
  image.src = URL.createObjectURL(file);
  image.muted = true;
  image.alt = "";
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.addEventListener("error", () => image.remove());
  return image;
}
