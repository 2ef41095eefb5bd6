//! Byte-pair merging: the one algorithm behind GPT-2-like, tiktoken and SentencePiece BPE tokenizers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A run of bytes that is still one symbol. Absorbed symbols have length 0.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// Memory of the merging, reused from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// Best pair first: lowest priority, then leftmost. `(priority, left symbol, right symbol, length of both)`.
    queue: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

impl Merger {
    /// Starts from the characters of `text` and joins neighbours, the pair with the lowest `priority` first (leftmost
    /// on ties), until no pair has one. `priority` gets the two symbols as one slice and the length of the left one.
    /// `text` must be shorter than 4 GiB. Returns the remaining symbols in order.
    pub(super) fn merge<'t>(
        &mut self,
        text: &'t str,
        priority: impl Fn(&[u8], usize) -> Option<u32>,
    ) -> impl Iterator<Item = &'t str> {
        self.symbols.clear();
        self.queue.clear();
        for (i, (start, c)) in text.char_indices().enumerate() {
            let i = i as u32;
            let prev = if i == 0 { NONE } else { i - 1 };
            self.symbols.push(Symbol { start: start as u32, len: c.len_utf8() as u32, prev, next: i + 1 });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for right in 1..self.symbols.len() as u32 {
            self.consider(text, right - 1, right, &priority);
        }
        while let Some(Reverse((_, left, right, len))) = self.queue.pop() {
            let (a, b) = (self.symbols[left as usize], self.symbols[right as usize]);
            // Stale when either side has changed since.
            if a.len == 0 || b.len == 0 || a.next != right || a.len + b.len != len {
                continue;
            }
            self.symbols[left as usize].len = len;
            self.symbols[left as usize].next = b.next;
            self.symbols[right as usize].len = 0;
            if b.next != NONE {
                self.symbols[b.next as usize].prev = left;
                self.consider(text, left, b.next, &priority);
            }
            if a.prev != NONE {
                self.consider(text, a.prev, left, &priority);
            }
        }
        self.symbols.iter().filter(|s| s.len > 0).map(|s| &text[s.start as usize..(s.start + s.len) as usize])
    }

    fn consider(&mut self, text: &str, left: u32, right: u32, priority: &impl Fn(&[u8], usize) -> Option<u32>) {
        let (a, b) = (self.symbols[left as usize], self.symbols[right as usize]);
        let both = &text.as_bytes()[a.start as usize..(b.start + b.len) as usize];
        if let Some(priority) = priority(both, a.len as usize) {
            self.queue.push(Reverse((priority, left, right, a.len + b.len)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(text: &str, merges: &[(&str, &str)]) -> Vec<String> {
        let priority = |both: &[u8], mid: usize| {
            merges
                .iter()
                .position(|(l, r)| l.as_bytes() == &both[..mid] && r.as_bytes() == &both[mid..])
                .map(|i| i as u32)
        };
        Merger::default().merge(text, priority).map(String::from).collect()
    }

    #[test]
    fn joins_by_rank_then_from_the_left() {
        assert_eq!(merged("aaa", &[("a", "a")]), ["aa", "a"]);
        assert_eq!(merged("aaaaa", &[("a", "a"), ("aa", "aa")]), ["aaaa", "a"]);
        // (b,c) has the lower rank and must win although (a,b) stands further left.
        assert_eq!(merged("abc", &[("b", "c"), ("a", "b")]), ["a", "bc"]);
        assert_eq!(merged("lower", &[("l", "o"), ("lo", "w"), ("e", "r")]), ["low", "er"]);
        assert_eq!(merged("", &[("a", "b")]), Vec::<String>::new());
        assert_eq!(merged("hé▁", &[("h", "é"), ("hé", "▁")]), ["hé▁"]);
    }
}
