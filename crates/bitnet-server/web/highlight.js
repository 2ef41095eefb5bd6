// Colours for code: comments, texts, numbers and words that many languages reserve. No grammar, no surprises.

const KEYWORDS = new Set(
  ("abstract and as assert async await bool break case catch char class const continue crate def default defer del do double " +
    "dyn elif else end enum except export extends extern false False final finally float fn for from func function go goto if impl " +
    "implements import in instanceof int interface internal is lambda let local long loop match mod module move mut namespace new " +
    "nil none None nonlocal not null nullptr of or override package pass private protected pub public raise ref return self Self " +
    "short signed static struct super switch template then this throw throws trait true True try type typedef typeof union unless " +
    "unsafe unsigned until use using val var virtual void where while with yield " +
    "SELECT FROM WHERE INSERT UPDATE DELETE CREATE TABLE JOIN GROUP ORDER BY AND OR NOT NULL INTO VALUES").split(" "),
);

const HASH = /^(py|python|sh|bash|shell|zsh|yaml|yml|toml|rb|ruby|perl|r|make|makefile|dockerfile|ini|conf|elixir|julia)$/;
const DASHES = /^(sql|lua|haskell|hs|ada|elm)$/;
const PLAIN = /^(text|txt|plain|plaintext|md|markdown|csv|log|diff)$/;

const TEXTS = String.raw`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|` + "`(?:[^`\\\\]|\\\\.)*`";
const NUMBERS = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*\b`;
const WORDS = String.raw`[A-Za-z_$][\w$]*`;

function pattern(language) {
  let comments = String.raw`\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`;
  if (HASH.test(language)) comments = String.raw`#[^\n]*|"""[\s\S]*?(?:"""|$)`;
  if (DASHES.test(language)) comments = String.raw`--[^\n]*`;
  if (/^(html|xml|svg|vue)$/.test(language)) comments = String.raw`<!--[\s\S]*?(?:-->|$)`;
  return new RegExp(`(${comments})|(${TEXTS})|(${NUMBERS})|(${WORDS})`, "g");
}

/** Code as text nodes and coloured spans. */
export function highlight(code, language) {
  const fragment = document.createDocumentFragment();
  if (PLAIN.test(language) || code.length > 50_000) {
    fragment.append(code);
    return fragment;
  }
  let end = 0;
  for (const found of code.matchAll(pattern(language))) {
    const [text, comment, string, number, word] = found;
    const kind = comment ? "c" : string ? "s" : number ? "n" : KEYWORDS.has(word) ? "k" : null;
    if (!kind) continue;
    const span = document.createElement("span");
    span.className = `hl-${kind}`;
    span.textContent = text;
    fragment.append(code.slice(end, found.index), span);
    end = found.index + text.length;
  }
  fragment.append(code.slice(end));
  return fragment;
}
