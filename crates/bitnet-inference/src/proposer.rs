//! Guesses of the tokens that come next in a sequence, so that one step checks several: from its own past (`lookup.rs`), or by a
//! smaller model (`draft.rs`). A right guess saves a step, a wrong one costs a row of it; the tokens are the same either way,
//! because each is chosen from the logits that it would have been chosen from, up to the first that was guessed wrong.

use crate::Engine;
use crate::lookup::continuation;
use crate::sequence::Sequence;
use bitnet_kernels::PAGE_LEN;

/// Tokens of one guess.
pub(crate) const MOST: usize = 8;
/// A row more in a step of one row costs about a fifth of it; with something on top for what the guess itself takes.
const ROW: f32 = 0.25;
/// Weight of the last guess in how often they are right.
const RECENT: f32 = 0.2;
/// After so many tokens without a guess that costs something, one is made to see whether it would pay by now.
const REST: usize = 64;
/// Tokens of that: the first takes longer than those after it, because more is to be read for it.
const TRY: usize = 2;

/// How well guessing goes in one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// How often the first token of a guess was right of late.
    right: f32,
    /// That token of the last guess, made in earnest or not.
    first: Option<u32>,
    /// Tokens since then.
    rested: usize,
}

impl Trust {
    fn new(right: f32) -> Self {
        Trust { right, first: None, rested: 0 }
    }

    /// How many tokens of a guess pay, if each is as often right as the first and takes `cost` of the time that it saves when
    /// it is right.
    fn pays(&self, cost: f32) -> usize {
        (0..MOST)
            .scan(1.0, |right, _| {
                *right *= self.right;
                Some(*right)
            })
            .take_while(|&right| right >= cost)
            .count()
    }

    /// The same where even a guess that is not made in earnest takes time: none is made then, but for one now and then.
    pub(crate) fn pays_or_tries(&mut self, cost: f32) -> usize {
        match self.pays(cost) {
            0 if self.rested < REST => {
                self.rested += 1;
                0
            }
            0 => TRY,
            pays => pays,
        }
    }

    /// What a guess begins with.
    pub(crate) fn guessed(&mut self, first: Option<u32>) {
        self.first = first;
        self.rested = 0;
    }

    /// What really came first.
    fn came(&mut self, id: u32) {
        if let Some(first) = self.first.take() {
            let right = if first == id { 1.0 } else { 0.0 };
            self.right += RECENT * (right - self.right);
        }
    }
}

/// The guesses of one sequence.
#[derive(Debug)]
pub(crate) struct Proposer {
    looked_up: Trust,
    pub(crate) drafted: Trust,
    /// The sequence as the draft model has read it, in pages of that model.
    pub(crate) draft: Sequence,
    /// The last guess.
    pub(crate) guess: Vec<u32>,
    /// The draft model made it.
    pub(crate) by_draft: bool,
}

impl Proposer {
    pub(crate) fn new() -> Self {
        Proposer {
            looked_up: Trust::new(0.5),
            drafted: Trust::new(0.7), // as a draft is chosen to be
            draft: Sequence::new(0),
            guess: Vec::with_capacity(MOST),
            by_draft: false,
        }
    }

    /// Notes the token that came at the place `nth` of the guess; true when it is the one that was guessed.
    pub(crate) fn came(&mut self, nth: usize, id: u32) -> bool {
        self.looked_up.came(id);
        self.drafted.came(id);
        self.guess.get(nth) == Some(&id)
    }

    /// Guesses from the past, as far as that pays.
    fn look_up(&mut self, tokens: &[u32], room: usize, cost: f32) {
        let found = continuation(tokens, MOST);
        self.looked_up.guessed(found.first().copied());
        self.guess.extend_from_slice(&found[..found.len().min(room).min(self.looked_up.pays(cost))]);
    }

    /// Gives up the draft model's pages.
    pub(crate) fn suspend(&mut self, engine: &Engine) {
        if let Some(draft) = engine.draft() {
            draft.with_pool(|pool| self.draft.suspend(pool));
        }
    }
}

/// A sequence that decodes, and waits for a guess.
pub(crate) struct Asking<'s> {
    pub(crate) proposer: &'s mut Proposer,
    pub(crate) tokens: &'s [u32],
    /// No more tokens than this.
    pub(crate) room: usize,
    /// Tokens that the answer may still have.
    pub(crate) left: usize,
}

impl<'s> Asking<'s> {
    /// Asks how `sequence` goes on in an answer that may have `left` more tokens, with `context` positions in all.
    pub(crate) fn new(proposer: &'s mut Proposer, sequence: &'s Sequence, context: usize, left: usize) -> Self {
        proposer.guess.clear();
        proposer.by_draft = false;
        let tokens = sequence.tokens();
        // inside of the page that is there, and not to its end: full pages are for all to see
        let room = (sequence.pages().len() * PAGE_LEN).min(context).saturating_sub(tokens.len() + 1);
        Asking { proposer, tokens, room: room.min(left.saturating_sub(1)), left }
    }
}

impl Engine {
    /// Guesses how sequences go on that the next step computes together: at most `free` tokens in all.
    pub(crate) fn guess(&self, asking: &mut [Asking<'_>], mut free: usize) {
        let cost = row_cost(asking.len());
        for Asking { proposer, tokens, room, .. } in asking.iter_mut() {
            if free > 0 {
                proposer.look_up(tokens, free.min(*room), cost);
                free -= proposer.guess.len();
            }
        }
        if let Some(draft) = self.drafting()
            && free > 0
        {
            draft.guess(asking, free, cost);
        }
    }
}

/// What one row more takes in a step of so many, as a part of what a token takes there: the more rows share the weights, the
/// less a token saves.
fn row_cost(rows: usize) -> f32 {
    let rows = rows as f32;
    ROW * rows / (1.0 + ROW * (rows - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [u32; 7] = [1, 2, 3, 4, 1, 2, 3];

    fn look_up(proposer: &mut Proposer, room: usize) -> &[u32] {
        proposer.guess.clear();
        proposer.look_up(&TEXT, room, row_cost(1));
        &proposer.guess
    }

    #[test]
    fn looking_up_stops_when_it_does_not_pay_and_comes_back() {
        let mut proposer = Proposer::new();
        assert_eq!(look_up(&mut proposer, 1), [4]);
        assert_eq!(look_up(&mut proposer, 9), [4, 1], "half of them right: two pay");
        for _ in 0..4 {
            proposer.came(0, 0);
            look_up(&mut proposer, 2);
        }
        assert!(look_up(&mut proposer, 2).is_empty());
        for _ in 0..4 {
            proposer.came(0, 4); // guesses are still compared with what comes
            look_up(&mut proposer, 2);
        }
        // 0.5 · 0.8^4 = 0.205 became 1 - 0.795 · 0.8^4 = 0.674, whose third power is above 0.25 and whose fourth is not
        assert_eq!(look_up(&mut proposer, 9), [4, 1, 2]);
        for _ in 0..20 {
            proposer.came(0, 4);
            look_up(&mut proposer, 9);
        }
        assert_eq!(look_up(&mut proposer, 9), [4, 1, 2, 3]);
        assert!(proposer.came(0, 4) && proposer.came(1, 1) && !proposer.came(2, 9) && !proposer.came(4, 1));
    }

    #[test]
    fn a_guess_that_costs_is_tried_now_and_then() {
        let mut trust = Trust::new(0.5);
        assert_eq!([trust.pays_or_tries(0.25), trust.pays_or_tries(0.5)], [2, 1]);
        let tries = (0..3 * (REST + 1)).filter(|_| {
            let tokens = trust.pays_or_tries(0.6);
            if tokens > 0 {
                trust.guessed(Some(1));
                trust.came(0);
            }
            tokens > 0
        });
        assert_eq!(tries.count(), 3, "one after every {REST} tokens");
        assert_eq!(trust.pays(0.25), 1, "0.5 · 0.8³ = 0.256");
    }

    #[test]
    fn a_row_is_worth_less_where_many_share_a_step() {
        // 1, 4, 8 rows take 1, 1.75 and 2.75 of the time of one: a row more is 1/4 of that, a token 1/1, 1.75/4 and 2.75/8
        assert_eq!([1, 4, 8].map(row_cost), [0.25, 1.0 / 1.75, 2.0 / 2.75]);
    }
}
