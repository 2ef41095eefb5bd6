//! Guesses of the next tokens from the text itself: what followed the last words when they stood there before. A right
//! guess saves a step, a wrong one costs a row of it; the tokens are the same either way.

/// So many tokens at least must have stood there before.
const SHORTEST: usize = 3;
/// No longer match is looked for.
const LONGEST: usize = 8;
/// Tokens of one guess.
const MOST: usize = 8;
/// A row more in a step costs about a fifth of it: tokens that are more often right than that pay.
const PAYS: f32 = 0.25;
/// Weight of the last guess in how often they are right.
const RECENT: f32 = 0.2;

/// How well guessing goes in one request.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    /// How often the first token of a guess was right of late.
    right: f32,
    /// That token of the last guess, made in earnest or not.
    first: Option<u32>,
}

impl Lookup {
    pub(crate) fn new() -> Self {
        Lookup { right: 0.5, first: None }
    }

    /// A guess of at most `room` tokens after `tokens`; empty when none is made in earnest.
    pub(crate) fn guess<'t>(&mut self, tokens: &'t [u32], room: usize) -> &'t [u32] {
        let guess = continuation(tokens);
        self.first = guess.first().copied();
        &guess[..guess.len().min(room).min(self.pays())]
    }

    /// How many tokens of a guess pay, if each is as often right as the first.
    fn pays(&self) -> usize {
        (0..MOST)
            .scan(1.0, |right, _| {
                *right *= self.right;
                Some(*right)
            })
            .take_while(|&right| right >= PAYS)
            .count()
    }

    /// What really came first.
    pub(crate) fn came(&mut self, id: u32) {
        if let Some(first) = self.first.take() {
            let right = if first == id { 1.0 } else { 0.0 };
            self.right += RECENT * (right - self.right);
        }
    }
}

/// What followed the longest repeated end of `tokens`, where it stood last.
fn continuation(tokens: &[u32]) -> &[u32] {
    let mut best = (SHORTEST - 1, 0);
    for end in (1..tokens.len()).rev() {
        let same =
            tokens[..end].iter().rev().zip(tokens.iter().rev()).take(LONGEST).take_while(|(a, b)| a == b).count();
        if same > best.0 {
            best = (same, end);
            if same == LONGEST {
                break;
            }
        }
    }
    match best.1 {
        0 => &[],
        end => &tokens[end..tokens.len().min(end + MOST)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_repeated_end_goes_on_as_before() {
        assert_eq!(continuation(&[1, 2, 3, 4, 5, 1, 2, 3]), [4, 5, 1, 2, 3]);
        assert_eq!(continuation(&[1, 2, 3, 4]), [0u32; 0]);
        assert_eq!(continuation(&[7, 2, 3, 4, 1, 2, 3]), [0u32; 0], "two tokens are too few");
        // the longer match wins over the later one, the later over the earlier
        assert_eq!(continuation(&[9, 1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 1, 2, 3])[..1], [4]);
        assert_eq!(continuation(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3])[..1], [5]);
        assert_eq!(continuation(&[6; 5]), [6]);
        assert_eq!(continuation(&[]), [0u32; 0]);
    }

    #[test]
    fn guessing_stops_when_it_does_not_pay_and_comes_back() {
        let text = [1, 2, 3, 4, 1, 2, 3];
        let mut lookup = Lookup::new();
        assert_eq!(lookup.guess(&text, 1), [4]);
        assert_eq!(lookup.guess(&text, 9), [4, 1], "half of them right: two pay");
        for _ in 0..4 {
            lookup.came(0);
            lookup.guess(&text, 2);
        }
        assert!(lookup.guess(&text, 2).is_empty());
        for _ in 0..4 {
            lookup.came(4); // guesses are still compared with what comes
            lookup.guess(&text, 2);
        }
        // 0.5 · 0.8^4 = 0.205 became 1 - 0.795 · 0.8^4 = 0.674, whose third power is above 0.25 and whose fourth is not
        assert_eq!(lookup.guess(&text, 9), [4, 1, 2]);
        for _ in 0..20 {
            lookup.came(4);
            lookup.guess(&text, 9);
        }
        assert_eq!(lookup.guess(&text, 9), [4, 1, 2, 3]);
    }
}
