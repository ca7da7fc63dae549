// Requests to the service.

import * as token from "./token.js";

/** What the service refused, in its own words. */
export class Refused extends Error {
  constructor(status, told) {
    super(told.message ?? `the service answered ${status}`);
    this.status = status;
  }
}

async function refused(answer) {
  return new Refused(answer.status, await answer.json().catch(() => ({})));
}

async function answerTo(path, options = {}) {
  for (;;) {
    const shown = token.header();
    const headers = { ...options.headers, ...shown };
    // Without "omit" browsers would ask for the token too, in a dialog of their own.
    const answer = await fetch(path, { ...options, headers, credentials: "omit" });
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await refused(answer);
    await token.ask(shown);
  }
}

/** Send a request, with a body as JSON if there is one, and return the answer's JSON. */
export async function call(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const answer = await answerTo(path, options);
  return answer.status === 204 ? null : answer.json();
}

/** Upload a file. */
export async function upload(file, onProgress) {
  for (;;) {
    const shown = token.header();
    const { status, response } = await send(file, shown, onProgress);
    if (status === 201) return response;
    if (status !== 401) throw new Refused(status, response ?? {});
    await token.ask(shown);
  }
}

// Requests of this kind alone tell how far they are.
function send(file, headers, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/files?name=${encodeURIComponent(file.name)}`);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded / file.size));
    request.addEventListener("load", () => resolve(request));
    request.addEventListener("error", () => {
      reject(new Error(`${file.name} could not be sent: the service does not answer`));
    });
    request.send(file);
  });
}

/** An address that an element can show: with a token, that of a copy in this page. */
export async function address(path) {
  if (!token.isNeeded()) return { url: path, release() {} };
  const url = URL.createObjectURL(await (await answerTo(path)).blob());
  return { url, release: () => URL.revokeObjectURL(url) };
}

/** Server-sent events, also with a token, which EventSource cannot send. */
export async function* events(path, signal) {
  const answer = await answerTo(path, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => {
        const colon = line.indexOf(": ");
        return [line.slice(0, colon), line.slice(colon + 2)];
      }));
      if (fields.data) yield { kind: fields.event, content: JSON.parse(fields.data) };
    }
  }
}
