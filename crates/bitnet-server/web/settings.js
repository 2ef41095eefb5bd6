// What the user has chosen, kept in this browser.

import { element } from "./element.js";

const KEY = "bitnet.settings";

/** name, label, smallest, largest, step, what holds when the field is empty */
const SAMPLING = [
  ["temperature", "Temperature", 0, 2, 0.05, "0.8"],
  ["top_p", "Top p", 0, 1, 0.01, "0.95"],
  ["top_k", "Top k", 0, 1000000, 1, "40"],
  ["min_p", "Min p", 0, 1, 0.01, "0"],
  ["repetition_penalty", "Repetition penalty", 0.1, 10, 0.01, "1"],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.05, "0"],
  ["presence_penalty", "Presence penalty", -2, 2, 0.05, "0"],
  ["max_tokens", "Longest answer, tokens", 1, 1000000, 1, "what fits"],
  ["seed", "Seed", 0, Number.MAX_SAFE_INTEGER, 1, "another each time"],
];

/** theme, system, key, model, and the sampling fields that are not empty */
export const settings = read();

function read() {
  try {
    return { theme: "system", system: "", key: "", ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return { theme: "system", system: "", key: "" };
  }
}

// What another window has chosen is not to be undone by the next choice here.
addEventListener("storage", ({ key }) => {
  if (key !== KEY) return;
  for (const name of Object.keys(settings)) delete settings[name];
  Object.assign(settings, read());
});

/** Keeps what has changed. */
export function set(changes) {
  Object.assign(settings, changes);
  for (const name of Object.keys(settings)) if (settings[name] === undefined) delete settings[name];
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // storage is full or forbidden: they hold until the page is closed
  }
  if (settings.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
}

/** The sampling fields of a request. */
export function sampling() {
  const given = SAMPLING.map(([name]) => [name, settings[name]]).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given);
}

function field([name, label, min, max, step, fallback]) {
  const input = element("input", {
    id: `s-${name}`, name, type: "number", inputmode: "decimal", min, max, step, placeholder: fallback,
    input: () => input.validity.valid && set({ [name]: input.value === "" ? undefined : input.valueAsNumber }),
  });
  input.value = settings[name] ?? "";
  return element("div", { class: "field" }, element("label", { for: `s-${name}` }, label), input);
}

/** Brings the dialog to life. */
export function startSettings(dialog) {
  const grid = dialog.querySelector("#sampling");
  const fill = () => {
    for (const radio of dialog.querySelectorAll("[name=theme]")) radio.checked = radio.value === settings.theme;
    dialog.querySelector("#system").value = settings.system;
    dialog.querySelector("#key").value = settings.key;
    grid.replaceChildren(...SAMPLING.map(field));
  };
  document.querySelector("#open-settings").addEventListener("click", () => {
    fill();
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("input", ({ target }) => {
    if (target.name === "theme" || target.name === "system" || target.name === "key") set({ [target.name]: target.value });
  });
  dialog.querySelector("form").addEventListener("keydown", (event) => {
    // Enter in a field means "I am done", which it is: every change is kept at once
    if (event.key === "Enter" && event.target.matches("input")) {
      event.preventDefault();
      dialog.close();
    }
  });
  dialog.querySelector("#reset").addEventListener("click", () => {
    set(Object.fromEntries(SAMPLING.map(([name]) => [name, undefined])));
    fill();
  });
  fill();
}
