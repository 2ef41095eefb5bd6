//! How likely a model finds a continuation, and how many questions it answers rightly by that.

use crate::choices::Question;
use crate::evaluation::Evaluation;
use crate::perplexity::nll;
use crate::{Engine, InferenceError};
use bitnet_models::Encoding;
use serde::Serialize;
use std::collections::BTreeMap;

/// How likely a model finds a continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Sum of `ln p` over its tokens.
    pub log_probability: f64,
    /// Its tokens.
    pub tokens: usize,
    /// Whether each of them was the model's first choice.
    pub greedy: bool,
    /// Whether the context's beginning was left away, because the whole did not fit.
    pub cut: bool,
}

/// Scores continuations, with working memory for the engine's whole context.
pub struct Scorer<'e> {
    engine: &'e Engine,
    evaluation: Evaluation<'e>,
}

impl<'e> Scorer<'e> {
    /// For continuations of an engine's model.
    ///
    /// # Errors
    /// A model without a tokenizer or without an output head; not enough memory.
    pub fn new(engine: &'e Engine) -> Result<Self, InferenceError> {
        engine.require_tokenizer()?;
        Ok(Scorer { engine, evaluation: Evaluation::new(engine, engine.context())? })
    }

    /// The score of `continuation` after `context`. Both are encoded together, with the begin-of-sequence token that the model was
    /// trained with; scored is what differs from the encoding of the context alone, except a first token that nothing
    /// stands before.
    ///
    /// # Errors
    /// A continuation without tokens or longer than the context length; logits that are no numbers.
    pub fn score(&mut self, context: &str, continuation: &str) -> Result<Score, InferenceError> {
        let how = Encoding { bos: None, special: false };
        let given = self.engine.encode(context.trim_end(), how)?;
        let whole = self.engine.encode(&format!("{context}{continuation}"), how)?;
        let shared = given.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        let first = shared.max(1);
        let refuse = |reason: String| InferenceError::Option { option: "continuation", reason };
        if first >= whole.len() {
            return Err(refuse(format!("{continuation:?} has no token to score")));
        }
        // the last token is predicted, not read
        let room = self.engine.context();
        let start = (whole.len() - 1).saturating_sub(room);
        if first - 1 < start {
            return Err(refuse(format!("has {} tokens, the model's context only {room}", whole.len() - first)));
        }
        let mut score = Score { log_probability: 0.0, tokens: whole.len() - first, greedy: true, cut: start > 0 };
        self.evaluation.run(&whole[start..whole.len() - 1], first - 1 - start, &mut |position, logits| {
            let target = whole[start + position + 1];
            score.log_probability -= nll(logits, target);
            let wanted = logits[target as usize];
            score.greedy &= logits.iter().position(|&x| x >= wanted) == Some(target as usize)
                && logits.iter().all(|&x| x <= wanted);
        })?;
        if !score.log_probability.is_finite() {
            return Err(InferenceError::Degenerate(format!("NaN or infinite logits after {context:?}")));
        }
        Ok(score)
    }

    /// Answers a question and adds the result to a tally.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    pub fn answer(&mut self, question: &Question, tally: &mut Tally) -> Result<(), InferenceError> {
        let scores = question.alternatives.iter().map(|a| self.score(&a.context, &a.continuation));
        let scores = scores.collect::<Result<Vec<_>, _>>()?;
        let lengths = question.alternatives.iter().map(|a| a.continuation.trim().chars().count());
        tally.add(question, &scores, &lengths.collect::<Vec<_>>());
        Ok(())
    }
}

/// A share of right answers, with the interval that holds the true share in 19 of 20 cases (Wilson 1927).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Right answers among all.
    pub accuracy: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Accuracy {
    fn of(right: usize, items: usize) -> Accuracy {
        const Z: f64 = 1.959_963_984_540_054;
        let (n, p) = (items as f64, right as f64 / items as f64);
        let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        Accuracy { accuracy: p, low: (middle - half).max(0.0), high: (middle + half).min(1.0) }
    }
}

/// Answers to the questions of a set.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    items: usize,
    right: usize,
    right_by_length: usize,
    cut: usize,
    words: usize,
    word_log_probability: f64,
    parts: BTreeMap<String, (usize, usize)>,
}

/// What a tally says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Questions answered.
    pub items: usize,
    /// By the likelihood of the whole continuation.
    pub raw: Accuracy,
    /// By the likelihood per character of it; none for words to be guessed.
    pub by_length: Option<Accuracy>,
    /// Perplexity of words to be guessed, each word one unit.
    pub word_perplexity: Option<f64>,
    /// Questions whose context was too long and lost its beginning.
    pub cut: usize,
    /// Share of right answers (raw) in every part of the set.
    pub parts: BTreeMap<String, f64>,
}

impl Tally {
    fn add(&mut self, question: &Question, scores: &[Score], lengths: &[usize]) {
        let best = |value: &dyn Fn(usize) -> f64| {
            (0..scores.len()).fold(0, |best, i| if value(i) > value(best) { i } else { best }) // the first of equals
        };
        let guessed = scores.len() == 1;
        let right = match guessed {
            true => scores[0].greedy,
            false => best(&|i| scores[i].log_probability) == question.gold,
        };
        let by_length = best(&|i| scores[i].log_probability / lengths[i].max(1) as f64) == question.gold;
        self.items += 1;
        self.right += usize::from(right);
        self.right_by_length += usize::from(by_length);
        self.cut += usize::from(scores.iter().any(|score| score.cut));
        if guessed {
            self.words += 1;
            self.word_log_probability += scores[0].log_probability;
        }
        if let Some(part) = &question.part {
            let (right_in_part, items) = self.parts.entry(part.clone()).or_default();
            *right_in_part += usize::from(right);
            *items += 1;
        }
    }

    /// The result so far; none before the first answer.
    pub fn report(&self) -> Option<Report> {
        let Tally { items, right, right_by_length, cut, words, word_log_probability, ref parts } = *self;
        let share = |(part, (right, items)): (&String, &(usize, usize))| (part.clone(), *right as f64 / *items as f64);
        (items > 0).then(|| Report {
            items,
            raw: Accuracy::of(right, items),
            by_length: (words < items).then(|| Accuracy::of(right_by_length, items)),
            word_perplexity: (words > 0).then(|| libm::exp(-word_log_probability / words as f64)),
            cut,
            parts: parts.iter().map(share).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Alternative;

    fn score(log_probability: f64, greedy: bool) -> Score {
        Score { log_probability, tokens: 1, greedy, cut: false }
    }

    fn question(choices: usize, gold: usize) -> Question {
        let alternative = Alternative { context: String::new(), continuation: "x".into() };
        Question { alternatives: vec![alternative; choices], gold, part: Some("p".into()) }
    }

    #[test]
    fn intervals() {
        // Newcombe 1998, table I: 81 of 263 have 0.2553 to 0.3662, 0 of 20 0 to 0.1611
        let Accuracy { accuracy, low, high } = Accuracy::of(81, 263);
        assert!((accuracy - 0.307985).abs() < 1e-6 && (low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5);
        let Accuracy { low, high, .. } = Accuracy::of(0, 20);
        assert!(low == 0.0 && (high - 0.1611).abs() < 5e-5);
    }

    #[test]
    fn the_whole_and_per_character() {
        let mut tally = Tally::default();
        assert_eq!(tally.report(), None);
        // the second is likelier as a whole, the first per character; equals go to the first
        tally.add(&question(2, 0), &[score(-6.0, false), score(-4.0, true)], &[3, 1]);
        tally.add(&question(2, 0), &[score(-2.0, false), score(-2.0, false)], &[1, 1]);
        tally.add(&question(2, 1), &[score(-2.0, false), score(-1.0, false)], &[9, 1]);
        let report = tally.report().unwrap();
        assert_eq!((report.items, report.raw.accuracy), (3, 2.0 / 3.0));
        assert_eq!(report.by_length.unwrap().accuracy, 2.0 / 3.0);
        assert_eq!((report.word_perplexity, report.parts["p"]), (None, 2.0 / 3.0));
    }

    #[test]
    fn words() {
        let mut tally = Tally::default();
        tally.add(&question(1, 0), &[score(-1.0, true)], &[4]);
        tally.add(&question(1, 0), &[score(-3.0, false)], &[4]);
        let report = tally.report().unwrap();
        assert_eq!((report.raw.accuracy, report.by_length), (0.5, None));
        assert!((report.word_perplexity.unwrap() - 2f64.exp()).abs() < 1e-12);
    }
}
