//! The tokens of one sequence and the pages that hold their keys and values.

use crate::InferenceError;
use crate::pages::{PagePool, ROOT};
use bitnet_kernels::PAGE_LEN;

/// Tokens, of which the first `computed` have their keys and values in `pages`.
#[derive(Debug)]
pub(crate) struct Sequence {
    tokens: Vec<u32>,
    computed: usize,
    /// Page `i` holds positions `i * PAGE_LEN..`; at least as many as `computed` needs.
    pages: Vec<u32>,
}

impl Sequence {
    /// An empty sequence with room for `context` tokens.
    pub(crate) fn new(context: usize) -> Self {
        Sequence {
            tokens: Vec::with_capacity(context),
            computed: 0,
            pages: Vec::with_capacity(context.div_ceil(PAGE_LEN)),
        }
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(crate) fn computed(&self) -> usize {
        self.computed
    }

    pub(crate) fn pages(&self) -> &[u32] {
        &self.pages
    }

    pub(crate) fn push(&mut self, id: u32) {
        self.tokens.push(id);
    }

    /// Takes back the last `count` tokens, which were computed but may not be the ones that come. Their keys and values stay
    /// until [`settle`](Self::settle).
    pub(crate) fn take_back(&mut self, count: usize) -> Vec<u32> {
        self.tokens.split_off(self.tokens.len().saturating_sub(count))
    }

    /// Forgets keys and values of tokens that were taken back and did not come; the last token is yet to be computed.
    pub(crate) fn settle(&mut self, pool: &mut PagePool) {
        self.keep_computed(self.tokens.len().saturating_sub(1), pool);
    }

    /// Forgets the tokens from `len` on.
    pub(crate) fn truncate(&mut self, len: usize, pool: &mut PagePool) {
        self.tokens.truncate(len);
        self.keep_computed(len, pool);
    }

    /// Drops tokens `from..to`. What follows them has new positions, so it is no longer computed.
    pub(crate) fn remove(&mut self, from: usize, to: usize, pool: &mut PagePool) {
        self.tokens.drain(from..to);
        self.keep_computed(from, pool);
    }

    /// Becomes `tokens`, keeping what is already computed here or, if that is more, in pages that other sequences left
    /// in the pool. At least the last token stays to be computed, because its logits are wanted.
    pub(crate) fn replace(&mut self, tokens: &[u32], pool: &mut PagePool) {
        let reusable = tokens.len().saturating_sub(1);
        let same = self.tokens[..self.computed].iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.keep_computed(same.min(reusable), pool);
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);

        let own = self.pages.len();
        pool.find_prefix(tokens, &mut self.pages);
        let found = ((self.pages.len() - own) * PAGE_LEN).min(reusable);
        let drop = if found > self.computed { 0..own } else { own..self.pages.len() };
        for id in self.pages.drain(drop).rev() {
            pool.release(id);
        }
        let computed = found.max(self.computed);
        self.computed = computed;
        self.keep_computed(computed, pool);
    }

    /// Gives up all pages and keeps the tokens.
    pub(crate) fn suspend(&mut self, pool: &mut PagePool) {
        self.keep_computed(0, pool);
    }

    /// Takes up its tokens again, from pages in the pool as far as these go.
    pub(crate) fn restore(&mut self, pool: &mut PagePool) {
        let tokens = std::mem::take(&mut self.tokens);
        debug_assert_eq!(self.computed, 0, "suspended before");
        self.replace(&tokens, pool);
    }

    /// Forgets keys and values from position `len` on. The last page goes first, so that a chain of cached pages is
    /// reused from its end.
    fn keep_computed(&mut self, len: usize, pool: &mut PagePool) {
        self.computed = self.computed.min(len);
        for id in self.pages.drain(self.computed.div_ceil(PAGE_LEN).min(self.pages.len())..).rev() {
            pool.release(id);
        }
    }

    /// Makes positions `computed..end` writable: takes pages, and copies a partly used page that others can see.
    ///
    /// # Errors
    /// [`InferenceError::CacheFull`] when other sequences hold all pages.
    pub(crate) fn reserve(
        &mut self,
        end: usize,
        pool: &mut PagePool,
        mut copy: impl FnMut(u32, u32),
    ) -> Result<(), InferenceError> {
        let full = |pool: &PagePool| InferenceError::CacheFull { pages: pool.len(), positions: pool.len() * PAGE_LEN };
        if !self.computed.is_multiple_of(PAGE_LEN)
            && let Some(partly) = self.pages.get_mut(self.computed / PAGE_LEN)
            && !pool.is_private(*partly)
        {
            if let Some(own) = pool.take() {
                copy(*partly, own);
                pool.release(*partly);
                *partly = own;
            } else if !pool.withdraw(*partly) {
                return Err(full(pool));
            }
        }
        while self.pages.len() * PAGE_LEN < end {
            let id = pool.take().ok_or_else(|| full(pool))?;
            self.pages.push(id);
        }
        Ok(())
    }

    /// Notes that positions up to `end` are computed, and publishes the pages that became full.
    pub(crate) fn advance(&mut self, end: usize, pool: &mut PagePool) {
        let filled = self.computed / PAGE_LEN..end / PAGE_LEN;
        self.computed = end;
        for i in filled {
            let parent = if i == 0 { ROOT } else { pool.serial(self.pages[i - 1]) };
            if let Some(tokens) = self.tokens.as_chunks::<PAGE_LEN>().0.get(i) {
                self.pages[i] = pool.publish(self.pages[i], parent, tokens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Stands for the KV cache: what is stored at a position depends on all tokens up to it.
    struct Memory(Vec<[u64; PAGE_LEN]>);

    fn value(tokens: &[u32]) -> u64 {
        tokens.iter().fold(17, |hash, &t| (hash ^ u64::from(t)).wrapping_mul(0x0100_0000_01b3))
    }

    impl Memory {
        /// Computes what is missing, in chunks; returns how many positions that were.
        fn compute(&mut self, s: &mut Sequence, pool: &mut PagePool, chunk: usize) -> Result<usize, InferenceError> {
            let mut count = 0;
            while s.computed() < s.tokens().len() {
                let end = (s.computed() + chunk).min(s.tokens().len());
                s.reserve(end, pool, |from, to| self.0[to as usize] = self.0[from as usize])?;
                for i in s.computed()..end {
                    self.0[s.pages()[i / PAGE_LEN] as usize][i % PAGE_LEN] = value(&s.tokens()[..=i]);
                    count += 1;
                }
                s.advance(end, pool);
            }
            Ok(count)
        }

        fn check(&self, s: &Sequence) {
            for i in 0..s.computed() {
                let stored = self.0[s.pages()[i / PAGE_LEN] as usize][i % PAGE_LEN];
                assert_eq!(stored, value(&s.tokens()[..=i]), "position {i} of {}", s.computed());
            }
        }
    }

    fn text(len: usize, salt: u32) -> Vec<u32> {
        (0..len as u32).map(|i| i * 7 % 100 + salt).collect()
    }

    #[test]
    fn a_prefix_is_computed_once() {
        let (mut pool, mut memory) = (PagePool::new(8), Memory(vec![[0; PAGE_LEN]; 8]));
        let prompt = text(3 * PAGE_LEN, 0);
        let (mut a, mut b) = (Sequence::new(256), Sequence::new(256));
        a.replace(&prompt, &mut pool);
        assert_eq!(memory.compute(&mut a, &mut pool, 50).expect("fits"), 96);
        // the same prompt: all but the last token, whose page is copied before it is written
        b.replace(&prompt, &mut pool);
        assert_eq!(b.computed(), 95);
        assert_eq!(b.pages(), a.pages());
        assert_eq!(memory.compute(&mut b, &mut pool, 50).expect("fits"), 1);
        memory.check(&a);
        memory.check(&b);
        assert_eq!(b.pages(), a.pages(), "equal pages are found equal when they are full again");
        // a prompt that differs in the last page
        let mut other = prompt.clone();
        other[80] = 999;
        b.replace(&other, &mut pool);
        assert_eq!(b.computed(), 80, "its own past, position for position");
        assert_eq!(memory.compute(&mut b, &mut pool, 50).expect("fits"), 16);
        memory.check(&a);
        memory.check(&b);
        assert_ne!(b.pages()[2], a.pages()[2]);
        // after the end of both, whole pages are still found
        a.truncate(0, &mut pool);
        b.truncate(0, &mut pool);
        a.replace(&[&prompt[..], &[1, 2, 3]].concat(), &mut pool);
        assert_eq!(a.computed(), 96);
    }

    #[test]
    fn a_full_pool_is_an_error_and_unused_pages_are_reused() {
        let (mut pool, mut memory) = (PagePool::new(4), Memory(vec![[0; PAGE_LEN]; 4]));
        let (mut a, mut b) = (Sequence::new(256), Sequence::new(256));
        a.replace(&text(64, 0), &mut pool);
        memory.compute(&mut a, &mut pool, 64).expect("two pages");
        b.replace(&text(96, 500), &mut pool);
        let error = memory.compute(&mut b, &mut pool, 32).expect_err("five pages");
        assert!(matches!(error, InferenceError::CacheFull { pages: 4, positions: 128 }), "{error}");
        memory.check(&b);
        a.truncate(0, &mut pool);
        memory.compute(&mut b, &mut pool, 32).expect("pages of the other sequence");
        memory.check(&b);
        assert_eq!(b.pages().len(), 3);
    }

    #[test]
    fn a_sequence_that_holds_all_pages_can_go_back() {
        let (mut pool, mut memory) = (PagePool::new(2), Memory(vec![[0; PAGE_LEN]; 2]));
        let mut a = Sequence::new(256);
        for salt in [0, 0, 500] {
            let mut prompt = text(2 * PAGE_LEN, 0);
            prompt[2 * PAGE_LEN - 1] += salt;
            a.replace(&prompt, &mut pool);
            memory.compute(&mut a, &mut pool, 64).expect("its own pages suffice");
            memory.check(&a);
            assert_eq!(pool.count().held, 2, "{:?}", pool.count());
        }
        a.truncate(0, &mut pool);
        a.replace(&text(2 * PAGE_LEN, 0), &mut pool);
        assert_eq!(a.computed(), PAGE_LEN, "what was overwritten is not found");
    }

    #[test]
    fn removing_tokens_keeps_only_what_stands_before_them() {
        let (mut pool, mut memory) = (PagePool::new(6), Memory(vec![[0; PAGE_LEN]; 6]));
        let mut a = Sequence::new(256);
        a.replace(&text(100, 0), &mut pool);
        memory.compute(&mut a, &mut pool, 64).expect("fits");
        a.remove(10, 55, &mut pool);
        assert_eq!((a.tokens().len(), a.computed()), (55, 10));
        assert_eq!(a.tokens(), [&text(100, 0)[..10], &text(100, 0)[55..]].concat());
        memory.compute(&mut a, &mut pool, 64).expect("fits");
        memory.check(&a);
    }

    proptest! {
        /// Any mixture of requests, cancellations and ends on three sequences over a small pool: what a sequence reads
        /// is always what it would have computed itself.
        #[test]
        fn every_sequence_reads_its_own_past(
            steps in prop::collection::vec((0usize..3, 0usize..5, 0usize..150, 0u32..3, 1usize..70), 1..60),
        ) {
            let (mut pool, mut memory) = (PagePool::new(9), Memory(vec![[0; PAGE_LEN]; 9]));
            let mut sequences: Vec<Sequence> = (0..3).map(|_| Sequence::new(256)).collect();
            for (which, action, len, salt, chunk) in steps {
                let s = &mut sequences[which];
                match action {
                    0 => s.truncate(len, &mut pool),
                    1 => {
                        let to = s.tokens().len().min(len);
                        s.remove(to / 2, to, &mut pool);
                    }
                    2 => (0..len % 40).for_each(|i| s.push(i as u32 + salt)),
                    _ => {
                        // prompts that share their beginning and differ somewhere
                        let mut tokens = text(len, 0);
                        tokens.iter_mut().skip(len / 2).for_each(|t| *t += salt);
                        s.replace(&tokens, &mut pool);
                    }
                }
                if s.tokens().len() < 250 {
                    let _ = memory.compute(s, &mut pool, chunk); // a full pool is fine
                }
                sequences.iter().for_each(|s| memory.check(s));
            }
            sequences.iter_mut().for_each(|s| s.truncate(0, &mut pool));
            let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
            prop_assert_eq!(all.len(), 9, "no page is lost");
        }
    }
}
