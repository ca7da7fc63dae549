// What is known of the jobs. The service keeps them: a page that is loaded again finds them there.

import { call, events } from "./api.js";

const AGAIN = 2000; // milliseconds until a broken stream is opened again
export const OPEN = ["queued", "running"];

/** The jobs by their ids. Tells "job", "gone", "card", "there" and "away". */
export class Jobs extends EventTarget {
  #jobs = new Map();
  #names = new Map();
  #held = new Set();
  #stream = null;
  next = null;

  /** All that are known, the latest first. */
  get all() {
    return [...this.#jobs.values()].sort((one, other) => other.number - one.number);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  #note(job) {
    const before = this.#jobs.get(job.id);
    if (before !== undefined && before.revision > job.revision) return;
    this.#jobs.set(job.id, job);
    this.#tell("job", { job, before });
  }

  #forget(id) {
    if (this.#jobs.delete(id)) this.#tell("gone", { id });
  }

  /** Follow all changes while the page is seen: browsers open few streams to one server. */
  follow() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#stream?.abort();
      else this.#follow();
    });
    return this.#follow();
  }

  async #follow() {
    this.#stream?.abort();
    const stream = this.#stream = new AbortController();
    while (!stream.signal.aborted) {
      try {
        for await (const { kind, content } of events("/api/events", stream.signal)) {
          if (kind === "job") this.#note(content);
          else if (kind === "gone") this.#forget(content.id);
          else this.#tell("card", content);
          if (stream.isOpen === undefined) {
            stream.isOpen = true; // from here on no change is missed
            await this.#list();
            this.#tell("there");
          }
        }
      } catch (error) {
        if (stream.signal.aborted) return;
        this.#tell("away", error);
      }
      delete stream.isOpen;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }

  async #list() {
    const { jobs, next } = await call("GET", "/api/jobs");
    const listed = new Set(jobs.map((job) => job.id));
    const oldest = jobs.at(-1)?.number ?? 0;
    for (const job of this.all) {
      if (job.number >= oldest && !listed.has(job.id)) this.#forget(job.id);
    }
    jobs.forEach((job) => this.#note(job));
    this.next = next;
  }

  /** List those before the oldest that is known. */
  async older() {
    const { jobs, next } = await call("GET", `/api/jobs?before=${this.next}`);
    this.next = next;
    jobs.forEach((job) => this.#note(job));
  }

  async add(request) {
    const job = await call("POST", "/api/jobs", request);
    this.#note(job);
    return job;
  }

  async cancel(job) {
    this.#note(await call("DELETE", `/api/jobs/${job.id}`));
  }

  async resume(job) {
    this.#note(await call("POST", `/api/jobs/${job.id}/resume`));
  }

  /** Remove a job, and the uploads that nothing else needs. */
  async remove(job) {
    await call("DELETE", `/api/jobs/${job.id}?forget=true`);
    this.#forget(job.id);
    await this.#removeUnused(filesOf(job));
  }

  /** Keep an upload for jobs that may be added. */
  hold(file) {
    this.#held.add(file);
  }

  /** Keep an upload no longer than jobs need it. */
  release(file) {
    this.#held.delete(file);
    return this.#removeUnused([file]);
  }

  async #removeUnused(files) {
    const used = new Set([...this.#held, ...this.all.flatMap(filesOf)]);
    for (const file of new Set(files)) {
      // Another page may have removed it, or have a job that reads it.
      if (!used.has(file)) await call("DELETE", `/api/files/${file}`).catch(() => {});
    }
  }

  /** Wait until a job has ended. */
  ended(id) {
    return new Promise((resolve) => {
      const look = () => {
        const job = this.#jobs.get(id);
        if (job !== undefined && OPEN.includes(job.state)) return;
        this.removeEventListener("job", look);
        this.removeEventListener("gone", look);
        resolve(job);
      };
      this.addEventListener("job", look);
      this.addEventListener("gone", look);
      look();
    });
  }

  /** How many jobs are in line before one. */
  before(job) {
    return this.all.filter((each) => each.state === "queued" && each.number < job.number).length;
  }

  /** What a job's source is called. */
  nameOf(job) {
    const source = job.request.source;
    if (source.path !== undefined) return Promise.resolve(source.path);
    if (source.job !== undefined) return Promise.resolve(source.name ?? "another job's result");
    if (!this.#names.has(source.file)) {
      const name = call("GET", `/api/files/${source.file}`)
        .then((file) => file.name, () => "a file that was removed");
      this.#names.set(source.file, name);
    }
    return this.#names.get(source.file);
  }
}

/** The uploaded files that a job reads. */
export function filesOf(job) {
  const { source, faces = [], references = [] } = job.request;
  return [source, ...faces, ...references].flatMap((ref) => ref.file ?? []);
}
