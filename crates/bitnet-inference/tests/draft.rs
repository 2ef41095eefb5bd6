//! A draft model changes how soon tokens come, and not one bit of them: alone, in a batch, greedy or not, whatever it guesses.

mod tiny;

use bitnet_formats::Checkpoint;
use bitnet_inference::{
    Engine, EngineOptions, FinishReason, GenerateRequest, Grammar, InferenceError, PageUse, Sampling, Scheduler,
    TokenEvent, Update, Updates, Usage,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tiny::{TINY, Tiny, greedy, prompt, sampled};

/// The same tokens, other weights: it guesses wrong.
const OTHER: Tiny = Tiny { seed: 2, ..TINY };

fn with(draft: Tiny, options: EngineOptions) -> Result<Engine, InferenceError> {
    let [of_model, of_draft] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let options = EngineOptions { draft: Some(draft.write(of_draft.path())), threads: Some(1), ..options };
    Engine::open(TINY.write(of_model.path()), options)
}

fn drafted(draft: Tiny, tokens: Option<usize>) -> Engine {
    with(draft, EngineOptions { draft_tokens: tokens, ..EngineOptions::default() }).expect("models that fit")
}

fn scheduled(draft: Tiny, sequences: usize, kv_pages: usize) -> Scheduler {
    let options = EngineOptions {
        sequences: Some(sequences),
        kv_pages: Some(kv_pages),
        chunk: Some(32),
        draft_tokens: Some(4),
        ..EngineOptions::default()
    };
    Scheduler::start(Arc::new(with(draft, options).expect("models that fit")), 16).expect("a thread")
}

type Said = (Vec<TokenEvent>, Option<FinishReason>);

fn without_times(event: TokenEvent) -> TokenEvent {
    TokenEvent { elapsed: Duration::ZERO, ..event }
}

fn said(engine: &Engine, request: &GenerateRequest) -> (Said, Usage) {
    let mut session = engine.session();
    let mut generation = session.generate(request).expect("a valid request");
    let events = generation.by_ref().map(|event| without_times(event.expect("a token"))).collect();
    ((events, generation.finish_reason()), generation.usage())
}

fn collect(updates: Updates) -> (Said, Usage) {
    let mut events = Vec::new();
    for update in updates {
        match update.expect("an answer") {
            Update::Token(event) => events.push(without_times(event)),
            Update::Finished(reason, usage) => return ((events, Some(reason)), usage),
        }
    }
    panic!("an answer without an end")
}

/// Texts that do not repeat themselves, so that nothing is looked up.
fn cool(ids: &[u32], max_tokens: usize, seed: u64) -> GenerateRequest {
    let mut request = sampled(ids, max_tokens, seed);
    request.sampling.temperature = 0.2;
    request.sampling.no_repeat_ngram = 3;
    request
}

fn requests() -> Vec<GenerateRequest> {
    let penalties =
        Sampling { repetition_penalty: 1.2, presence_penalty: 0.3, top_k: 20, seed: 9, ..Sampling::default() };
    vec![
        greedy(&prompt(9, 3), 100),
        cool(&prompt(1, 0), 90, 1),
        cool(&prompt(200, 1), 120, 2),
        sampled(&prompt(40, 2), 120, 3),
        GenerateRequest { sampling: penalties, ..sampled(&prompt(30, 4), 100, 4) },
        GenerateRequest { logprobs: Some(4), ..cool(&prompt(31, 5), 70, 5) },
        GenerateRequest { stop: vec!["e".into()], ..cool(&prompt(8, 6), 150, 6) },
        GenerateRequest { grammar: Some(Grammar::Regex("(abcd|efgh){30}".into())), ..sampled(&prompt(40, 7), 200, 7) },
        // as far as the context goes
        cool(&prompt(440, 8), 200, 8),
        sampled(&prompt(40, 2), 1, 3),
    ]
}

#[test]
fn a_session_says_the_same() {
    let plain = TINY.engine(EngineOptions::default());
    let expected: Vec<_> = requests().iter().map(|request| said(&plain, request).0).collect();
    for tokens in [Some(1), Some(8), None] {
        let rights = [TINY, OTHER, Tiny { context: 64, ..TINY }].map(|draft| {
            let engine = drafted(draft, tokens);
            let (mut guessed, mut right) = (0, 0);
            for (request, expected) in requests().iter().zip(&expected) {
                let (answer, usage) = said(&engine, request);
                assert_eq!(answer, *expected, "{tokens:?} {request:?}");
                assert_eq!(usage.new_tokens, answer.0.len());
                guessed += usage.drafted_tokens;
                right += usage.drafted_right;
            }
            assert!(guessed > 0 && right <= guessed, "the test tests nothing");
            let draft = engine.draft().expect("a draft model").page_use();
            assert_eq!((draft.held, draft.lost), (0, 0));
            right
        });
        // the draft knows neither temperatures nor penalties nor grammars
        assert!(tokens.is_none() || rights[0] > 4 * rights[1], "{tokens:?}: {rights:?}");
        assert!(tokens.is_none() || rights[0] > rights[2] && rights[2] > 0, "{tokens:?}: {rights:?}");
    }
}

#[test]
fn the_model_itself_is_always_right_when_it_is_greedy() {
    // nothing repeats here, or it would be looked up
    let request = GenerateRequest {
        sampling: Sampling { frequency_penalty: 100.0, ..Sampling::greedy() },
        ..greedy(&prompt(20, 0), 100)
    };
    let engine = drafted(TINY, Some(4));
    let (answer, usage) = said(&engine, &request);
    assert_eq!(answer, said(&TINY.engine(EngineOptions::default()), &request).0);
    // the draft knows of no penalty, so it is right only as long as that changes nothing
    assert!(usage.drafted_right > 0 && usage.drafted_right < usage.drafted_tokens, "{usage:?}");

    let usage = said(&engine, &greedy(&prompt(20, 0), 100)).1;
    assert!(usage.drafted_tokens > 0 && usage.drafted_right + 4 >= usage.drafted_tokens, "{usage:?}");
}

#[test]
fn a_batch_says_the_same_and_gives_its_pages_back() {
    let plain = TINY.engine(EngineOptions::default());
    let expected: Vec<_> = requests().iter().map(|request| said(&plain, request).0).collect();
    for draft in [TINY, OTHER, Tiny { context: 64, ..OTHER }] {
        // the last pool is too small for all: some have to wait, and are read again
        for (sequences, pages) in [(1, 64), (4, 128), (4, 20)] {
            let scheduler = scheduled(draft, sequences, pages);
            let all = requests();
            let updates: Vec<_> = all.iter().map(|r| scheduler.submit(r.clone()).expect("room")).collect();
            let mut sums = (0, 0);
            for ((request, expected), updates) in all.iter().zip(&expected).zip(updates) {
                let (answer, usage) = collect(updates);
                assert_eq!(answer, *expected, "{sequences} {pages} {request:?}");
                sums = (sums.0 + usage.drafted_tokens, sums.1 + usage.drafted_right);
            }
            check_idle(&scheduler);
            let metrics = scheduler.metrics();
            let counted = (metrics.drafted_tokens.load(Relaxed), metrics.drafted_right_tokens.load(Relaxed));
            assert_eq!(counted, (sums.0 as u64, sums.1 as u64));
            assert!(counted.0 > 0, "the test tests nothing");
            if draft.seed == TINY.seed {
                let (_, steps) = *metrics.step_seconds.cumulative().last().expect("bounds");
                assert!(counted.1 * 5 > counted.0, "{counted:?}");
                assert!(sequences > 1 || steps < metrics.new_tokens.load(Relaxed), "{steps} steps");
            }
        }
    }
}

/// All pages of both models are free or cached.
fn check_idle(scheduler: &Scheduler) {
    let metrics = scheduler.metrics();
    let start = Instant::now();
    while metrics.active.load(Relaxed) + metrics.waiting.load(Relaxed) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "still at work");
        std::thread::sleep(Duration::from_millis(1));
    }
    for engine in [Some(scheduler.engine().as_ref()), scheduler.engine().draft()].into_iter().flatten() {
        let pages = engine.page_use();
        assert_eq!(PageUse { cached: 0, free: 0, ..pages }, PageUse::default(), "held or lost pages");
    }
}

#[test]
fn a_cancelled_request_frees_the_drafts_pages() {
    let scheduler = scheduled(TINY, 2, 40);
    let mut running = scheduler.submit(cool(&prompt(40, 0), 400, 1)).expect("room");
    let other = scheduler.submit(cool(&prompt(100, 1), 400, 2)).expect("room");
    for _ in 0..30 {
        assert!(matches!(running.next(), Some(Ok(Update::Token(_)))));
    }
    assert!(scheduler.engine().draft().expect("a draft model").page_use().held > 0);
    drop((running, other));
    check_idle(&scheduler);
}

/// A session may be left, cut and taken up again at any token, also between those that were computed in one step.
#[test]
fn a_session_can_be_left_at_any_token() {
    let engine = drafted(TINY, Some(4));
    let plain = TINY.engine(EngineOptions::default());
    let first = cool(&prompt(20, 1), 60, 1);
    let (expected, _) = said(&plain, &first);
    let mut session = engine.session();
    for stop in 1..20 {
        let made: Vec<_> =
            session.generate(&first).expect("valid").take(stop).map(|e| e.expect("a token").id).collect();
        let ids: Vec<u32> = expected.0[..stop].iter().map(|event| event.id).collect();
        assert_eq!(made, ids);
        assert_eq!(session.tokens()[20..], ids);
        if stop % 3 == 0 {
            session.truncate(15 + stop);
        }
        let mut longer = session.tokens().to_vec();
        longer.extend([7, 8]);
        let next = cool(&longer, 5, 2);
        let made: Vec<_> =
            session.generate(&next).expect("valid").map(|e| without_times(e.expect("a token"))).collect();
        assert_eq!(made, said(&plain, &next).0.0, "after {stop} tokens");
    }
}

#[test]
fn a_sliding_context_says_the_same() {
    let slide = GenerateRequest { slide: Some(4), ..cool(&prompt(30, 1), 200, 1) };
    let options = || EngineOptions { context: Some(64), ..EngineOptions::default() };
    let plain = said(&TINY.engine(options()), &slide).0;
    assert_eq!(plain.0.len(), 200);
    for draft in [TINY, OTHER] {
        let engine = with(draft, EngineOptions { draft_tokens: Some(6), ..options() }).expect("models that fit");
        let (answer, usage) = said(&engine, &slide);
        assert_eq!(answer, plain);
        assert!(usage.drafted_tokens > 20, "{usage:?}");
    }
}

#[test]
fn a_draft_that_does_not_fit_is_refused() {
    let refused = |draft: Tiny| match with(draft, EngineOptions::default()).err().expect("refused") {
        InferenceError::Draft { path, reason } => {
            assert!(path.ends_with("tiny.gguf"));
            reason
        }
        other => panic!("{other}"),
    };
    let spelled = refused(Tiny { last_merge: "o n", ..TINY });
    assert_eq!(spelled, "token 263 is \"on\" in its vocabulary and \"Ġa\" in the model's");
    assert!(refused(Tiny { tokenizer: false, ..TINY }).contains("its tokens cannot be compared"));

    let option = |result: Result<Engine, InferenceError>| match result.err().expect("refused") {
        InferenceError::Option { option: "draft_tokens", reason } => reason,
        other => panic!("{other}"),
    };
    let tokens = |tokens| EngineOptions { draft_tokens: Some(tokens), ..EngineOptions::default() };
    assert_eq!(option(with(TINY, tokens(9))), "9 is not between 1 and 8");
    assert_eq!(option(with(TINY, tokens(0))), "0 is not between 1 and 8");
    let folder = tempfile::tempdir().expect("a folder");
    let path = TINY.write(folder.path());
    assert!(option(Engine::open(&path, tokens(4))).contains("no draft model"));
    let missing = EngineOptions { draft: Some(folder.path().join("none.gguf")), ..EngineOptions::default() };
    let missing = Engine::open(&path, missing).err().expect("no file").to_string();
    assert!(missing.contains("none.gguf"), "{missing}");
}

#[test]
fn its_memory_is_planned() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = TINY.write(folder.path());
    let checkpoint = Checkpoint::open(&path).expect("a model");
    let plain = EngineOptions { sequences: Some(2), kv_pages: Some(10), ..EngineOptions::default() };
    let both = EngineOptions { draft: Some(path.clone()), ..plain.clone() };
    let [plain, both] = [plain, both].map(|options| {
        let plan = options.plan(&checkpoint).expect("a plan");
        assert_eq!(plan, Engine::open(&path, options).expect("a model").plan());
        plan
    });
    assert_eq!((both.kv, both.mapped_weights), (2 * plain.kv, 2 * plain.mapped_weights));
    assert!(both.total() > 2 * plain.total() - plain.activations);
}
