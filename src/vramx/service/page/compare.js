// Two pictures, one over the other, and a slider between them. Arrow keys move it, too.

import { make } from "./dom.js";

/** Make it of two addresses; `onSize` is told the result's size, `onError` that one cannot be shown. */
export function compare(before, after, name, { onSize, onError }) {
  const range = make("input", { type: "range", min: 0, max: 100, step: "any", value: 50 });
  range.setAttribute("aria-label", "How much is shown as it was before");
  const large = make("img", { className: "after", alt: `${name}, after` });
  const small = make("img", { className: "before", alt: `${name}, before` });
  const figure = make(
    "figure", { className: "compare" },
    large, small,
    make("span", { className: "tag left", textContent: "before" }),
    make("span", { className: "tag right", textContent: "after" }),
    make("span", { className: "line" }),
    range,
  );

  function move() {
    figure.style.setProperty("--at", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${Math.round(range.value)} % before`);
  }

  range.addEventListener("input", move);
  move();
  large.addEventListener("load", () => {
    figure.style.setProperty("--ratio", large.naturalWidth / large.naturalHeight);
    figure.style.setProperty("--width", `${large.naturalWidth / devicePixelRatio}px`);
    onSize(large.naturalWidth, large.naturalHeight);
  });
  for (const image of [large, small]) image.addEventListener("error", onError);
  [large.src, small.src] = [after, before];
  return figure;
}
