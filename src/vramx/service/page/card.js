// The card as it is now: what is on it, and what crosses its link.

import { find, make, write } from "./dom.js";
import { rate, several, size } from "./words.js";

const SECONDS = 60;
const PARTS = {
  kept: "Kept",
  packed: "Kept packed",
  streamed: "Streamed",
  aside: "Set aside for jobs",
  free: "Free",
};

/** Split the budget into parts that add up to it. */
function split({ budget, claimed, resident, kept, packed_on_card: packed }) {
  const stays = Math.min(Math.max(kept - packed, 0), resident - packed);
  const streamed = resident - packed - stays;
  const aside = Math.max(claimed - resident, 0);
  return { kept: stays, packed, streamed, aside, free: Math.max(budget - resident - aside, 0) };
}

/** Show the card of a service, once a second. */
export function showCard(jobs) {
  const link = Array.from({ length: SECONDS }, () => ({ in: 0, out: 0 }));
  const shown = Object.entries(PARTS).map(([part, text]) => {
    const segment = make("span", { className: part });
    const bytes = make("dd");
    find("bar").append(segment);
    find("parts").append(make("div", { className: part }, make("dt", { textContent: text }), bytes));
    return { part, text, segment, bytes };
  });

  jobs.addEventListener("card", ({ detail: card }) => {
    const parts = split(card);
    for (const { part, segment, bytes } of shown) {
      segment.style.flexGrow = parts[part] / card.budget;
      write(bytes, size(parts[part]));
    }
    const words = shown.map(({ part, text }) => `${text.toLowerCase()}: ${size(parts[part])}`);
    find("bar").setAttribute("aria-label", `Of ${size(card.budget)}, ${words.join(", ")}`);
    write(find("budget-of-all"), `${size(card.budget)} for all jobs`);
    write(find("sessions"), card.sessions === 0 ? "No job is on the card." : (
      `${several(card.sessions, "job")} on the card, with ${size(card.managed)} of models` +
      `${card.packed_on_host ? `, ${size(card.packed_on_host)} of packed copies in host memory` : ""}.`
    ));
    link.push(card.link);
    link.shift();
    drawLink(link);
  });
}

function drawLink(link) {
  const peak = Math.max(...link.map((each) => Math.max(each.in, each.out)));
  for (const way of ["in", "out"]) {
    const points = link.map((each, at) => `${at},${98 - (96 * each[way]) / (peak || 1)}`);
    find("spark").querySelector(`.${way}`).setAttribute("points", points.join(" "));
    write(find(`link-${way}`), rate(link.at(-1)[way]));
  }
  write(find("peak"), peak === 0 ? "" : `at most ${rate(peak)}`);
}

/** Say what the card is, and plainly where there is none. */
export function showHealth(health) {
  const { name, simulated, there, memory, backend, why } = health.card;
  const badge = find("health");
  badge.classList.toggle("bad", !there);
  badge.classList.toggle("simulated", simulated);
  if (!there) badge.textContent = `The card ${name} does not answer: ${why}`;
  else if (simulated) badge.textContent = "No GPU: the card is simulated on the CPU";
  else badge.textContent = `${name}, ${size(memory)}, ${backend} memory`;
}
