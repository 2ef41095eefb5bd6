// Building the page. Text becomes text nodes, never markup.

/** True where a finger types: Enter is a line break there. */
export const touch = matchMedia("(pointer: coarse)");

/** An element with attributes (functions are listeners, true is an empty attribute, false and null none) and children. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** A picture of the sprite in index.html. */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(namespace, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows only a picture. */
export function iconButton(name, label, click) {
  return element("button", { type: "button", class: "icon", "aria-label": label, title: label, click }, icon(name));
}

/** Puts text on the clipboard; pages of unencrypted servers elsewhere have only the old way. */
export async function copy(text, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else {
    const field = element("textarea", { class: "unseen", "aria-hidden": "true" });
    field.value = text;
    button.after(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  const picture = button.querySelector("use");
  picture.setAttribute("href", "#i-done");
  setTimeout(() => picture.setAttribute("href", "#i-copy"), 1500);
}

/** Offers text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
