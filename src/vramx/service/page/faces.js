// Who is in a picture or a clip, who of them is replaced, and by whom.

import { address } from "./api.js";
import { empty, send, takeFiles, thumbnail } from "./drop.js";
import { find, make } from "./dom.js";
import { several } from "./words.js";

const MOST = 16; // faces in a job

export class Faces {
  #people = [];
  #sources = [];
  #turn = 0;
  #looked = "";
  #job = null;

  constructor(jobs, { onError }) {
    this.jobs = jobs;
    const zone = find("source");
    let sent = Promise.resolve(); // one after another, in their order
    takeFiles(zone, (file) => {
      sent = sent.then(() => this.#addSource(zone, file)).catch(onError);
    });
    jobs.addEventListener("gone", ({ detail: { id } }) => {
      if (id === this.#job?.id) this.forget(); // their pictures are gone with it
    });
  }

  #say(text) {
    find("found").textContent = text;
  }

  /** Forget who was found. */
  forget() {
    this.#turn += 1;
    this.#looked = "";
    this.#job = null;
    this.#clear();
    this.#say("A picture or a clip is looked through for faces once it is here.");
  }

  #clear() {
    this.#people.forEach((each) => each.picture.release());
    this.#people = [];
    find("people").replaceChildren();
  }

  /** Find who is in an uploaded file, unless that is known or being done. */
  async look(file, model, budget) {
    const wanted = `${file.id} ${model}`;
    if (wanted === this.#looked) return;
    this.forget();
    this.#looked = wanted;
    const turn = this.#turn;
    this.#say("Looking for faces …");
    try {
      const job = await this.jobs.add({ kind: "faces", source: { file: file.id }, model, ...budget });
      this.#job = job;
      const ended = await this.jobs.ended(job.id);
      if (turn !== this.#turn) return;
      if (ended?.state !== "done") {
        this.#looked = "";
        this.#say(ended?.error?.message ?? "The search was stopped: choose the file again.");
        return;
      }
      await this.#show(ended, turn);
    } catch (error) {
      if (turn === this.#turn) this.#looked = "";
      throw error;
    }
  }

  async #show(job, turn) {
    const pictures = await Promise.all(
      job.files.map((name) => address(`/api/jobs/${job.id}/files/${name}`)),
    );
    if (turn !== this.#turn) return;
    this.#people = job.files.map((name, at) => this.#person(job, name, pictures[at], at + 1));
    find("people").replaceChildren(...this.#people.map((each) => each.element));
    this.#say(this.#people.length === 0
      ? "No face was found in it."
      : `${several(this.#people.length, "face")} found.`);
    this.#offer();
  }

  #person(job, name, picture, number) {
    const isChosen = make("input", { type: "checkbox", className: "unseen", checked: number === 1 });
    const source = make("select");
    source.setAttribute("aria-label", `Who face ${number} becomes`);
    const image = make("img", { src: picture.url, alt: "" });
    const label = make("label", { className: "pick" }, isChosen, image, make("span", { textContent: `Face ${number}` }));
    const element = make("li", {}, label, source);
    return { ref: { job: job.id, name }, isChosen, source, picture, element };
  }

  async #addSource(zone, file) {
    const stored = await send(zone, file);
    empty(zone, "Drop more pictures of faces");
    if (stored.kind !== "picture") throw new Error(`${stored.name} is a clip: a face is shown by a picture.`);
    this.jobs.hold(stored.id);
    const source = { id: stored.id, name: stored.name };
    const remove = make("button", { type: "button", textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove the face of ${stored.name}`);
    source.element = make(
      "li", {},
      make("span", { className: "pick" }, thumbnail(file), make("span", { textContent: stored.name })),
      remove,
    );
    remove.addEventListener("click", () => {
      this.#sources.splice(this.#sources.indexOf(source), 1);
      source.element.remove();
      find("source").querySelector("input").focus();
      this.#offer();
      this.jobs.release(stored.id);
    });
    this.#sources.push(source);
    find("sources").append(source.element);
    this.#offer();
  }

  /** Offer the sources at each person; with one there is nothing to choose. */
  #offer() {
    this.#people.forEach((person, at) => {
      const chosen = person.source.value;
      person.source.replaceChildren(
        ...this.#sources.map(({ id, name }) => make("option", { value: id, textContent: name })),
      );
      const isThere = this.#sources.some(({ id }) => id === chosen);
      person.source.value = isThere ? chosen : this.#sources[Math.min(at, this.#sources.length - 1)]?.id ?? "";
      person.source.hidden = this.#sources.length < 2;
    });
  }

  /** What a job is to be given. */
  chosen() {
    const chosen = this.#people.filter((each) => each.isChosen.checked);
    if (this.#people.length === 0) throw new Error("No faces are found yet: wait for them, or take another file.");
    if (chosen.length === 0) throw new Error("Choose who is replaced.");
    if (chosen.length > MOST) throw new Error(`Choose at most ${MOST} faces.`);
    if (this.#sources.length === 0) throw new Error("Drop a picture of the face to put there.");
    return {
      faces: chosen.map((each) => ({ file: each.source.value })),
      references: chosen.map((each) => each.ref),
    };
  }
}
