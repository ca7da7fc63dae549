// The queue, as people see it. Rows are changed in place, so that what has the focus keeps it.

import { find, make, say, write } from "./dom.js";
import { OPEN } from "./jobs.js";
import { percent, several, time } from "./words.js";

const ABOUT = { upscale: "enlarged by", swap: "faces swapped by", faces: "looked through for faces by" };
const STATES = { queued: "waiting", running: "running", done: "done", failed: "failed", cancelled: "cancelled" };

function progressOf(job) {
  const { done, total } = job.progress ?? {};
  if (job.state === "done") return 1;
  return total ? Math.min(done / total, 1) : 0;
}

function told(job, jobs) {
  const { done, total, unit, seconds_left: left } = job.progress ?? {};
  if (job.state === "queued") {
    const before = jobs.before(job);
    return before === 0 ? "next in line" : `${several(before, "job")} before it`;
  }
  if (job.state === "running") {
    if (job.stopping) return "stopping …";
    if (total === undefined || total === null) return "getting ready …";
    const count = unit === "px" ? percent(done / total) : `${done} of ${several(total, unit)}`;
    return left === null ? count : `${count}, about ${time(left)} left`;
  }
  if (job.state === "done") {
    const took = `in ${time(job.ended - job.begun)}`;
    if (job.request.kind === "faces") return `${several(job.files.length, "face")} found ${took}`;
    return `made ${took}`;
  }
  return job.error === null ? "it can be resumed" : job.error.message;
}

class Row {
  #said = -1;

  constructor(job, jobs, { onShow, onError }) {
    this.name = make("strong", { className: "name" });
    this.about = make("span", { className: "hint" });
    this.state = make("span", { className: "state" });
    this.bar = make("progress", { max: 1 });
    this.told = make("span", { className: "told" });
    const does = (text, act) => make("button", {
      type: "button", textContent: text, onclick: () => act().catch(onError),
    });
    this.buttons = {
      show: does("Show", async () => onShow(this.job)),
      cancel: does("Cancel", () => jobs.cancel(this.job)),
      resume: does("Resume", () => jobs.resume(this.job)),
      remove: does("Remove", () => this.#remove(jobs)),
    };
    this.element = make(
      "li", { className: "job", tabIndex: -1 },
      make("div", { className: "head" }, make("div", { className: "title" }, this.name, this.about), this.state),
      make(
        "div", { className: "foot" },
        make("div", { className: "how" }, this.bar, this.told),
        make("div", { className: "actions" }, ...Object.values(this.buttons)),
      ),
    );
    this.element.dataset.job = job.id;
    jobs.nameOf(job).then((name) => {
      this.name.textContent = name;
      this.bar.setAttribute("aria-label", `Progress of ${name}`);
      for (const button of Object.values(this.buttons)) {
        button.setAttribute("aria-label", `${button.textContent} ${name}`);
      }
    });
  }

  async #remove(jobs) {
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    await jobs.remove(this.job);
    (next ?? find("none")).focus();
  }

  change(job, jobs) {
    this.job = job;
    const { kind, model, scale } = job.request;
    write(this.about, `${ABOUT[kind]} ${model}${scale ? `, ×${scale}` : ""}`);
    this.element.dataset.state = job.state;
    write(this.state, STATES[job.state]);
    this.bar.value = progressOf(job);
    write(this.told, told(job, jobs));
    const isOpen = OPEN.includes(job.state);
    this.buttons.show.hidden = job.state !== "done" || kind === "faces";
    this.buttons.cancel.hidden = !isOpen;
    this.buttons.cancel.disabled = job.stopping;
    this.buttons.resume.hidden = isOpen || job.state === "done";
    this.buttons.remove.hidden = isOpen;
  }

  /** Say how far it is, a few times on the way. */
  say(before) {
    const quarter = Math.floor(4 * progressOf(this.job));
    if (before === undefined || (before.state === this.job.state && quarter <= this.#said)) return;
    this.#said = quarter;
    say(`${this.name.textContent}: ${this.state.textContent}, ${this.told.textContent}`);
  }
}

/** Show the jobs. */
export function listJobs(jobs, { onShow, onError }) {
  const list = find("jobs");
  const rows = new Map();

  function refresh() {
    const counts = {};
    for (const { state } of jobs.all) counts[state] = (counts[state] ?? 0) + 1;
    const shown = Object.keys(STATES).filter((state) => counts[state]);
    write(find("counts"), shown.map((state) => `${counts[state]} ${STATES[state]}`).join(", "));
    find("none").hidden = rows.size > 0;
    find("older").hidden = jobs.next === null;
  }

  jobs.addEventListener("job", ({ detail: { job, before } }) => {
    let row = rows.get(job.id);
    if (row === undefined) {
      row = new Row(job, jobs, { onShow, onError });
      rows.set(job.id, row);
      const older = [...rows.values()].filter((each) => each.job?.number < job.number);
      older.sort((one, other) => other.job.number - one.job.number);
      list.insertBefore(row.element, older[0]?.element ?? null);
    }
    row.change(job, jobs);
    if (before?.state !== job.state) { // others in line have moved up
      for (const each of rows.values()) each.change(each.job, jobs);
    }
    row.say(before);
    refresh();
  });
  jobs.addEventListener("gone", ({ detail: { id } }) => {
    rows.get(id)?.element.remove();
    rows.delete(id);
    refresh();
  });
  jobs.addEventListener("there", refresh);
  find("older").addEventListener("click", () => jobs.older().then(refresh, onError));
  find("none").tabIndex = -1;
}
