// The server, as this page needs it.

import { settings } from "./settings.js";

/** What the server, or the way to it, says is wrong. */
export class Problem extends Error {
  constructor(message, status = 0, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function request(path, init) {
  const headers = { ...init.headers };
  if (settings.key) headers.Authorization = `Bearer ${settings.key}`;
  let response;
  try {
    // relative, so that the page also works under a path of a proxy
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let message;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    message = text.slice(0, 500); // a proxy's words, not the server's
  }
  message ||= response.statusText || `The server answered with status ${response.status}.`;
  throw new Problem(message, response.status, Number(response.headers.get("Retry-After")) || 0);
}

/** The models that are there. */
export async function models() {
  const response = await request("v1/models", { method: "GET" });
  return (await response.json()).data;
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Problem("The answer could not be read.");
  }
}

/** The events of a streamed answer, as objects. */
export async function* events(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const response = await request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Problem("The connection broke off.");
      }
      if (piece.done) throw new Problem("The connection ended before the answer did.");
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = parsed(data);
        if (event.error) throw new Problem(event.error.message || "The server broke the answer off.");
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // the server hears that nobody listens any more
  }
}
