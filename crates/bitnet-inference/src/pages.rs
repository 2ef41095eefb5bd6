//! The pool of KV pages: who uses which, and which hold a prefix that a later prompt can reuse.

use bitnet_kernels::PAGE_LEN;
use std::collections::HashMap;

/// What a full page holds: its tokens, after everything that came before. `parent` is the serial number of the page
/// before it ([`ROOT`] for the first page). Serial numbers are never used twice, so equal keys mean equal prefixes:
/// nothing rests on a hash being free of collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Prefix {
    parent: u64,
    tokens: [u32; PAGE_LEN],
}

/// Serial number that stands before the first page.
pub(crate) const ROOT: u64 = 0;

#[derive(Clone, Debug, Default)]
struct Page {
    /// Sequences that hold this page.
    users: u32,
    /// Set when the page is full and findable.
    prefix: Option<Prefix>,
    /// Serial number of `prefix`.
    serial: u64,
    /// When it was last taken or released; the oldest unused page is reused first.
    touched: u64,
}

/// How many KV pages are used for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUse {
    /// Held by sequences.
    pub held: usize,
    /// Held by nobody, but with a prefix that a later prompt can reuse.
    pub cached: usize,
    /// Empty.
    pub free: usize,
    /// Neither of these: always 0, or there is a bug.
    pub lost: usize,
}

/// Page numbers `0..pages`, counted references, and full pages findable by their prefix. Pages without users keep their
/// content until the space is needed. Allocates only when made.
#[derive(Debug)]
pub(crate) struct PagePool {
    pages: Vec<Page>,
    free: Vec<u32>,
    cached: HashMap<Prefix, u32>,
    clock: u64,
    serial: u64,
}

impl PagePool {
    pub(crate) fn new(pages: usize) -> Self {
        PagePool {
            pages: vec![Page::default(); pages],
            free: (0..pages as u32).rev().collect(),
            // twice the entries, so that the map never has to grow to get rid of deleted ones
            cached: HashMap::with_capacity(2 * pages),
            clock: 0,
            serial: ROOT,
        }
    }

    /// Pages in all.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Counts the pages by use, each by what the book-keeping says about it.
    pub(crate) fn count(&self) -> PageUse {
        let mut listed = vec![false; self.pages.len()];
        self.free.iter().for_each(|&id| listed[id as usize] = true);
        let mut count = PageUse::default();
        for ((page, id), listed) in self.pages.iter().zip(0u32..).zip(listed) {
            let findable = page.prefix.is_some_and(|prefix| self.cached.get(&prefix) == Some(&id));
            let kind = match (page.users, findable, listed) {
                (1.., findable, false) if findable == page.prefix.is_some() => &mut count.held,
                (0, true, false) => &mut count.cached,
                (0, false, true) if page.prefix.is_none() => &mut count.free,
                _ => &mut count.lost,
            };
            *kind += 1;
        }
        count
    }

    /// Pages that [`take`](Self::take) can give.
    pub(crate) fn available(&self) -> usize {
        self.pages.iter().filter(|page| page.users == 0).count()
    }

    /// Pages that hold nothing.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a page for writing: a free one, or the one unused for longest. `None` when sequences hold them all.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let unused = self.pages.iter().zip(0u32..).filter(|(page, _)| page.users == 0);
                let (_, id) = unused.min_by_key(|(page, _)| page.touched)?;
                if let Some(prefix) = self.page(id).prefix.take() {
                    self.cached.remove(&prefix);
                }
                id
            }
        };
        let touched = self.tick();
        *self.page(id) = Page { users: 1, touched, ..Page::default() };
        Some(id)
    }

    /// One more user of `id`.
    fn share(&mut self, id: u32) {
        let touched = self.tick();
        let page = self.page(id);
        page.users += 1;
        page.touched = touched;
    }

    /// One user less.
    pub(crate) fn release(&mut self, id: u32) {
        let touched = self.tick();
        let page = self.page(id);
        page.users -= 1;
        page.touched = touched;
        if page.users == 0 && page.prefix.is_none() {
            self.free.push(id);
        }
    }

    /// True when nobody else can see what is written to `id`.
    pub(crate) fn is_private(&self, id: u32) -> bool {
        let page = &self.pages[id as usize];
        page.users == 1 && page.prefix.is_none()
    }

    /// Makes a page that one sequence holds private again: nobody finds it any more. False when others hold it too.
    pub(crate) fn withdraw(&mut self, id: u32) -> bool {
        let alone = self.page(id).users == 1;
        if alone && let Some(prefix) = self.page(id).prefix.take() {
            self.cached.remove(&prefix);
        }
        alone
    }

    /// Serial number of a published page.
    pub(crate) fn serial(&self, id: u32) -> u64 {
        self.pages[id as usize].serial
    }

    /// Makes a full page findable. If another page already holds the same prefix, the caller gets that one in exchange.
    pub(crate) fn publish(&mut self, id: u32, parent: u64, tokens: &[u32; PAGE_LEN]) -> u32 {
        let prefix = Prefix { parent, tokens: *tokens };
        if let Some(&known) = self.cached.get(&prefix) {
            if known != id {
                self.share(known);
                self.release(id);
            }
            return known;
        }
        self.serial += 1;
        let serial = self.serial;
        let page = self.page(id);
        page.prefix = Some(prefix);
        page.serial = serial;
        self.cached.insert(prefix, id);
        id
    }

    /// Finds the pages that hold the beginning of `tokens` and appends them, each with one more user, to `out`.
    pub(crate) fn find_prefix(&mut self, tokens: &[u32], out: &mut Vec<u32>) {
        let mut parent = ROOT;
        for chunk in tokens.as_chunks::<PAGE_LEN>().0 {
            let Some(&id) = self.cached.get(&Prefix { parent, tokens: *chunk }) else { break };
            self.share(id);
            out.push(id);
            parent = self.serial(id);
        }
    }

    fn page(&mut self, id: u32) -> &mut Page {
        &mut self.pages[id as usize]
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}
