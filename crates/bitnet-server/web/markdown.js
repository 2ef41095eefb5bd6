// Markdown of answers, as elements. What a model writes only ever becomes text: no HTML, no pictures, no scripts.

import { copy, element, iconButton } from "./element.js";
import { highlight } from "./highlight.js";

const DEEPEST = 12; // lists and quotations inside one another

const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})[ \t]*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|(\d{1,9})[.)])([ \t]+|$)/;
const COLUMNS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Shows `text` in `container`. Called again with more text it touches only what has changed. */
export function render(container, text) {
  const made = blocks(text.split(/\r?\n/), 0);
  made.forEach(({ source, build }, i) => {
    const old = container.children[i];
    if (old?.source === source) return;
    const node = build();
    node.source = source;
    if (old) old.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > made.length) container.lastElementChild.remove();
}

function blocks(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [end, build] = block(lines, at, depth);
    found.push({ source: lines.slice(at, end).join("\n"), build });
    at = end;
  }
  return found;
}

function children(lines, depth) {
  return blocks(lines, depth + 1).map(({ build }) => build());
}

/** Where the block that begins at a line ends, and how it is made. */
function block(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  // the page has a heading of its own, and the messages have theirs
  if (heading) return [at + 1, () => element(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2] ?? ""))];
  if (RULE.test(line)) return [at + 1, () => element("hr")];
  if (depth < DEEPEST && QUOTE.test(line)) return quotation(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && COLUMNS.test(lines[at + 1] ?? "")) return table(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines[end])) end++;
  const text = lines.slice(at, end).map((part) => part.trimStart()).join("\n");
  return [end, () => element("p", {}, ...inline(text.trimEnd()))];
}

function interrupts(line) {
  const item = ITEM.exec(line);
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || (item && (item[3] ?? "1") === "1" && item[4]);
}

function code(lines, at, [, marks, language]) {
  const closing = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end++;
  const text = lines.slice(at + 1, end).join("\n");
  const build = () => {
    const button = iconButton("copy", "Copy the code", () => copy(text, button));
    const label = language || "code";
    return element(
      "figure",
      { class: "code" },
      element("figcaption", {}, element("span", {}, label), button),
      element("pre", { tabindex: 0, role: "region", "aria-label": label }, element("code", {}, highlight(text, language.toLowerCase()))),
    );
  };
  return [Math.min(end + 1, lines.length), build];
}

function quotation(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [end, () => element("blockquote", {}, ...children(inner, depth))];
}

function list(lines, at, depth) {
  const [, , mark, number] = ITEM.exec(lines[at]);
  const kind = mark.at(-1); // another mark begins another list
  const items = [];
  let loose = false;
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[2].at(-1) !== kind || RULE.test(lines[end])) break;
    const width = item[4].length > 4 ? item[0].length - item[4].length + 1 : item[0].length;
    const indent = Math.max(width, 2);
    const nested = (line) => indentOf(line) >= (ITEM.test(line) ? item[1].length + 2 : indent);
    const inner = [lines[end].slice(width)];
    end++;
    while (end < lines.length) {
      const line = lines[end];
      if (!line.trim()) {
        const next = lines.slice(end).find((later) => later.trim());
        if (next === undefined || !nested(next)) break;
        inner.push("");
        loose = true;
      } else if (nested(line)) inner.push(line.slice(Math.min(indent, indentOf(line))));
      else if (ITEM.test(line) || interrupts(line) || !inner.at(-1).trim()) break;
      else inner.push(line.trimStart()); // a paragraph goes on without indentation
      end++;
    }
    items.push(inner);
    const next = lines.slice(end, end + 3).findIndex((line) => line.trim());
    const follower = next > 0 ? ITEM.exec(lines[end + next]) : null;
    if (follower && follower[2].at(-1) === kind) {
      loose = true;
      end += next;
    }
  }
  const build = () => {
    const made = items.map((inner) => {
      const parts = children(inner, depth);
      if (loose) return element("li", {}, ...parts);
      return element("li", {}, ...parts.flatMap((part) => (part.localName === "p" ? [...part.childNodes] : [part])));
    });
    return element(number ? "ol" : "ul", { start: number && number !== "1" ? number : null }, ...made);
  };
  return [end, build];
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function table(lines, at) {
  const alignments = cells(lines[at + 1]).map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return left && right ? "center" : right ? "right" : null;
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  const row = (line, tag) => {
    const texts = cells(line).slice(0, alignments.length);
    while (texts.length < alignments.length) texts.push("");
    return element("tr", {}, ...texts.map((text, i) => element(tag, { class: alignments[i] }, ...inline(text))));
  };
  const build = () => element(
    "div",
    { class: "table", tabindex: 0, role: "region", "aria-label": "Table" },
    element(
      "table",
      {},
      element("thead", {}, row(lines[at], "th")),
      element("tbody", {}, ...lines.slice(at + 2, end).map((line) => row(line, "td"))),
    ),
  );
  return [end, build];
}

function cells(line) {
  return line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

const INLINE = new RegExp(
  [
    String.raw`\\(?<escaped>[!-\/:-@[-\x60{-~])`,
    String.raw`(?<!\x60)(?<ticks>\x60+)(?<code>[^\x60]|[^\x60][\s\S]*?[^\x60])\k<ticks>(?!\x60)`,
    String.raw`(?<picture>!?)\[(?<label>(?:[^\[\]\\]|\\.|\[[^\[\]]*\])*)\]\((?<href>[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:[ \t]+"[^"]*")?\)`,
    String.raw`\*\*(?=\S)(?<strong>[\s\S]*?\S\*?)\*\*`,
    String.raw`(?<!\w)__(?=\S)(?<strong2>[\s\S]*?\S)__(?!\w)`,
    String.raw`\*(?=[^\s*])(?<em>(?:[^*]|\*\*[^*]+\*\*)*?[^\s*]|[^*]*\*\*[^*]+\*\*)\*(?!\*)`,
    String.raw`(?<!\w)_(?=\S)(?<em2>[^_]*?\S)_(?!\w)`,
    String.raw`~~(?=\S)(?<struck>[\s\S]*?\S)~~`,
    String.raw`<(?<address>https?:\/\/[^\s<>]+)>`,
    String.raw`(?<url>https?:\/\/[^\s<>]+)`,
    String.raw`(?<newline>(?: *|\\)\n)`,
  ].join("|"),
  "g",
);

/** Text with its emphasis, code and links, as nodes. */
function inline(text, depth = 0) {
  if (depth > DEEPEST) return [text];
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, found.index));
    end = found.index + found[0].length;
    const g = found.groups;
    const inner = (part) => inline(part, depth + 1);
    const strong = g.strong ?? g.strong2;
    const em = g.em ?? g.em2;
    if (g.escaped) nodes.push(g.escaped);
    else if (g.code) nodes.push(element("code", {}, g.code.replace(/^ (.*[^ ].*) $/s, "$1").replaceAll("\n", " ")));
    else if (g.label !== undefined) nodes.push(link(g.href, inner(g.label || g.href)));
    else if (strong) nodes.push(element("strong", {}, ...inner(strong)));
    else if (em) nodes.push(element("em", {}, ...inner(em)));
    else if (g.struck) nodes.push(element("del", {}, ...inner(g.struck)));
    else if (g.address) nodes.push(link(g.address, [g.address]));
    else if (g.url) {
      const url = g.url.replace(/[.,:;!?'"*_~)\]]+$/, ""); // the sentence goes on
      nodes.push(link(url, [url]));
      end -= g.url.length - url.length;
    } else nodes.push(element("br"));
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

/** A link, when it leads to a page; the words alone when it is anything else. */
function link(href, label) {
  let url;
  try {
    url = new URL(href);
  } catch {
    return element("span", {}, ...label);
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return element("span", {}, ...label);
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer", title: url.href }, ...label);
}
