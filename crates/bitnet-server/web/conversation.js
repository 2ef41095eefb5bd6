// Conversations, and where they are kept.
//
// A conversation is a tree of messages. Editing a question or asking again adds a sibling; nothing that was said is lost.
// `leaf` is the end of the path that is shown, `next` the one below a message that was shown last.

const PREFIX = "bitnet.conversation.";

function name() {
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

export function create() {
  const now = Date.now();
  return { id: name(), title: "", created: now, updated: now, messages: {}, leaf: null };
}

/** The messages that are shown, first to last. */
export function path(conversation) {
  const messages = [];
  for (let id = conversation.leaf; id !== null; id = conversation.messages[id].parent) messages.unshift(conversation.messages[id]);
  return messages;
}

/** Adds a message below another (`null`: at the begin) and shows it. */
export function add(conversation, parent, role, content) {
  const message = { id: name(), parent, role, content, at: Date.now() };
  conversation.messages[message.id] = message;
  conversation.leaf = message.id;
  if (parent !== null) conversation.messages[parent].next = message.id;
  conversation.updated = message.at;
  if (!conversation.title && role === "user") conversation.title = titleOf(content);
  return message;
}

/** The versions of a message, oldest first. */
export function versions(conversation, message) {
  return Object.values(conversation.messages).filter((other) => other.parent === message.parent);
}

/** Shows another version, with what followed it when it was shown last. */
export function choose(conversation, message) {
  const { messages } = conversation;
  if (message.parent !== null) messages[message.parent].next = message.id;
  let leaf = message;
  while (messages[leaf.next]) leaf = messages[leaf.next];
  conversation.leaf = leaf.id;
}

function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length <= 60 ? line : line.slice(0, 59).replace(/\s+\S*$/, "") + "…";
}

/** True for what this page could have stored. */
function sound(value) {
  const message = (m) => m && typeof m.content === "string" && (m.role === "user" || m.role === "assistant");
  if (typeof value?.id !== "string" || typeof value.title !== "string" || !(value.updated > 0)) return false;
  if (typeof value.messages !== "object" || !Object.values(value.messages).every(message)) return false;
  const seen = new Set();
  for (let id = value.leaf; id !== null; id = value.messages[id].parent) {
    if (!value.messages[id] || seen.has(id)) return false;
    seen.add(id);
  }
  return true;
}

export function load(id) {
  try {
    const value = JSON.parse(localStorage.getItem(PREFIX + id));
    return sound(value) ? value : null;
  } catch {
    return null;
  }
}

/** All conversations, the latest first. */
export function all() {
  const ids = [];
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (key.startsWith(PREFIX)) ids.push(key.slice(PREFIX.length));
    }
  } catch {
    return []; // this browser keeps nothing
  }
  return ids.map(load).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

/** False when the browser's storage is full or forbidden. Messages that another window has added stay. */
export function save(conversation) {
  conversation.messages = { ...load(conversation.id)?.messages, ...conversation.messages };
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

export function remove(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // this browser keeps nothing
  }
}

/** Calls with the id of a conversation that another window has changed or deleted. */
export function onChange(listener) {
  addEventListener("storage", ({ key }) => key?.startsWith(PREFIX) && listener(key.slice(PREFIX.length)));
}

/** The shown path as a Markdown document. */
export function markdown(conversation) {
  const part = ({ role, content }) => `## ${role === "user" ? "You" : "Model"}\n\n${content.trim()}\n`;
  return [`# ${conversation.title}\n`, ...path(conversation).map(part)].join("\n");
}

/** A name for a file. */
export function fileName(conversation) {
  const plain = conversation.title.normalize("NFKD").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return plain.slice(0, 60).toLowerCase() || "conversation";
}
