// The service's token: asked for once, and kept in this tab.

import { find } from "./dom.js";

const KEY = "vramx-token";
let asking = null;

export function header() {
  const token = sessionStorage.getItem(KEY);
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

export function isNeeded() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Ask for the token, once for all whose headers were refused. */
export function ask(refused) {
  if (asking === null && refused.Authorization !== header().Authorization) return null;
  asking ??= new Promise((resolve) => {
    const dialog = find("token");
    const value = find("token-value");
    if (isNeeded()) find("token-hint").textContent = "That was not it. Please try again.";
    value.value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      sessionStorage.setItem(KEY, value.value);
      resolve();
    }, { once: true });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return asking;
}
