// The page: what happens when somebody does something.

import { Problem, events, models } from "./api.js";
import * as store from "./conversation.js";
import { download, element, touch } from "./element.js";
import { sampling, set, settings, startSettings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Transcript, count } from "./transcript.js";

const $ = (selector) => document.querySelector(selector);
const prompt = $("#prompt");
const narrow = matchMedia("(max-width: 48rem)");

/** Conversation id → what writes its answer. */
const running = new Map();
/** The server's models. */
let served = [];
let conversations = store.all();
let current = store.create();

const sidebar = new Sidebar($("#conversations"), { open, rename, remove });
const transcript = new Transcript($("#transcript"), $("#scroll"), $("#to-end"), {
  edit: (message, text) => {
    ask(text, message.parent);
    if (!touch.matches) prompt.focus();
  },
  again: (message) => answer(current, current.messages[message.parent]),
  changed: () => keep(current),
});

// --- showing

function show() {
  const task = running.get(current.id);
  const empty = current.leaf === null;
  transcript.show(current, task?.message);
  if (empty) $("#transcript").replaceChildren(greeting());
  $("#title").textContent = current.title || "New conversation";
  document.title = current.title ? `${current.title} · bitnet` : "bitnet";
  $("#export").hidden = empty;
  $("#send").hidden = Boolean(task);
  $("#stop").hidden = !task;
  showContext();
  showList();
}

function showList() {
  sidebar.show(conversations, current.id, (id) => running.has(id));
}

function greeting() {
  const one = model();
  const said = one && !one.chat ? "This model was not trained to chat: it goes on with your text." : "What you write stays between this browser and this server.";
  return element("div", { class: "greeting" }, element("p", { class: "large" }, "Where shall we begin?"), element("p", {}, said));
}

function showContext() {
  const stats = store.path(current).findLast((message) => message.stats?.prompt)?.stats;
  const limit = model()?.context_length;
  const used = stats && `${count(stats.prompt + stats.tokens)} of ${count(limit ?? 0)} tokens of context`;
  $("#context").textContent = stats && limit ? used : "";
}

function announce(text) {
  $("#live").textContent = text;
}

/** A short message with something to do about it. */
function notice(text, label, act) {
  const button = element("button", { type: "button", click: () => (box.replaceChildren(), act()) }, label);
  const box = $("#notice");
  const content = element("div", {}, element("span", {}, text), button);
  box.replaceChildren(content);
  setTimeout(() => content.remove(), 10_000);
}

function trouble(message, retry) {
  const box = $("#trouble");
  box.hidden = !message;
  box.replaceChildren();
  if (message) box.append(element("span", {}, message), element("button", { type: "button", click: retry }, "Try again"));
}

// --- conversations

function keep(conversation) {
  if (!conversations.some(({ id }) => id === conversation.id)) conversations.unshift(conversation);
  conversations.sort((a, b) => b.updated - a.updated);
  if (!store.save(conversation)) {
    notice("This browser's storage is full or closed: the conversation is lost when the page is left.", "Export", () => exportAs("json"));
  }
  if (conversation.id === current.id) show();
  else showList();
}

function open(id, push = true) {
  current = conversations.find((conversation) => conversation.id === id) ?? store.create();
  if (push) history.pushState(null, "", conversations.includes(current) ? `#${id}` : location.pathname + location.search);
  drawer(false);
  show();
  if (!touch.matches) prompt.focus();
}

function rename(id, title) {
  const conversation = conversations.find((entry) => entry.id === id);
  conversation.title = title;
  keep(conversation);
}

function remove(id) {
  const at = conversations.findIndex((entry) => entry.id === id);
  const [conversation] = conversations.splice(at, 1);
  running.get(id)?.controller.abort();
  store.remove(id);
  if (id === current.id) open(null);
  else showList();
  const next = conversations[Math.min(at, conversations.length - 1)];
  ($(`#conversations li[data-id="${next?.id}"] .open`) ?? $("#new")).focus();
  notice(`Deleted “${conversation.title}”.`, "Undo", () => {
    keep(conversation);
    open(id);
  });
}

function exportAs(format) {
  const name = store.fileName(current);
  if (format === "markdown") download(`${name}.md`, "text/markdown", store.markdown(current));
  else download(`${name}.json`, "application/json", JSON.stringify(current, null, 2));
}

// --- asking

function model() {
  return served.find(({ id }) => id === settings.model) ?? served[0];
}

/** Adds a question below a message (`null`: at the begin) and has it answered. */
function ask(text, parent) {
  const question = store.add(current, parent, "user", text);
  if (location.hash !== `#${current.id}`) history.pushState(null, "", `#${current.id}`);
  return answer(current, question);
}

/** Route and body of the request for the next answer. */
function requestFor(conversation, question) {
  const one = model();
  const common = { model: one?.id, stream: true, stream_options: { include_usage: true }, ...sampling() };
  const said = store.path({ ...conversation, leaf: question.id }).filter(({ content }) => content);
  if (one && !one.chat) {
    const text = said.map(({ role, content }, i) => (i > 0 && role === "user" ? "\n" : "") + content).join("");
    const prompt = settings.system ? `${settings.system}\n${text}` : text;
    return ["v1/completions", { max_tokens: 256, ...common, prompt }];
  }
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  return ["v1/chat/completions", { ...common, messages: [...system, ...said.map(({ role, content }) => ({ role, content }))] }];
}

async function answer(conversation, question) {
  if (running.has(conversation.id)) return;
  const [route, body] = requestFor(conversation, question);
  const message = store.add(conversation, question.id, "assistant", "");
  message.stats = { tokens: 0 };
  const controller = new AbortController();
  running.set(conversation.id, { message, controller });
  keep(conversation);
  transcript.end();
  announce("Answering");
  let problem = null;
  try {
    await write(message, events(route, body, controller.signal), () => {
      if (conversation.id === current.id) transcript.update(message);
    }, () => conversations.includes(conversation) && store.save(conversation));
  } catch (error) {
    if (error.name === "AbortError") message.stats.end = "stopped";
    else if (error instanceof Problem) problem = error;
    else throw error;
  } finally {
    running.delete(conversation.id);
    if (problem) message.problem = explain(problem);
    if (conversations.includes(conversation)) keep(conversation);
  }
  if (problem?.status === 404) connect(); // another model is served now: trying again asks that one
  if (problem?.status === 401) return askKey(() => answer(conversation, question));
  if (!problem) announce(`Answer of ${message.stats.tokens} tokens: ${$(`[data-id="${message.id}"] .text`)?.textContent ?? ""}`);
}

/** Writes the events of an answer into a message, with its times. */
async function write(message, answer, changed, save) {
  const { stats } = message;
  const begin = performance.now();
  let first = 0;
  let saved = begin;
  let drawn = true;
  for await (const event of answer) {
    const now = performance.now();
    const choice = event.choices?.[0];
    const text = choice?.delta?.content ?? choice?.text;
    if (text) {
      first ||= now;
      message.content += text;
      stats.tokens++; // about one per event; the server says the true number at the end
      stats.first = (first - begin) / 1000;
      stats.last = (now - first) / 1000;
    }
    if (choice?.finish_reason) stats.end = choice.finish_reason;
    if (event.usage) {
      stats.tokens = event.usage.completion_tokens;
      stats.prompt = event.usage.prompt_tokens;
      stats.cached = event.usage.prompt_tokens_details?.cached_tokens;
    }
    if (stats.last > 0) stats.rate = (stats.tokens - 1) / stats.last;
    if (drawn) {
      drawn = false;
      requestAnimationFrame(() => {
        drawn = true;
        changed();
      });
    }
    if (now - saved > 1000) {
      saved = now;
      save();
    }
  }
}

function explain({ message, retryAfter }) {
  return retryAfter ? `${message} (try again in ${retryAfter} s)` : message;
}

async function connect() {
  try {
    served = await models();
    trouble(null);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return askKey(connect);
    return trouble(explain(error), connect);
  }
  const select = $("#model");
  select.replaceChildren(...served.map(({ id }) => element("option", { value: id }, id)));
  select.value = model()?.id ?? "";
  select.hidden = served.length < 2;
  $("#model-name").hidden = served.length !== 1;
  $("#model-name").textContent = model()?.id ?? "";
  show();
}

function askKey(then) {
  const dialog = $("#ask-key");
  if (dialog.open) return;
  $("#asked-key-wrong").hidden = !settings.key;
  $("#asked-key").value = "";
  dialog.addEventListener("close", () => {
    const key = $("#asked-key").value.trim();
    if (!key) return trouble("The server asks for an API key.", () => askKey(then));
    set({ key });
    trouble(null);
    if (served.length) then();
    else connect().then(() => then !== connect && then());
  }, { once: true });
  dialog.showModal();
}

/** True when the user wants it. */
function confirmed(question) {
  const dialog = $("#confirm");
  $("#confirm-title").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// --- the drawer of narrow windows

function drawer(out) {
  document.body.classList.toggle("drawer", out);
  $("#open-sidebar").setAttribute("aria-expanded", out);
  $("#sidebar").inert = narrow.matches && !out;
  $("main").inert = narrow.matches && out;
  if (narrow.matches && out) $("#close-sidebar").focus();
}

// --- listening

function sized() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
  $("#send").disabled = !prompt.value.trim();
}

function stop() {
  running.get(current.id)?.controller.abort();
}

prompt.addEventListener("input", sized);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch.matches) {
    event.preventDefault();
    $("#composer").requestSubmit();
  }
  if (event.key === "ArrowUp" && !prompt.value && !running.has(current.id)) {
    const mine = store.path(current).findLast(({ role }) => role === "user");
    if (!mine) return;
    event.preventDefault();
    transcript.edit(mine);
  }
});
$("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (!text || running.has(current.id)) return;
  prompt.value = "";
  sized();
  ask(text, current.leaf);
});
$("#stop").addEventListener("click", () => {
  stop();
  prompt.focus();
});
$(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part of the address behind # is the conversation
  prompt.focus();
});
$("#new").addEventListener("click", () => open(null));
$("#open-sidebar").addEventListener("click", () => drawer(true));
$("#close-sidebar").addEventListener("click", () => {
  drawer(false);
  $("#open-sidebar").focus();
});
$("#shade").addEventListener("click", () => drawer(false));
narrow.addEventListener("change", () => drawer(false));
$("#model").addEventListener("change", ({ target }) => {
  set({ model: target.value });
  show();
});
$("#export").addEventListener("click", ({ target }) => {
  const { format } = target.dataset;
  if (!format) return;
  exportAs(format);
  $("#export").open = false;
});
$("#export").addEventListener("focusout", ({ relatedTarget }) => {
  if (!$("#export").contains(relatedTarget)) $("#export").open = false;
});
$("#export-all").addEventListener("click", () => {
  download("conversations.json", "application/json", JSON.stringify(conversations, null, 2));
});
$("#delete-all").addEventListener("click", async () => {
  const many = conversations.length;
  if (!many || !(await confirmed(`Delete ${many === 1 ? "the one conversation" : `all ${many} conversations`} of this browser?`))) return;
  for (const { id } of conversations) {
    running.get(id)?.controller.abort();
    store.remove(id);
  }
  conversations = [];
  open(null);
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if ($("#export").open) {
      $("#export").open = false;
      $("#export summary").focus();
    } else if (document.body.classList.contains("drawer")) $("#close-sidebar").click();
    else stop();
  }
  if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    open(null);
  }
});
addEventListener("popstate", () => open(location.hash.slice(1), false));
addEventListener("pagehide", () => running.size && conversations.filter(({ id }) => running.has(id)).forEach(store.save));
store.onChange((id) => {
  const fresh = store.load(id);
  if (running.has(id)) {
    if (fresh) return; // what is being written here is newer; saving it keeps what is there
    running.get(id).controller.abort();
  }
  conversations = conversations.filter((entry) => entry.id !== id).concat(fresh ?? []).sort((a, b) => b.updated - a.updated);
  if (id !== current.id) return showList();
  current = fresh ?? store.create();
  show();
});

startSettings($("#settings"));
if (touch.matches) $("#hint").textContent = "";
open(location.hash.slice(1), false);
drawer(false);
connect();
