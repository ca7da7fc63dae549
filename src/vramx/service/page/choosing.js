// The form: a file, what to do with it, and how.

import { call } from "./api.js";
import { send, takeFiles, takeStrays, thumbnail } from "./drop.js";
import { find, make, write } from "./dom.js";
import { Faces } from "./faces.js";
import { size } from "./words.js";

const KEY = "vramx-choices";

export class Choosing {
  #models = null; // until the service has told
  #target = null;
  #sending = null;
  #uses = { upscale: "upscale", swap: "faces" };

  constructor(jobs, { onAdded }) {
    this.jobs = jobs;
    this.onAdded = onAdded;
    this.form = find("new");
    this.faces = new Faces(jobs, { onError: (error) => this.wrong(error) });
    this.choices = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    const zone = find("target");
    takeFiles(zone, (file) => this.#take(zone, file));
    takeStrays(zone);
    this.form.addEventListener("change", () => this.#changed());
    this.form.addEventListener("input", () => this.#tellSize());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    jobs.addEventListener("card", ({ detail: { budget } }) => {
      write(find("whole"), `e.g. ${size(budget / 4).replace(" ", "")} of ${size(budget)}`);
    });
    const { kind, budget, scale } = this.choices;
    if (kind !== undefined) this.form.elements.kind.value = kind;
    find("budget").value = budget ?? "";
    find("scale").value = scale ?? "";
    this.#changed();
  }

  /** Offer the service's models. */
  offer(models) {
    this.#models = models;
    this.#changed();
  }

  get #kind() {
    return this.form.elements.kind.value;
  }

  get #model() {
    return this.#models?.find((each) => each.name === find("model").value);
  }

  wrong(error) {
    write(find("wrong"), error?.message ?? "");
  }

  #changed() {
    const kind = this.#kind;
    find("swap").hidden = kind !== "swap";
    find("scale-field").hidden = kind !== "upscale";
    if (this.#models === null) return;
    const select = find("model");
    if (select.dataset.kind !== kind) {
      select.dataset.kind = kind;
      const fitting = this.#models.filter((each) => (
        each.use === this.#uses[kind] && (kind !== "swap" || each.swaps)
      ));
      select.replaceChildren(...fitting.map(({ name }) => make("option", { value: name, textContent: name })));
      const before = this.choices.models?.[kind];
      if (fitting.some(({ name }) => name === before)) select.value = before;
      this.wrong(fitting.length > 0 ? undefined : new Error(
        "The service has no model for this: start it as vramx serve --models FOLDER, with one in it.",
      ));
    }
    this.choices = {
      kind,
      models: { ...this.choices.models, [kind]: select.value },
      scale: find("scale").value,
      budget: find("budget").value,
    };
    localStorage.setItem(KEY, JSON.stringify(this.choices));
    this.#tellSize();
    this.#look();
  }

  #tellSize() {
    const own = this.#model?.scale;
    find("scale").placeholder = own ? `${own} (its own)` : "its own";
    const scale = Number(find("scale").value) || own;
    write(find("size"), this.#target && scale
      ? `${this.#target.width} × ${this.#target.height} → ` +
        `${Math.round(scale * this.#target.width)} × ${Math.round(scale * this.#target.height)}`
      : "\u00a0");
  }

  #take(zone, file) {
    if (this.#target !== null) this.jobs.release(this.#target.id);
    this.#target = null;
    this.wrong();
    this.faces.forget();
    zone.querySelector(".thumb").replaceChildren(thumbnail(file));
    const sending = this.#sending = send(zone, file).then((stored) => {
      if (sending !== this.#sending) { // another was taken meanwhile
        this.jobs.release(stored.id);
        return;
      }
      this.jobs.hold(stored.id);
      this.#target = stored;
      this.#tellSize();
      this.#look();
    });
    sending.catch((error) => { if (sending === this.#sending) this.wrong(error); });
  }

  #look() {
    if (this.#kind !== "swap" || this.#target === null || this.#model === undefined) return;
    this.faces.look(this.#target, this.#model.name, this.#budget()).catch((error) => this.wrong(error));
  }

  #budget() {
    const budget = find("budget").value.trim();
    return budget === "" ? {} : { budget };
  }

  #request() {
    if (this.#target === null) throw new Error("Choose a picture or a clip first.");
    const request = {
      kind: this.#kind, source: { file: this.#target.id }, model: find("model").value, ...this.#budget(),
    };
    if (this.#kind === "swap") return { ...request, ...this.faces.chosen() };
    const scale = find("scale").value;
    return scale === "" ? request : { ...request, scale: Number(scale) };
  }

  async #submit() {
    const start = find("start");
    this.wrong();
    start.setAttribute("aria-disabled", "true");
    try {
      await this.#sending?.catch(() => {});
      this.onAdded(await this.jobs.add(this.#request()));
    } catch (error) {
      this.wrong(error);
    }
    start.removeAttribute("aria-disabled");
  }
}

/** Ask the service which models it has. */
export async function models() {
  return (await call("GET", "/api/models")).models;
}
