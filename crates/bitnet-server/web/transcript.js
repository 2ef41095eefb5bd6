// The messages of a conversation, as they are shown.

import { choose, path, versions } from "./conversation.js";
import { copy, element, icon, iconButton, touch } from "./element.js";
import { render } from "./markdown.js";

const NEAR = 80; // so many pixels from the end count as being there

export class Transcript {
  /** `actions`: edit(message, text), again(message), changed(), problemSolved(). */
  constructor(container, scroll, toEnd, actions) {
    Object.assign(this, { container, scroll, toEnd, actions, conversation: null, busy: false, following: true });
    scroll.addEventListener("scroll", () => this.#look(), { passive: true });
    toEnd.addEventListener("click", () => this.end());
    new ResizeObserver(() => this.following && this.end()).observe(container);
  }

  /** Shows a conversation; `running` is the message that is being written, if any. */
  show(conversation, running) {
    const another = this.conversation?.id !== conversation.id;
    this.conversation = conversation;
    this.running = running;
    this.container.replaceChildren(...path(conversation).map((message) => this.#article(message)));
    if (another) this.end();
  }

  /** The message that is being written has more text. */
  update(message) {
    const article = this.container.querySelector(`[data-id="${message.id}"]`);
    if (!article) return;
    render(article.querySelector(".text"), message.content);
    article.querySelector(".stats").textContent = describe(message.stats);
    article.classList.toggle("waiting", !message.content);
  }

  /** Scrolls to the end and stays there. */
  end() {
    this.following = true;
    this.scroll.scrollTop = this.scroll.scrollHeight;
    this.#look();
  }

  #look() {
    const distance = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight;
    this.following = distance < NEAR;
    this.toEnd.hidden = this.following;
  }

  #article(message) {
    const mine = message.role === "user";
    const text = element("div", { class: "text" });
    if (mine) text.textContent = message.content;
    else render(text, message.content);
    const running = message.id === this.running?.id;
    return element(
      "article",
      { class: `message ${message.role}${running && !message.content ? " waiting" : ""}`, "data-id": message.id },
      element("h2", { class: "unseen" }, mine ? "You" : "Model"),
      text,
      message.problem ? this.#problem(message) : null,
      element(
        "footer",
        {},
        element("span", { class: "tools" }, ...(running ? [] : this.#tools(message, text))),
        mine ? null : element("span", { class: "stats" }, describe(message.stats)),
      ),
    );
  }

  #tools(message, text) {
    const tools = [...this.#versions(message)];
    if (message.content) {
      const button = iconButton("copy", "Copy", () => copy(message.content, button));
      tools.push(button);
    }
    if (this.running) return tools;
    if (message.role === "user") tools.push(iconButton("edit", "Edit", () => this.edit(message, text)));
    else tools.push(iconButton("again", "Answer again", () => this.actions.again(message)));
    return tools;
  }

  #versions(message) {
    const all = versions(this.conversation, message);
    if (all.length < 2) return [];
    const at = all.indexOf(message);
    const step = (name, label, to) => {
      const button = iconButton(name, label, () => {
        choose(this.conversation, all[to]);
        this.actions.changed();
        const article = this.container.querySelector(`[data-id="${all[to].id}"]`);
        article?.querySelector(`[aria-label="${label}"]:enabled, .tools button:enabled`)?.focus();
      });
      button.disabled = !all[to] || Boolean(this.running);
      return button;
    };
    const count = element("span", { class: "count" }, `${at + 1} of ${all.length}`);
    return [step("before", "Version before", at - 1), count, step("after", "Version after", at + 1)];
  }

  #problem(message) {
    const again = element("button", { type: "button", click: () => this.actions.again(message) }, icon("again"), "Try again");
    return element("div", { class: "problem", role: "alert" }, element("p", {}, message.problem), this.running ? null : again);
  }

  /** Turns a message of the user's into a field. */
  edit(message, text = this.container.querySelector(`[data-id="${message.id}"] .text`)) {
    const field = element("textarea", { "aria-label": "Edit your message", rows: Math.min(12, message.content.split("\n").length + 1) });
    field.value = message.content;
    const cancel = () => {
      form.replaceWith(text);
      text.closest("article").querySelector('[aria-label="Edit"]')?.focus();
    };
    const save = (event) => {
      event?.preventDefault();
      if (field.value.trim()) this.actions.edit(message, field.value.trim());
    };
    const keydown = (event) => {
      if (event.key === "Escape") cancel();
      else if (event.key === "Enter" && event.target === field && !event.shiftKey && !event.isComposing && !touch.matches) save(event);
      else return;
      event.stopPropagation();
    };
    const buttons = element(
      "div",
      { class: "row end" },
      element("button", { type: "button", click: cancel }, "Cancel"),
      element("button", { class: "primary" }, "Send"),
    );
    const form = element("form", { class: "edit", submit: save, keydown }, field, buttons);
    text.replaceWith(form);
    field.focus();
  }
}

const ENDS = { length: "cut at the longest length", stopped: "stopped" };

/** Counts and times of an answer, in a line. */
function describe(stats) {
  if (!stats?.tokens) return stats?.end === "stopped" ? "stopped" : "";
  const parts = [`${count(stats.tokens)} ${stats.tokens === 1 ? "token" : "tokens"}`];
  if (stats.rate) parts.push(`${digits(stats.rate)} tokens/s`);
  if (stats.first) parts.push(`first after ${digits(stats.first)} s`);
  if (stats.prompt) parts.push(`prompt ${count(stats.prompt)}${stats.cached ? `, ${count(stats.cached)} cached` : ""}`);
  if (ENDS[stats.end]) parts.push(ENDS[stats.end]);
  return parts.join(" · ");
}

export function count(n) {
  return n.toLocaleString("en");
}

function digits(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
