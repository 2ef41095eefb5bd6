//! Decoding allocates nothing: counted over all threads by the global allocator.

mod tiny;

use bitnet_inference::{EngineOptions, GenerateRequest, Sampling};
use bitnet_models::LoadOptions;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use tiny::{TINY, greedy, prompt};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Without the test harness, whose own thread may allocate meanwhile.
fn main() {
    let everything = Sampling {
        logit_bias: vec![(5, 1.0)],
        repetition_penalty: 1.1,
        frequency_penalty: 0.1,
        presence_penalty: 0.1,
        dry_multiplier: 0.8,
        no_repeat_ngram: 4,
        top_k: 100,
        typical_p: 0.95,
        top_p: 0.95,
        min_p: 0.01,
        epsilon_cutoff: 1e-6,
        eta_cutoff: 1e-6,
        xtc_probability: 0.5,
        temperature: 1.2,
        ..Sampling::default()
    };
    let wide = Sampling { top_k: 0, typical_p: 0.9, temperature: 1.0, ..Sampling::default() };
    let few = Sampling { top_k: 10, repetition_penalty: 1.1, ..Sampling::default() };
    for (sampling, slide, select_head) in [
        (Sampling { frequency_penalty: 1.0, ..Sampling::greedy() }, None, false),
        (Sampling::default(), None, false),
        (everything, None, false),
        (wide, Some(4), false),
        (few, None, true),
    ] {
        let load = LoadOptions { select_head: Some(select_head), ..LoadOptions::default() };
        let engine =
            TINY.engine(EngineOptions { context: Some(192), threads: Some(2), load, ..EngineOptions::default() });
        let request = GenerateRequest { sampling, slide, ..greedy(&prompt(40, 0), 400) };
        let mut session = engine.session();
        let mut generation = session.generate(&request).expect("valid");
        for _ in 0..8 {
            generation.next_token().expect("more").expect("a token");
        }
        // a worker thread that the system starts late allocates its name
        std::thread::sleep(std::time::Duration::from_millis(300));
        // over several page borders; with `slide` also over the end of the context
        let tokens = if slide.is_some() { 300 } else { 140 };
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..tokens {
            generation.next_token().expect("more").expect("a token");
        }
        let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(count, 0, "allocations in {tokens} tokens, {:?}", request.sampling);
    }
    println!("decoding allocates nothing: ok");
}
