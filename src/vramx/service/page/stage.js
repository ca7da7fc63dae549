// The place where results are seen.

import { address } from "./api.js";
import { compare } from "./compare.js";
import { find, make } from "./dom.js";

const VIDEO = /\.(mp4|m4v|mov|mkv|webm)$/;

/** Where a source is read; null where the service gives it to nobody. */
function sourceOf({ source }) {
  if (source.file !== undefined) return `/api/files/${source.file}/content`;
  if (source.job === undefined) return null;
  const job = `/api/jobs/${source.job}`;
  return source.name === undefined ? `${job}/result` : `${job}/files/${source.name}`;
}

function players(before, after) {
  const play = (text, src) => make(
    "figure", {},
    make("video", { src, controls: true, playsInline: true, preload: "metadata" }),
    make("figcaption", { textContent: text }),
  );
  return make("div", { className: "players" }, play("before", before), play("after", after));
}

export class Stage {
  #held = [];
  #shown = 0;

  constructor(jobs) {
    this.jobs = jobs;
    find("zoom").addEventListener("click", () => this.#zoom(!find("frame").classList.contains("actual")));
    jobs.addEventListener("gone", ({ detail: { id } }) => {
      if (id === this.job?.id) this.#clear();
    });
  }

  /** Show what a finished job made. */
  async show(job) {
    const turn = ++this.#shown;
    const name = await this.jobs.nameOf(job);
    const path = `/api/jobs/${job.id}/result`;
    const after = await address(path);
    const source = sourceOf(job.request);
    const before = source === null ? after : await address(source).catch(() => after);
    if (turn !== this.#shown) return; // another was asked for meanwhile
    this.#clear();
    this.job = job;
    this.#held = [after, before];
    const made = job.files.find((file) => file.startsWith("result.")) ?? "result";
    const save = find("save");
    save.href = after.url;
    save.download = `${name.replace(/\.[^.]*$/, "")}-${job.request.kind}${made.replace("result", "")}`;
    save.setAttribute("aria-label", `Download the result of ${name}`);
    save.hidden = false;
    find("stage-title").textContent = name;
    find("shape").textContent = "";
    const isVideo = VIDEO.test(made);
    find("zoom").hidden = isVideo;
    find("frame").replaceChildren(isVideo ? players(before.url, after.url) : compare(
      before.url, after.url, name, {
        onSize: (width, height) => { find("shape").textContent = `${width} × ${height}`; },
        onError: () => this.#say(`This browser shows no ${made.split(".").pop()} files: download it.`),
      },
    ));
  }

  #zoom(isActual) {
    find("frame").classList.toggle("actual", isActual);
    find("zoom").setAttribute("aria-pressed", isActual);
  }

  #say(text) {
    find("frame").replaceChildren(make("p", { className: "hint", textContent: text }));
  }

  #clear() {
    this.#held.forEach((each) => each.release());
    this.#held = [];
    this.job = undefined;
    this.#zoom(false);
    find("zoom").hidden = find("save").hidden = true;
    find("stage-title").textContent = "Result";
    find("shape").textContent = "";
    this.#say("What a job made is shown here, beside what it was made of.");
  }
}
