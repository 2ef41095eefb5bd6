//! A pool of worker threads for fork-join loops of microseconds.
//!
//! A verb of a decode step takes 5 to 500 µs, so a call must cost little: nothing is allocated, and workers look out for the
//! next call for a moment before they sleep. The caller works too, and parts are claimed one by one, so a worker
//! that the operating system has put aside delays nobody as long as it has not claimed a part.
//!
//! What a part computes never depends on which thread runs it or on how many threads there are.

#![allow(unsafe_code)]

mod pieces;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub(crate) use pieces::{ColumnTile, Dealt, grain};

/// Looks at what a thread waits for before it sleeps: first in a row, which takes some 3 µs, then offering the processor to others
/// in between, which takes some hundred µs when nobody wants it. Waking a sleeper costs some 50 µs, and the pauses between the
/// calls of a small model are about as long: with 1000 looks in a row and no offers, two threads were slower than one.
const LOOKS: u32 = 100;
const OFFERS: u32 = 2000;

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
}
