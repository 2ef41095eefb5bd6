// The list of conversations.

import { element, icon, iconButton } from "./element.js";

const DAY = 86_400_000;

function age(updated) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (updated >= today) return "Today";
  if (updated >= today - DAY) return "Yesterday";
  return updated >= today - 7 * DAY ? "The last seven days" : "Earlier";
}

export class Sidebar {
  /** `actions`: open(id), rename(id, title), remove(id). */
  constructor(container, actions) {
    Object.assign(this, { container, actions });
  }

  /** Shows `conversations`, the latest first; `running` tells which are being answered. */
  show(conversations, current, running) {
    if (this.container.querySelector("form")) return; // a name is being typed
    const focused = document.activeElement?.closest?.("#conversations li")?.dataset.id;
    const groups = group(conversations);
    const sections = [...groups].map(([label, entries], i) => [
      element("h2", { id: `age-${i}` }, label),
      element("ul", { "aria-labelledby": `age-${i}` }, ...entries.map((entry) => this.#item(entry, current, running))),
    ]);
    this.container.replaceChildren(...sections.flat());
    if (focused) this.container.querySelector(`li[data-id="${focused}"] .open`)?.focus();
  }

  #item({ id, title }, current, running) {
    const open = element(
      "button",
      { type: "button", class: "open", "aria-current": id === current ? "page" : null, click: () => this.actions.open(id) },
      element("span", {}, title),
      running(id) ? element("span", { class: "dot", role: "img", "aria-label": "is being answered" }) : null,
    );
    const item = element(
      "li",
      { "data-id": id },
      open,
      iconButton("edit", `Rename “${title}”`, () => this.#rename(item, id, title)),
      iconButton("delete", `Delete “${title}”`, () => this.actions.remove(id)),
    );
    return item;
  }

  #rename(item, id, title) {
    const before = [...item.children];
    const field = element("input", { "aria-label": "Name of the conversation", maxlength: 200 });
    field.value = title;
    let over = false;
    const finish = (keep) => {
      if (over) return; // the field also loses the focus when it goes
      over = true;
      item.replaceChildren(...before);
      if (keep && field.value.trim() && field.value.trim() !== title) this.actions.rename(id, field.value.trim());
      this.container.querySelector(`li[data-id="${id}"] [aria-label^="Rename"]`)?.focus();
    };
    const keydown = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      finish(false);
    };
    const submit = (event) => {
      event.preventDefault();
      finish(true);
    };
    field.addEventListener("blur", () => finish(true));
    item.replaceChildren(element("form", { submit, keydown }, field, element("button", { class: "icon", "aria-label": "Keep the name" }, icon("done"))));
    field.select();
  }
}

function group(conversations) {
  const groups = new Map();
  for (const entry of conversations) {
    const key = age(entry.updated);
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return groups;
}
