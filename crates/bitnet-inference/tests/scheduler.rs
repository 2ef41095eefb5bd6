//! Many requests at once: the tokens and log-probabilities are those of a request alone, bit for bit; nobody waits for
//! ever; no page is lost.

mod tiny;

use bitnet_inference::sampler::Random;
use bitnet_inference::{
    Engine, EngineOptions, FinishReason, GenerateRequest, Grammar, InferenceError, PageUse, Sampling, Scheduler,
    TokenEvent, Update, Updates,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tiny::{TINY, Tiny, events, greedy, prompt, sampled};

fn engine(model: Tiny, sequences: usize, kv_pages: usize, chunk: usize) -> Arc<Engine> {
    let options = EngineOptions {
        sequences: Some(sequences),
        kv_pages: Some(kv_pages),
        chunk: Some(chunk),
        threads: Some(2),
        ..EngineOptions::default()
    };
    Arc::new(model.engine(options))
}

fn without_times(event: TokenEvent) -> TokenEvent {
    TokenEvent { elapsed: Duration::ZERO, ..event }
}

/// All events and the reason of the end.
fn collect(updates: Updates) -> Result<(Vec<TokenEvent>, FinishReason), InferenceError> {
    let mut events = Vec::new();
    for update in updates {
        match update? {
            Update::Token(event) => events.push(without_times(event)),
            Update::Finished(reason, usage) => {
                assert_eq!(usage.new_tokens, events.len());
                return Ok((events, reason));
            }
        }
    }
    panic!("an answer without an end")
}

fn alone(request: &GenerateRequest) -> Vec<TokenEvent> {
    let engine = TINY.engine(EngineOptions::default());
    let mut session = engine.session();
    events(session.generate(request).expect("valid")).into_iter().map(without_times).collect()
}

/// Requests of all kinds; some share their beginning.
fn random_requests(count: u32) -> Vec<GenerateRequest> {
    let mut random = Random::new(7);
    (0..count)
        .map(|i| {
            let length = 1 + (random.bits() % 150) as usize;
            let new = 1 + (random.bits() % 60) as usize;
            let mut request = sampled(&prompt(length, i % 3), new, u64::from(i));
            match i % 4 {
                0 => request.sampling = Sampling { seed: 1, ..Sampling::default() },
                1 => request.sampling = Sampling::greedy(),
                2 => request.logprobs = Some(5),
                _ => request.sampling.repetition_penalty = 1.2,
            }
            request
        })
        .collect()
}

/// All pages are free or cached.
fn check_idle(scheduler: &Scheduler) {
    let metrics = scheduler.metrics();
    // the last update goes out just before its pages come back
    let start = Instant::now();
    while metrics.active.load(Relaxed) + metrics.waiting.load(Relaxed) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "still at work");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pages = scheduler.engine().page_use();
    assert_eq!(PageUse { cached: 0, free: 0, ..pages }, PageUse::default(), "held or lost pages");
    assert_eq!(pages.cached + pages.free, metrics.pages);
}

#[test]
fn sixteen_requests_together_are_each_as_alone() {
    let requests = random_requests(16);
    let scheduler = Scheduler::start(engine(TINY, 16, 128, 32), 16).expect("a thread");
    let updates: Vec<Updates> = requests.iter().map(|r| scheduler.submit(r.clone()).expect("room")).collect();
    for (request, updates) in requests.iter().zip(updates) {
        assert_eq!(collect(updates).expect("an answer").0, alone(request), "{request:?}");
    }
    check_idle(&scheduler);
    let metrics = scheduler.metrics();
    assert_eq!(metrics.finished.load(Relaxed), 16);
    let batches = metrics.batch_size.cumulative();
    assert!(batches[2].1 < batches.last().expect("bounds").1, "steps had more than four sequences: {batches:?}");
}

/// Texts that repeat themselves are guessed: right guesses save steps, wrong ones change nothing.
#[test]
fn guesses_change_nothing() {
    // texts of two tokens in random order, and of two words
    let two_tokens = |seed| {
        let mut request = sampled(&prompt(9, 1), 150, seed);
        request.sampling.logit_bias = vec![(97, 60.0), (98, 60.0)];
        request
    };
    let words = Grammar::Regex("(abcd|efgh){40}".into());
    let mut penalized = two_tokens(2);
    penalized.sampling.repetition_penalty = 1.05;
    let requests = [
        two_tokens(1),
        penalized,
        GenerateRequest { logprobs: Some(3), ..two_tokens(3) },
        GenerateRequest { stop: vec!["abbab".into()], ..two_tokens(4) },
        GenerateRequest { grammar: Some(words.clone()), ..sampled(&prompt(40, 1), 200, 5) },
        GenerateRequest { grammar: Some(words), ..sampled(&prompt(9, 2), 200, 6) },
        greedy(&prompt(9, 3), 100),
    ];
    let scheduler = Scheduler::start(engine(TINY, 8, 128, 32), 16).expect("a thread");
    // one after the other, so that rows are free, then all at once, so that they are not
    for request in &requests {
        let (events, _) = collect(scheduler.submit(request.clone()).expect("room")).expect("an answer");
        assert_eq!(events, alone(request), "{request:?}");
    }
    let metrics = scheduler.metrics();
    let (guessed, right) = (metrics.guessed_tokens.load(Relaxed), metrics.right_tokens.load(Relaxed));
    assert!(0 < right && right < guessed, "{right} of {guessed}: the test tests nothing");
    let (_, steps) = *metrics.step_seconds.cumulative().last().expect("bounds");
    assert!(steps < metrics.new_tokens.load(Relaxed), "{steps} steps");
    let updates: Vec<Updates> = requests.iter().map(|r| scheduler.submit(r.clone()).expect("room")).collect();
    for (request, updates) in requests.iter().zip(updates) {
        assert_eq!(collect(updates).expect("an answer").0, alone(request), "{request:?}");
    }
    check_idle(&scheduler);
}

#[test]
fn a_pool_that_is_too_small_for_all_only_delays() {
    // all are let in with the two pages of their prompts, and each comes to need six of the eight
    let requests: Vec<_> = (0..6).map(|i| sampled(&prompt(20, i), 150, u64::from(i))).collect();
    let scheduler = Scheduler::start(engine(TINY, 4, 8, 32), 16).expect("a thread");
    let updates: Vec<Updates> = requests.iter().map(|r| scheduler.submit(r.clone()).expect("room")).collect();
    for (request, updates) in requests.iter().zip(updates) {
        assert_eq!(collect(updates).expect("an answer").0, alone(request), "{request:?}");
    }
    assert!(scheduler.metrics().preempted.load(Relaxed) > 0, "nobody had to give way: the test tests nothing");
    check_idle(&scheduler);
}

#[test]
fn a_dropped_receiver_frees_its_pages() {
    let scheduler = Scheduler::start(engine(TINY, 2, 40, 32), 8).expect("a thread");
    let mut running = scheduler.submit(sampled(&prompt(20, 0), 490, 1)).expect("room");
    let other = scheduler.submit(sampled(&prompt(20, 1), 490, 2)).expect("room");
    let waiting = scheduler.submit(sampled(&prompt(20, 2), 490, 3)).expect("room");
    assert!(matches!(running.next(), Some(Ok(Update::Token(_)))));
    drop((running, other, waiting));
    check_idle(&scheduler);
    let metrics = scheduler.metrics();
    assert_eq!(metrics.cancelled.load(Relaxed), 3);
    assert!(metrics.new_tokens.load(Relaxed) < 600, "it went on without listeners");
}

#[test]
fn a_full_queue_is_busy_and_wrong_requests_are_refused_at_once() {
    let scheduler = Scheduler::start(engine(TINY, 1, 17, 32), 2).expect("a thread");
    let mut first = scheduler.submit(sampled(&prompt(5, 0), 400, 1)).expect("room");
    assert!(first.next().is_some(), "it is active and waits no more");
    let queued = [scheduler.submit(greedy(&prompt(5, 0), 1)), scheduler.submit(greedy(&prompt(5, 0), 1))];
    let busy = scheduler.submit(greedy(&prompt(5, 0), 1)).expect_err("full");
    assert!(matches!(busy, InferenceError::Busy { waiting: 2, retry_after } if !retry_after.is_zero()), "{busy}");
    assert_eq!(scheduler.metrics().refused.load(Relaxed), 1);

    let long = scheduler.submit(greedy(&prompt(512, 0), 1)).expect_err("too long");
    assert!(matches!(long, InferenceError::ContextFull { tokens: 513, context: 512 }), "{long}");
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    let wrong = scheduler.submit(GenerateRequest { sampling: hot, ..greedy(&prompt(5, 0), 1) }).expect_err("NaN");
    assert!(matches!(wrong, InferenceError::Option { option: "temperature", .. }), "{wrong}");
    let sliding = GenerateRequest { slide: Some(4), ..greedy(&prompt(5, 0), 1) };
    assert!(matches!(scheduler.submit(sliding), Err(InferenceError::Option { option: "slide", .. })));
    drop(first);
    for updates in queued {
        assert_eq!(collect(updates.expect("room")).expect("an answer").1, FinishReason::Length);
    }
    check_idle(&scheduler);
}

#[test]
fn a_small_pool_bounds_the_length_of_a_request() {
    let scheduler = Scheduler::start(engine(TINY, 2, 3, 32), 4).expect("a thread");
    assert_eq!(scheduler.context(), 64);
    let (events, reason) =
        collect(scheduler.submit(sampled(&prompt(60, 0), 100, 1)).expect("room")).expect("an answer");
    assert_eq!((events.len(), reason), (4, FinishReason::ContextFull));
    assert!(matches!(scheduler.submit(greedy(&prompt(64, 0), 1)), Err(InferenceError::ContextFull { .. })));
    check_idle(&scheduler);
}

#[test]
fn an_error_of_one_request_leaves_the_others_alone() {
    let scheduler = Scheduler::start(engine(TINY, 4, 64, 32), 8).expect("a thread");
    let good = sampled(&prompt(40, 0), 30, 3);
    // every token is banned: nothing can be chosen
    let banned = (0..tiny::VOCAB as u32).map(|id| (id, f32::NEG_INFINITY)).collect();
    let bad = GenerateRequest { sampling: Sampling { logit_bias: banned, ..Sampling::default() }, ..good.clone() };
    let updates: Vec<Updates> =
        [&good, &bad, &good].map(|r| scheduler.submit(r.clone()).expect("room")).into_iter().collect();
    let results: Vec<_> = updates.into_iter().map(collect).collect();
    let expected = alone(&good);
    assert_eq!(results[0].as_ref().expect("an answer").0, expected);
    assert!(matches!(results[1], Err(InferenceError::Option { .. })));
    assert_eq!(results[2].as_ref().expect("an answer").0, expected);
    check_idle(&scheduler);
}

#[test]
fn a_long_prompt_does_not_stall_others() {
    let scheduler = Scheduler::start(engine(TINY, 4, 64, 8), 8).expect("a thread");
    let mut decoding = scheduler.submit(sampled(&prompt(4, 1), 300, 1)).expect("room");
    assert!(decoding.next().is_some());
    let long = scheduler.submit(greedy(&prompt(500, 0), 1)).expect("room");
    let short = scheduler.submit(greedy(&prompt(4, 2), 1)).expect("room");
    let begin = Instant::now();
    collect(short).expect("an answer");
    let short = begin.elapsed();
    collect(long).expect("an answer");
    assert!(
        short < begin.elapsed() / 2,
        "the short prompt waited for the long one: {short:?} of {:?}",
        begin.elapsed()
    );
    drop(decoding);
    check_idle(&scheduler);
}

#[test]
fn a_step_that_is_left_goes_on_to_the_same_tokens() {
    let scheduler = Scheduler::start(engine(TINY, 4, 64, 64), 8).expect("a thread");
    let begin = Instant::now();
    for round in 0.. {
        if scheduler.metrics().left.load(Relaxed) >= 3 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "no step was left: the test tests nothing");
        // other texts in every round: what was read before is found again
        let (long, short) = (sampled(&prompt(500, 2 * round), 8, 3), sampled(&prompt(20, 2 * round + 1), 4, 4));
        let (long_alone, short_alone) = (alone(&long), alone(&short));
        let read = scheduler.metrics().prompt_tokens.load(Relaxed);
        let reading = scheduler.submit(long).expect("room");
        while scheduler.metrics().prompt_tokens.load(Relaxed) == read {
            std::hint::spin_loop();
        }
        let come = scheduler.submit(short).expect("room");
        assert_eq!(collect(come).expect("an answer").0, short_alone);
        assert_eq!(collect(reading).expect("an answer").0, long_alone);
    }
    check_idle(&scheduler);
}

#[test]
fn a_prompt_is_found_in_the_pages_of_an_earlier_request() {
    let scheduler = Scheduler::start(engine(TINY, 4, 64, 32), 8).expect("a thread");
    for cached in [0, 96] {
        let last = scheduler.submit(greedy(&prompt(100, 0), 3)).expect("room").last();
        let Some(Ok(Update::Finished(_, usage))) = last else { panic!("{last:?}") };
        assert_eq!((usage.prompt_tokens, usage.cached_tokens), (100, cached));
    }
    assert_eq!(scheduler.metrics().cached_tokens.load(Relaxed), 96);
}

#[test]
fn times_are_told_from_the_queue_on() {
    let scheduler = Scheduler::start(engine(TINY, 1, 17, 32), 2).expect("a thread");
    let mut first = scheduler.submit(sampled(&prompt(5, 0), 400, 1)).expect("room");
    assert!(first.next().is_some(), "it is active");
    let begin = Instant::now();
    let second = scheduler.submit(greedy(&prompt(5, 1), 20)).expect("room");
    assert!(matches!(first.last(), Some(Ok(Update::Finished(..)))));
    let Some(Ok(Update::Finished(_, usage))) = second.last() else { panic!("no end") };
    assert!(usage.queue_time > Duration::ZERO);
    assert!(usage.queue_time + usage.prompt_time + usage.decode_time <= begin.elapsed(), "{usage:?}");
}

#[test]
fn closing_answers_what_was_accepted() {
    let scheduler = Scheduler::start(engine(TINY, 2, 64, 32), 8).expect("a thread");
    let requests = random_requests(6);
    let updates: Vec<Updates> = requests.iter().map(|r| scheduler.submit(r.clone()).expect("room")).collect();
    scheduler.close();
    assert!(matches!(scheduler.submit(requests[0].clone()), Err(InferenceError::Stopped)));
    drop(scheduler);
    for (request, updates) in requests.iter().zip(updates) {
        assert_eq!(collect(updates).expect("an answer").0, alone(request));
    }
}

/// A text of three pages, in two chunks, on an engine of four; between the chunks an answer needs more than what is left.
#[test]
fn an_answer_goes_on_between_the_chunks_of_an_embedding_and_waits_for_its_pages() {
    let engine = engine(TINY, 2, 4, 64);
    let scheduler = Scheduler::start(Arc::clone(&engine), 4).expect("started");
    let ids: Vec<u32> = (0..96).map(|i| i % 60).collect();
    let expected = TINY.engine(EngineOptions::default()).embed_ids(&ids).expect("valid");
    let request = GenerateRequest { sampling: Sampling::greedy(), ..sampled(&prompt(10, 1), 60, 3) };
    let answer = std::cell::RefCell::new(None);
    let new_tokens = || scheduler.metrics().new_tokens.load(Relaxed);
    let found = engine.embed_ids_while(&ids, &|| {
        if answer.borrow().is_none() && engine.page_use().cached + engine.page_use().held > 0 {
            *answer.borrow_mut() = Some(scheduler.submit(request.clone()).expect("accepted"));
            let start = Instant::now();
            while new_tokens() < 20 {
                assert!(start.elapsed() < Duration::from_secs(20), "{} tokens beside an embedding", new_tokens());
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(50)); // it comes to the end of the pages
            assert!(new_tokens() < 60, "there are no pages for all of it");
        }
        true
    });
    assert_eq!(found.expect("valid").expect("not told to stop"), expected);
    let (events, _) = collect(answer.into_inner().expect("was asked")).expect("its pages came back");
    assert_eq!(events, alone(&request));
    check_idle(&scheduler);
}

#[test]
fn an_embedding_that_is_told_to_stop_gives_its_pages_back() {
    let engine = engine(TINY, 2, 4, 64);
    let ids: Vec<u32> = (0..96).map(|i| i % 60).collect();
    for chunks in 0..2 {
        let asked = std::cell::Cell::new(0);
        let go_on = || asked.replace(asked.get() + 1) < chunks;
        assert_eq!(engine.embed_ids_while(&ids, &go_on).expect("valid"), None);
        assert_eq!((asked.get(), engine.page_use().held), (chunks + 1, 0));
    }
    let six: Vec<u32> = [&ids[..], &ids[..]].concat();
    assert!(matches!(engine.embed_ids(&six), Err(InferenceError::ContextFull { context: 128, .. })), "four pages");
}

#[test]
fn an_engine_has_one_scheduler_at_a_time() {
    let engine = engine(TINY, 2, 4, 64);
    let first = Scheduler::start(Arc::clone(&engine), 1).expect("started");
    let error = Scheduler::start(Arc::clone(&engine), 1).err().expect("refused");
    assert!(error.to_string().contains("another"), "{error}");
    drop(first);
    Scheduler::start(engine, 1).expect("the first is gone");
}
