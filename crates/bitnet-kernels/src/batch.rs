//! A batch: token runs of one or more sequences that go through one forward step together.

use std::ops::Range;

/// Positions per KV page. Attention walks pages in order, so this is part of the reduction order.
pub const PAGE_LEN: usize = 32;

/// `len` consecutive tokens of one sequence, starting at position `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Position of the first token of the run in its sequence.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// Row of the first token in the batch (rows of all runs follow each other).
    pub row: usize,
    /// Where the sequence's page ids stand in the batch's page table; they cover positions `0..start + len`.
    pub pages: Range<usize>,
}

/// Token runs for one forward step. Reused between steps: [`clear`](Batch::clear) keeps the memory, so that decoding
/// does not allocate.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    tokens: Vec<u32>,
    runs: Vec<Run>,
    page_table: Vec<u32>,
    logit_rows: Vec<u32>,
}

impl Batch {
    /// Room for `tokens` tokens in `runs` runs whose sequences have `pages` pages in all.
    pub fn with_capacity(tokens: usize, runs: usize, pages: usize) -> Self {
        Batch {
            tokens: Vec::with_capacity(tokens),
            runs: Vec::with_capacity(runs),
            page_table: Vec::with_capacity(pages),
            logit_rows: Vec::with_capacity(tokens),
        }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.runs.clear();
        self.page_table.clear();
        self.logit_rows.clear();
    }

    /// Adds a run. `pages` are the KV pages of the sequence in order, covering at least `start + tokens.len()`
    /// positions. Logits are computed for the run's last `logits` tokens.
    ///
    /// # Panics
    /// If the pages do not cover the run or `logits` exceeds the run: both are errors of the caller's book-keeping.
    pub fn push(&mut self, start: usize, tokens: &[u32], pages: &[u32], logits: usize) {
        assert!(pages.len() * PAGE_LEN >= start + tokens.len(), "KV pages do not cover the run");
        assert!(logits <= tokens.len(), "more logit rows than tokens");
        let row = self.tokens.len();
        let first_page = self.page_table.len();
        self.tokens.extend_from_slice(tokens);
        self.page_table.extend_from_slice(pages);
        self.logit_rows.extend((row + tokens.len() - logits..row + tokens.len()).map(|r| r as u32));
        self.runs.push(Run { start, len: tokens.len(), row, pages: first_page..self.page_table.len() });
    }

    /// All tokens, run after run: row `r` of every activation belongs to `tokens()[r]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The runs in row order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// KV page ids of `run`, in position order.
    pub fn pages(&self, run: &Run) -> &[u32] {
        &self.page_table[run.pages.clone()]
    }

    /// Position in its sequence and KV page of every token, in row order.
    pub fn places(&self) -> impl Iterator<Item = (usize, u32)> + Clone {
        self.runs.iter().flat_map(|run| {
            let pages = self.pages(run);
            (run.start..run.start + run.len).map(|position| (position, pages[position / PAGE_LEN]))
        })
    }

    /// Rows whose logits are wanted, ascending.
    pub fn logit_rows(&self) -> &[u32] {
        &self.logit_rows
    }

    /// True when there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
