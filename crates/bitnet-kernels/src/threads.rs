//! A pool of worker threads for fork-join loops of microseconds.
//!
//! A verb of a decode step takes 5 to 500 µs, so a call must cost little: nothing is allocated, and workers look out for the
//! next call for a moment before they sleep. The caller works too, and parts are claimed one by one, so a worker
//! that the operating system has put aside delays nobody as long as it has not claimed a part.
//!
//! What a part computes never depends on which thread runs it or on how many threads there are.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::Rows;
use crate::portions::Portions;

/// Looks at what a thread waits for before it sleeps: first in a row, which takes some 3 µs, then offering the processor to others
/// in between, which takes some hundred µs when nobody wants it. Waking a sleeper costs some 50 µs, and the pauses between the
/// calls of a small model are about as long: with 1000 looks in a row and no offers, two threads were slower than one.
const LOOKS: u32 = 100;
const OFFERS: u32 = 2000;
/// Columns of f32 results in two cache lines: threads never write to the same pair of lines.
pub(crate) const COLUMN_STEP: usize = 32;
/// Output matrices that one pass over the pool serves; more are done in several passes.
const MATRICES: usize = 4;

/// How many rows of `len` floats go to a thread at a time in verbs that read each value once or twice: fewer would
/// cost more than they save.
pub(crate) fn grain(len: usize) -> usize {
    (8 * 1024 / len.max(1)).max(1)
}

/// What `look` finds before it is time to sleep.
fn watch<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..LOOKS {
        if let found @ Some(_) = look() {
            return found;
        }
        std::hint::spin_loop();
    }
    for _ in 0..OFFERS {
        if let found @ Some(_) = look() {
            return found;
        }
        std::thread::yield_now();
    }
    None
}

thread_local! {
    /// True inside a part: a nested call runs on the spot.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The call in progress.
#[derive(Clone, Copy)]
struct Job {
    body: *const (dyn Fn(usize) + Sync),
    parts: usize,
}

struct Shared {
    /// Epoch in the upper half, [`OPEN`], number of workers that joined this epoch in the lower bits.
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    next_part: AtomicUsize,
    /// Workers that joined and have left again.
    left: AtomicUsize,
    stop: AtomicBool,
    sleeping: AtomicUsize,
    caller_sleeps: AtomicBool,
    lock: Mutex<()>,
    wake_workers: Condvar,
    wake_caller: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Set while workers may join.
const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

// SAFETY: `job` is written only by the caller that holds `Pool::turn`, before it opens the epoch (release) and after
// all joined workers have left; workers read it only after joining an open epoch (acquire).
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is only dereferenced while the caller keeps the closure alive (see `Pool::run`).
unsafe impl Send for Shared {}

impl Shared {
    fn work(&self, job: Job) {
        let was_inside = INSIDE.replace(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let part = self.next_part.fetch_add(1, Ordering::Relaxed);
                if part >= job.parts {
                    return;
                }
                // SAFETY: `run` returns only after every thread that joined its epoch has left this function, so the
                // closure that it borrows is alive.
                unsafe { (*job.body)(part) };
            }
        }));
        INSIDE.set(was_inside);
        if let Err(payload) = result {
            self.next_part.store(job.parts, Ordering::Relaxed); // the rest is pointless
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self) {
        let mut seen = 0;
        loop {
            let state = self.wait_for_work(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            seen = state >> 32;
            // SAFETY: joined an open epoch, see `impl Sync`.
            if let Some(job) = unsafe { *self.job.get() } {
                self.work(job);
            }
            self.left.fetch_add(1, Ordering::SeqCst);
            if self.caller_sleeps.load(Ordering::SeqCst) {
                let _guard = self.lock();
                self.wake_caller.notify_all();
            }
        }
    }

    /// Returns an open state of an epoch other than `seen`, or any state when the pool ends.
    fn wait_for_work(&self, seen: u64) -> u64 {
        let ready = |state: u64| (state & OPEN != 0 && state >> 32 != seen) || self.stop.load(Ordering::Acquire);
        if let Some(state) = watch(|| Some(self.state.load(Ordering::Acquire)).filter(|&state| ready(state))) {
            return state;
        }
        let mut guard = self.lock();
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let state = loop {
            let state = self.state.load(Ordering::SeqCst);
            if ready(state) {
                break state;
            }
            guard = self.wake_workers.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        state
    }
}

/// An array and the length of its rows.
type ByRows<'a, T> = (&'a mut [T], usize);

/// A fork-join pool. Dropping it ends the workers.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next_part: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake_workers: Condvar::new(),
            wake_caller: Condvar::new(),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new().name(format!("bitnet-{index}")).spawn(move || shared.worker())?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that work on a call, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(0)`, …, `body(parts - 1)`, each once, in any order and on any thread; returns when all are done.
    /// A panic in a part is passed on.
    pub(crate) fn run(&self, parts: usize, body: impl Fn(usize) + Sync) {
        if parts <= 1 || self.workers.is_empty() || INSIDE.get() {
            for part in 0..parts {
                body(part);
            }
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let body: &(dyn Fn(usize) + Sync) = &body;
        // SAFETY: only forgets the lifetime; no thread uses the pointer after this function returns (see below).
        let body = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(body) };
        let job = Job { body, parts };
        // SAFETY: the previous epoch is closed and its workers have left; nobody else holds `turn`.
        unsafe { *shared.job.get() = Some(job) };
        shared.next_part.store(0, Ordering::Relaxed);
        shared.left.store(0, Ordering::Relaxed);
        let epoch = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) as u32;
        shared.state.store(u64::from(epoch) << 32 | OPEN, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) > 0 {
            let _guard = shared.lock();
            shared.wake_workers.notify_all();
        }
        shared.work(job); // never unwinds
        // All parts are claimed: let nobody join any more, and wait for those who did.
        let joined = (shared.state.fetch_and(!OPEN, Ordering::AcqRel) & JOINED) as usize;
        let all_left = || shared.left.load(Ordering::SeqCst) == joined;
        if watch(|| all_left().then_some(())).is_none() {
            let mut guard = shared.lock();
            shared.caller_sleeps.store(true, Ordering::SeqCst);
            while !all_left() {
                guard = shared.wake_caller.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            shared.caller_sleeps.store(false, Ordering::SeqCst);
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panic {
            drop(_turn);
            resume_unwind(payload);
        }
    }

    /// Cuts `data` into chunks of `len` (the last may be shorter) and calls `body(index, chunk)` for each; `grain`
    /// chunks at a time go to a thread.
    pub(crate) fn chunks<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        grain: usize,
        body: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let chunks = data.len().div_ceil(len.max(1));
        let grain = grain.max(1);
        let data = Disjoint::new(data);
        self.run(chunks.div_ceil(grain), |part| {
            for chunk in part * grain..((part + 1) * grain).min(chunks) {
                // SAFETY: each chunk belongs to one part, and the chunks do not overlap.
                body(chunk, unsafe { data.slice(chunk * len..((chunk + 1) * len).min(data.len)) });
            }
        });
    }

    /// Calls `body(index, a_row, b_row, c_row, d_row)` for `rows` rows of four arrays; `grain` rows at a time go to a thread.
    pub(crate) fn zip_rows<A: Send, B: Send, C: Send, D: Send>(
        &self,
        rows: usize,
        grain: usize,
        arrays: (ByRows<'_, A>, ByRows<'_, B>, ByRows<'_, C>, ByRows<'_, D>),
        body: impl Fn(usize, &mut [A], &mut [B], &mut [C], &mut [D]) + Sync,
    ) {
        let ((a, a_len), (b, b_len), (c, c_len), (d, d_len)) = arrays;
        let (a, b, c, d) = (Disjoint::new(a), Disjoint::new(b), Disjoint::new(c), Disjoint::new(d));
        let grain = grain.max(1);
        self.run(rows.div_ceil(grain), |part| {
            for row in part * grain..((part + 1) * grain).min(rows) {
                // SAFETY: each row belongs to one part, and the rows of an array do not overlap.
                let (a, b, c, d) = unsafe {
                    (
                        a.slice(row * a_len..(row + 1) * a_len),
                        b.slice(row * b_len..(row + 1) * b_len),
                        c.slice(row * c_len..(row + 1) * c_len),
                        d.slice(row * d_len..(row + 1) * d_len),
                    )
                };
                body(row, a, b, c, d);
            }
        });
    }

    /// Cuts `data` into chunks of `len` bytes and deals them out: `body(part, dealt, own)` gets every `parts`-th, from number `part` on, and
    /// as its own the `part`-th row of `scratch`, of `scratch.1` values.
    pub(crate) fn deal<T: Send>(
        &self,
        data: &mut [u8],
        len: usize,
        parts: usize,
        scratch: (&mut [T], usize),
        body: impl Fn(usize, Dealt<'_>, &mut [T]) + Sync,
    ) {
        let (scratch, row) = scratch;
        let (data, scratch) = (Disjoint::new(data), Disjoint::new(scratch));
        self.run(parts, |part| {
            // SAFETY: each row belongs to one part, and the rows do not overlap.
            let own = unsafe { scratch.slice(part * row..(part + 1) * row) };
            body(part, Dealt { data: &data, len, part, parts }, own);
        });
    }

    /// Splits the columns of all `outs` among the threads: every column range of every matrix goes to one call of
    /// `body(matrix, tile)`, which may write these columns of all rows. Ranges start at multiples of [`COLUMN_STEP`], and a thread
    /// takes at least and at most so many columns as `grain` says (see [`Portions`]).
    pub(crate) fn columns(
        &self,
        outs: &mut [&mut Rows],
        grain: Range<usize>,
        body: impl Fn(usize, ColumnTile<'_>) + Sync,
    ) {
        for (pass, outs) in outs.chunks_mut(MATRICES).enumerate() {
            let mut ends = [0; MATRICES]; // running totals of the steps of each matrix
            let mut targets: [Option<Target<'_>>; MATRICES] = [const { None }; MATRICES];
            let mut total = 0;
            for (i, out) in outs.iter_mut().enumerate() {
                let (rows, cols) = (out.len(), out.cols());
                total += cols.div_ceil(COLUMN_STEP);
                ends[i] = total;
                targets[i] = Some(Target { data: Disjoint::new(out.data_mut()), rows, cols });
            }
            let (least, most) = (grain.start.div_ceil(COLUMN_STEP), grain.end.div_ceil(COLUMN_STEP));
            let portions = Portions { total, threads: self.threads(), least, most };
            self.run(portions.count(), |number| {
                let steps = portions.get(number);
                let mut start = 0;
                for (i, (target, end)) in targets.iter().flatten().zip(ends).enumerate() {
                    let steps = steps.start.max(start)..steps.end.min(end);
                    if !steps.is_empty() {
                        let columns = (steps.start - start) * COLUMN_STEP..(steps.end - start) * COLUMN_STEP;
                        let columns = columns.start..columns.end.min(target.cols);
                        body(pass * MATRICES + i, ColumnTile { target, columns, rows: 0..target.rows });
                    }
                    start = end;
                }
            });
        }
    }

    /// Cuts `out` into tiles of `rows` rows and `cols` columns (the last may be smaller) and calls `body` for each, those of the
    /// same columns one after the other: they share what they read.
    pub(crate) fn tiles(&self, out: &mut Rows, rows: usize, cols: usize, body: impl Fn(ColumnTile<'_>) + Sync) {
        let (all_rows, all_cols) = (out.len(), out.cols());
        let target = Target { data: Disjoint::new(out.data_mut()), rows: all_rows, cols: all_cols };
        let along = all_rows.div_ceil(rows);
        self.run(along * all_cols.div_ceil(cols), |part| {
            let (down, right) = (part % along * rows, part / along * cols);
            body(ColumnTile {
                target: &target,
                columns: right..all_cols.min(right + cols),
                rows: down..all_rows.min(down + rows),
            });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _guard = self.shared.lock();
            self.shared.stop.store(true, Ordering::SeqCst);
            self.shared.wake_workers.notify_all();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker does not panic: parts are caught
        }
    }
}

/// A slice of which several threads write disjoint pieces.
struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: pieces are handed out as `&mut [T]` to other threads, hence `T: Send`; that they are disjoint is the duty
// of the callers of `slice`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    fn new(data: &'a mut [T]) -> Self {
        Disjoint { start: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// # Safety
    /// No two living slices may overlap.
    #[allow(clippy::mut_from_ref)] // that is the point; see the contract
    unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "piece outside of the slice");
        // SAFETY: in bounds by the assertion, borrowed for `'a`, and exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Every `parts`-th chunk of some bytes, exclusively borrowed.
pub(crate) struct Dealt<'a> {
    data: &'a Disjoint<'a, u8>,
    len: usize,
    part: usize,
    parts: usize,
}

impl Dealt<'_> {
    /// The chunk that is number `i` of these.
    pub(crate) fn chunk(&mut self, i: usize) -> &mut [u8] {
        let start = (i * self.parts + self.part) * self.len;
        // SAFETY: each chunk belongs to one part, and `&mut self` keeps this one from handing out two at a time.
        unsafe { self.data.slice(start..start + self.len) }
    }
}

struct Target<'a> {
    data: Disjoint<'a, f32>,
    rows: usize,
    cols: usize,
}

/// A range of columns of an output matrix, in all rows or some, exclusively borrowed.
pub(crate) struct ColumnTile<'a> {
    target: &'a Target<'a>,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl ColumnTile<'_> {
    /// The columns of this tile.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The rows of this tile.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// This tile's part of row `row`: one value per column of [`columns`](Self::columns).
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "row {row} of a tile of {:?}", self.rows);
        let start = row * self.target.cols;
        // SAFETY: `Pool::columns` and `Pool::tiles` make tiles that do not overlap, so no other tile holds these
        // elements, and `&mut self` keeps this tile from handing out two rows at a time.
        unsafe { self.target.data.slice(start + self.columns.start..start + self.columns.end) }
    }

    /// This tile's parts of some rows.
    pub(crate) fn rows_mut(&mut self, rows: Range<usize>) -> impl Iterator<Item = &mut [f32]> {
        assert!(self.rows.start <= rows.start && rows.end <= self.rows.end, "rows {rows:?} of {:?}", self.rows);
        let ColumnTile { target, columns, .. } = self;
        rows.map(move |row| {
            let start = row * target.cols;
            // SAFETY: as in `row`; each row is handed out once.
            unsafe { target.data.slice(start + columns.start..start + columns.end) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_part_runs_once() {
        for threads in [1, 2, 3, 7, 33] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for parts in [0, 1, 2, 5, 100, 1000] {
                let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, |part| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} threads, {parts}");
            }
        }
    }

    /// Calls in a row, with pauses in which workers fall asleep, from several threads at once.
    #[test]
    fn calls_never_mix_or_hang() {
        let pool = Pool::new(4).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..3 {
                let pool = &pool;
                scope.spawn(move || {
                    for call in 0..3000 {
                        let mut data = [0usize; 23];
                        pool.chunks(&mut data, 2, 1, |chunk, values| values.fill(caller + call + chunk));
                        let expected: [usize; 23] = std::array::from_fn(|i| caller + call + i / 2);
                        assert_eq!(data, expected);
                        if call % 500 == caller * 100 {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_nested_call_runs_on_the_spot() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        pool.run(10, |_| {
            pool.run(10, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 100);
    }

    #[test]
    fn a_panic_is_passed_on_and_the_pool_lives() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, |part| assert!(part != 17, "part {part} fails"));
            }));
            let payload = result.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), "part 17 fails");
            let sum = AtomicUsize::new(0);
            pool.run(50, |part| {
                sum.fetch_add(part, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 49 * 25);
        }
    }

    #[test]
    fn columns_cover_every_matrix_once() {
        let pool = Pool::new(3).unwrap();
        let sizes = [1, 31, 32, 33, 100, 257];
        let mut outs: Vec<Rows> = sizes.iter().map(|&cols| Rows::new(3, cols).unwrap()).collect();
        outs.iter_mut().for_each(|out| out.set_len(3));
        let mut refs: Vec<&mut Rows> = outs.iter_mut().collect();
        pool.columns(&mut refs, 1..1000, |matrix, mut tile| {
            assert_eq!(tile.columns().start % COLUMN_STEP, 0);
            for row in tile.rows() {
                let start = tile.columns().start;
                for (i, value) in tile.row(row).iter_mut().enumerate() {
                    *value += (matrix * 10_000 + row * 1000 + start + i) as f32;
                }
            }
        });
        for (matrix, out) in outs.iter().enumerate() {
            for row in 0..3 {
                for (col, value) in out.row(row).iter().enumerate() {
                    assert_eq!(*value, (matrix * 10_000 + row * 1000 + col) as f32);
                }
            }
        }
    }

    /// Rows of four arrays go together.
    #[test]
    fn zipped_rows_belong_together() {
        let pool = Pool::new(2).unwrap();
        let (mut a, mut b, mut c, mut d) = ([0u8; 12], [0u16; 6], [0u32; 18], [0i8; 0]);
        pool.zip_rows(6, 1, ((&mut a, 2), (&mut b, 1), (&mut c, 3), (&mut d, 0)), |row, a, b, c, d| {
            a.fill(row as u8);
            b.fill(row as u16);
            c.fill(row as u32);
            assert!(d.is_empty());
        });
        assert!((0..12).all(|i| a[i] == (i / 2) as u8) && (0..6).all(|i| b[i] == i as u16));
        assert!((0..18).all(|i| c[i] == (i / 3) as u32));
    }
}
