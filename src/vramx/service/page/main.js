// The page of a service, put together.

import { showCard, showHealth } from "./card.js";
import { Choosing, models } from "./choosing.js";
import { find, say } from "./dom.js";
import { listJobs } from "./joblist.js";
import { Jobs } from "./jobs.js";
import { Stage } from "./stage.js";

const LOOKS = 30_000; // milliseconds between two looks at whether the card is there

const jobs = new Jobs();
const stage = new Stage(jobs);
const notice = find("notice");

function tell(error) {
  notice.hidden = error === undefined;
  notice.textContent = error?.message ?? "";
}

function show(job) {
  return stage.show(job).catch(tell);
}

/** Show what a job of this page made once it is done. */
async function added(job) {
  say("The job is in line.");
  const ended = await jobs.ended(job.id);
  if (ended?.state === "done") await show(ended);
}

async function health() {
  // No card is an answer too, with another status.
  const answer = await fetch("/health").catch(() => null);
  if (answer !== null) showHealth(await answer.json());
}

const choosing = new Choosing(jobs, { onAdded: (job) => added(job) });
showCard(jobs);
listJobs(jobs, {
  onShow: async (job) => {
    await show(job);
    find("stage").scrollIntoView({ block: "nearest" });
  },
  onError: tell,
});
jobs.addEventListener("there", () => {
  tell();
  health();
});
jobs.addEventListener("away", ({ detail: error }) => {
  tell(error.status === undefined ? new Error("The service does not answer. Trying again …") : error);
});
health();
setInterval(() => { if (!document.hidden) health(); }, LOOKS);
models().then((offered) => choosing.offer(offered), tell);
jobs.follow();
