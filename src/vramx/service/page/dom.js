// Elements. Text is only ever set as text: names of files are what strangers make of them.

export function find(id) {
  return document.getElementById(id);
}

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Say something to those who do not see the page. */
export function say(text) {
  find("said").textContent = text;
}

/** Set a text only where it changes, so that what is selected stays so. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
