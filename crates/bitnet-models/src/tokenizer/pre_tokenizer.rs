//! Splitting text into words before merging: the regular expressions models were trained with.

use fancy_regex::Regex;

use crate::ModelError;

/// Contractions, letters, numbers, other, white space: GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// Numbers in groups of three, a word takes one leading non-letter: Llama 3.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);
/// As Llama 3 with single digits: Qwen 2.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);

/// Names that `tokenizer.ggml.pre` may have, with the one we write.
const NAMES: [(&str, &str); 10] = [
    ("llama-bpe", "llama-bpe"),
    ("llama3", "llama-bpe"),
    ("llama-v3", "llama-bpe"),
    ("falcon3", "llama-bpe"),
    ("falcon_e", "llama-bpe"),
    ("gpt-2", "gpt-2"),
    ("olmo", "olmo"),
    ("falcon", "falcon"),
    ("qwen2", "qwen2"),
    ("default", "default"),
];

/// How the white space before a word is shared out. Every published expression ends in `\s+(?!\S)|\s+`: of a run of
/// white space before a word the last character is left to the word. The look-ahead costs a backtracking engine, so
/// the expressions here say `\s+` and the last character is given back afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// The expression does not end in white space.
    None,
    /// Any trailing white space is meant.
    Any,
    /// Runs that end in a line break were taken by another alternative and stay whole.
    ExceptLineBreaks,
}

#[derive(Debug)]
struct Stage {
    regex: Regex,
    space: Space,
}

/// A chain of expressions; each splits the pieces of the one before into matches and what lies between.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    name: &'static str,
    stages: Vec<Stage>,
}

impl PreTokenizer {
    /// By the name that GGUF files use.
    pub(super) fn by_name(name: &str) -> Result<Self, ModelError> {
        let known = NAMES.iter().find(|(alias, _)| *alias == name).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(alias, _)| *alias).collect();
            ModelError::Tokenizer(format!(
                "pre-tokenizer `{name}` (tokenizer.ggml.pre) is not supported; supported are {}. \
                 Give the model's tokenizer.json with --tokenizer instead",
                known.join(", ")
            ))
        })?;
        let stages: &[(&str, Space)] = match known.1 {
            "llama-bpe" => &[(LLAMA3, Space::ExceptLineBreaks)],
            "qwen2" => &[(QWEN2, Space::ExceptLineBreaks)],
            "gpt-2" | "olmo" => &[(GPT2, Space::Any)],
            "falcon" => {
                &[(r"[\p{P}\$\+<=>\^~\|`]+", Space::None), (GPT2, Space::Any), (r"[0-9][0-9][0-9]", Space::None)]
            }
            _ => &[
                (r"[\p{P}\$\+<=>\^~\|]+", Space::None),
                (GPT2, Space::Any),
                (r"\p{N}+", Space::None),
                (r"[0-9][0-9][0-9]", Space::None),
            ],
        };
        let stages = stages.iter().map(|&(pattern, space)| {
            let regex = Regex::new(pattern).map_err(|e| ModelError::Tokenizer(format!("pre-tokenizer {name}: {e}")))?;
            Ok(Stage { regex, space })
        });
        Ok(Self { name: known.1, stages: stages.collect::<Result<_, ModelError>>()? })
    }

    /// The name for `tokenizer.ggml.pre`.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The name of the pre-tokenizer with this published regular expression, if it is one of ours.
    pub(super) fn name_of_regex(pattern: &str) -> Option<&'static str> {
        let plain = pattern.replace(r"\s+(?!\S)|\s+", r"\s+");
        [(GPT2, "gpt-2"), (LLAMA3, "llama-bpe"), (QWEN2, "qwen2")].iter().find(|(p, _)| *p == plain).map(|(_, n)| *n)
    }

    /// Calls `word` with every piece of `text`, in order; together they are the text.
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        word: &mut dyn FnMut(&'t str) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        split(&self.stages, text, word)
    }
}

fn split<'t>(
    stages: &[Stage],
    text: &'t str,
    word: &mut dyn FnMut(&'t str) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let Some((stage, rest)) = stages.split_first() else {
        return if text.is_empty() { Ok(()) } else { word(text) };
    };
    let mut at = 0;
    while at < text.len() {
        let found = stage
            .regex
            .find_from_pos(text, at)
            .map_err(|e| ModelError::Tokenizer(format!("the pre-tokenizer failed: {e}")))?;
        let Some(found) = found else { break };
        let end = stage.space.give_back(text, found.start(), found.end());
        split(rest, &text[at..found.start()], word)?;
        split(rest, &text[found.start()..end], word)?;
        at = end;
    }
    split(rest, &text[at..], word)
}

impl Space {
    /// The end of a match `start..end` once its last white space is left to a following word.
    fn give_back(self, text: &str, start: usize, end: usize) -> usize {
        let Some(last) = text[start..end].chars().next_back().filter(|c| c.is_whitespace()) else { return end };
        let whole = match self {
            Self::None => true,
            Self::Any => false,
            Self::ExceptLineBreaks => matches!(last, '\r' | '\n'),
        };
        let shorter = end - last.len_utf8();
        if whole || end == text.len() || shorter == start { end } else { shorter }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = r"|\s+(?!\S)|\s+";

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        PreTokenizer::by_name(name)
            .unwrap()
            .split(text, &mut |w| {
                out.push(w.to_owned());
                Ok(())
            })
            .unwrap();
        out
    }

    /// The published expressions with their look-ahead, run as they stand.
    fn published(pattern: &str, text: &str) -> Vec<String> {
        let regex = Regex::new(&format!("{}{TAIL}", pattern.strip_suffix(r"|\s+").unwrap())).unwrap();
        regex.find_iter(text).map(|m| m.unwrap().as_str().to_owned()).collect()
    }

    #[test]
    fn giving_back_equals_the_look_ahead() {
        let mut texts: Vec<String> =
            ["  a", "\t\tb  \n c \r\n\r\n  d   ", " 'S 'll don't 12345 6\u{a0}\u{a0}x", "", " "]
                .map(String::from)
                .to_vec();
        // Every string of length 6 over the characters that matter.
        let alphabet = [' ', '\n', '\t', 'a', '1', '!', '\u{2003}'];
        for code in 0..7usize.pow(6) {
            texts.push((0..6).map(|i| alphabet[code / 7usize.pow(i) % 7]).collect());
        }
        for (name, pattern) in [("gpt-2", GPT2), ("llama-bpe", LLAMA3), ("qwen2", QWEN2)] {
            let (ours, regex) =
                (PreTokenizer::by_name(name).unwrap(), Regex::new(&pattern.replace(r"|\s+", TAIL)).unwrap());
            assert_eq!(words(name, &texts[1]), published(pattern, &texts[1]));
            for text in &texts {
                let mut got = Vec::new();
                ours.split(text, &mut |w| {
                    got.push(w);
                    Ok(())
                })
                .unwrap();
                let expected: Vec<&str> = regex.find_iter(text).map(|m| m.unwrap().as_str()).collect();
                assert_eq!(got, expected, "{name} {text:?}");
            }
        }
    }

    #[test]
    fn stages_split_the_pieces_of_the_stage_before() {
        assert_eq!(words("falcon", "Hi!? 12345 a"), ["Hi", "!?", " ", "123", "45", " a"]);
        assert_eq!(words("default", "x=  3333"), ["x", "=", " ", " ", "333", "3"]);
        assert_eq!(words("llama-bpe", "x=  3333"), ["x", "=", " ", " ", "333", "3"]);
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let error = PreTokenizer::by_name("deepseek-llm").unwrap_err().to_string();
        assert!(error.contains("deepseek-llm") && error.contains("qwen2"), "{error}");
    }

    #[test]
    fn published_expressions_are_recognised() {
        for (pattern, name) in [(GPT2, "gpt-2"), (LLAMA3, "llama-bpe"), (QWEN2, "qwen2")] {
            assert_eq!(PreTokenizer::name_of_regex(&pattern.replace(r"|\s+", TAIL)), Some(name));
        }
        assert_eq!(PreTokenizer::name_of_regex(r"\w+"), None);
    }
}
