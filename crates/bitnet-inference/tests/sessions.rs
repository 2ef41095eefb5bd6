//! Sessions: whatever is reused, cut, shared or interleaved, the tokens and their log-probabilities are those of a
//! fresh run, bit for bit.

mod tiny;

use bitnet_inference::sampler::logprobs;
use bitnet_inference::{EngineOptions, FinishReason, GenerateRequest, InferenceError, Prompt, Sampling, TokenEvent};
use std::time::Duration;
use tiny::{BOS, EOS, TINY, Tiny, VOCAB, events, greedy, ids, prompt, sampled};

fn with_logprobs(request: GenerateRequest) -> GenerateRequest {
    GenerateRequest { logprobs: Some(20), ..request }
}

/// Events without their times.
fn facts(events: &[TokenEvent]) -> Vec<TokenEvent> {
    events.iter().map(|event| TokenEvent { elapsed: Duration::ZERO, ..event.clone() }).collect()
}

#[test]
fn a_continued_session_equals_a_fresh_one() {
    let engine = TINY.engine(EngineOptions::default());
    let mut session = engine.session();
    events(session.generate(&sampled(&prompt(45, 0), 30, 1)).expect("valid"));
    assert_eq!(session.tokens().len(), 75);
    let longer = [session.tokens(), &prompt(20, 3)[1..]].concat();
    let request = with_logprobs(sampled(&longer, 25, 2));
    let mut generation = session.generate(&request).expect("valid");
    let continued: Vec<TokenEvent> = generation.by_ref().map(|e| e.expect("a token")).collect();
    assert_eq!(generation.usage().cached_tokens, 74, "all but the last token, which was never read");
    assert_eq!(generation.usage().prompt_tokens, longer.len());

    let fresh_engine = TINY.engine(EngineOptions::default());
    let mut fresh = fresh_engine.session();
    let mut generation = fresh.generate(&request).expect("valid");
    let fresh: Vec<TokenEvent> = generation.by_ref().map(|e| e.expect("a token")).collect();
    assert_eq!(generation.usage().cached_tokens, 0);
    assert_eq!(facts(&continued), facts(&fresh));

    // and both equal the logits of the whole sequence at once
    let whole = [&longer[..], &fresh.iter().map(|e| e.id).collect::<Vec<_>>()].concat();
    let rows = fresh_engine.logits(&whole).expect("fits");
    let mut top = Vec::new();
    for (i, event) in fresh.iter().enumerate() {
        let row = &rows[(longer.len() - 1 + i) * VOCAB..][..VOCAB];
        assert_eq!(event.logprob, Some(logprobs(row, event.id, 20, &mut top)));
        assert_eq!(event.top, top);
    }
}

#[test]
fn a_shared_prompt_is_computed_once() {
    let engine = TINY.engine(EngineOptions::default());
    let shared = prompt(70, 0);
    let expected = ids(&engine, &sampled(&shared, 10, 5));
    // the session is gone, its pages are not
    let mut session = engine.session();
    let mut generation = session.generate(&sampled(&shared, 10, 5)).expect("valid");
    let again: Vec<u32> = generation.by_ref().map(|e| e.expect("a token").id).collect();
    assert_eq!(generation.usage().cached_tokens, 64, "two full pages");
    assert_eq!(again, expected);
    // another end: the first pages are shared while the first session still uses them
    let other = [&shared[..50], &prompt(30, 9)[1..]].concat();
    let mut second = engine.session();
    let mut generation = second.generate(&sampled(&other, 10, 5)).expect("valid");
    let found: Vec<u32> = generation.by_ref().map(|e| e.expect("a token").id).collect();
    assert_eq!(generation.usage().cached_tokens, 32);
    assert_eq!(found, ids(&TINY.engine(EngineOptions::default()), &sampled(&other, 10, 5)));
    // a prompt that ends on a page border: its last token is computed again, in a copy of the shared page
    let border = &shared[..64];
    let mut third = engine.session();
    let mut generation = third.generate(&sampled(border, 10, 5)).expect("valid");
    let found: Vec<u32> = generation.by_ref().map(|e| e.expect("a token").id).collect();
    assert_eq!(generation.usage().cached_tokens, 63);
    assert_eq!(found, ids(&TINY.engine(EngineOptions::default()), &sampled(border, 10, 5)));
}

#[test]
fn chunks_do_not_matter() {
    let request = with_logprobs(sampled(&prompt(150, 0), 12, 7));
    let run = |chunk| {
        let engine = TINY.engine(EngineOptions { chunk: Some(chunk), ..EngineOptions::default() });
        let mut session = engine.session();
        facts(&events(session.generate(&request).expect("valid")))
    };
    let whole = run(512);
    for chunk in [1, 7, 128] {
        assert_eq!(run(chunk), whole, "chunk {chunk}");
    }
}

#[test]
fn a_dropped_generation_leaves_the_session_usable() {
    let engine = TINY.engine(EngineOptions { chunk: Some(16), ..EngineOptions::default() });
    let request = sampled(&prompt(50, 0), 20, 3);
    let expected = ids(&TINY.engine(EngineOptions::default()), &request);
    let mut session = engine.session();
    // in the middle of the prompt
    let mut generation = session.generate(&request).expect("valid");
    assert!(generation.read_prompt_chunk().expect("fits"));
    drop(generation);
    // in the middle of the answer
    let some: Vec<u32> = session.generate(&request).expect("valid").take(5).map(|e| e.expect("a token").id).collect();
    assert_eq!(some, expected[..5]);
    assert_eq!(session.tokens(), [&prompt(50, 0)[..], &expected[..5]].concat());
    let all: Vec<u32> = events(session.generate(&request).expect("valid")).iter().map(|e| e.id).collect();
    assert_eq!(all, expected);
    session.truncate(60);
    assert_eq!(session.tokens().len(), 60);
    let all: Vec<u32> = events(session.generate(&request).expect("valid")).iter().map(|e| e.id).collect();
    assert_eq!(all, expected);
}

#[test]
fn interleaved_sessions_do_not_disturb_each_other() {
    let engine = TINY.engine(EngineOptions::default());
    let requests = [sampled(&prompt(40, 0), 50, 1), sampled(&prompt(33, 5), 50, 2)];
    let expected: Vec<_> = requests.iter().map(|r| ids(&TINY.engine(EngineOptions::default()), r)).collect();
    let (mut a, mut b) = (engine.session(), engine.session());
    let mut ga = a.generate(&requests[0]).expect("valid");
    let mut gb = b.generate(&requests[1]).expect("valid");
    let mut found = [Vec::new(), Vec::new()];
    for i in 0.. {
        let one = if i % 3 == 0 { gb.next() } else { ga.next() };
        match one {
            Some(event) => found[usize::from(i % 3 == 0)].push(event.expect("a token").id),
            None if i % 3 == 0 => break,
            None => {}
        }
    }
    assert_eq!(found.to_vec(), expected);
    // and from several threads
    std::thread::scope(|scope| {
        let threads: Vec<_> = requests.iter().map(|r| scope.spawn(|| ids(&engine, r))).collect();
        for (thread, expected) in threads.into_iter().zip(&expected) {
            assert_eq!(&thread.join().expect("no panic"), expected);
        }
    });
}

#[test]
fn sliding_equals_reading_what_remains_afresh() {
    let engine = Tiny { context: 64, ..TINY }.engine(EngineOptions::default());
    let keep = 5;
    let request = GenerateRequest { slide: Some(keep), ..greedy(&prompt(30, 0), 120) };
    let request = GenerateRequest {
        sampling: Sampling { repetition_penalty: 1.3, ..Sampling::greedy() }, // else random models repeat one token
        ..request
    };
    let found = ids(&engine, &request);
    assert_eq!(found.len(), 120);
    let mut tokens = prompt(30, 0);
    let mut sampler = bitnet_inference::sampler::Sampler::new(VOCAB, &request.sampling).expect("valid");
    for (i, &id) in found.iter().enumerate() {
        if tokens.len() == 64 {
            tokens.drain(keep..keep + (64 - keep).div_ceil(2));
        }
        let rows = engine.logits(&tokens).expect("fits");
        let next = sampler.sample(&rows[(tokens.len() - 1) * VOCAB..], &tokens).expect("finite");
        assert_eq!(next, id, "token {i}");
        tokens.push(next);
    }
    // a prompt longer than the context slides as well
    let long = GenerateRequest { prompt: Prompt::Ids(prompt(100, 0)), ..request };
    assert_eq!(ids(&engine, &long).len(), 120);
}

#[test]
fn a_full_context_is_reported_with_numbers() {
    let engine = Tiny { context: 64, ..TINY }.engine(EngineOptions::default());
    let mut session = engine.session();
    let mut generation = session.generate(&sampled(&prompt(60, 0), 100, 1)).expect("valid");
    assert_eq!(generation.by_ref().count(), 4);
    assert_eq!(generation.finish_reason(), Some(FinishReason::ContextFull));
    let Err(error) = session.generate(&greedy(&prompt(64, 0), 1)) else { panic!("no room for an answer") };
    assert!(matches!(error, InferenceError::ContextFull { tokens: 65, context: 64 }), "{error}");
    assert!(matches!(engine.logits(&prompt(65, 0)), Err(InferenceError::ContextFull { .. })));
    assert!(engine.logits(&prompt(64, 0)).is_ok());
}

#[test]
fn a_full_cache_is_reported_and_recovers() {
    let engine = Tiny { context: 256, ..TINY }.engine(EngineOptions::default());
    let mut a = engine.session();
    events(a.generate(&sampled(&prompt(200, 0), 3, 1)).expect("valid"));
    let mut b = engine.session();
    let request = sampled(&prompt(150, 7), 3, 1);
    let error = b.generate(&request).expect("valid").find_map(Result::err).expect("no pages");
    assert!(matches!(error, InferenceError::CacheFull { pages: 9, positions: 288 }), "{error}");
    drop(a);
    assert_eq!(events(b.generate(&request).expect("valid")).len(), 3);
}

#[test]
fn stop_texts_end_the_answer_before_them() {
    let engine = TINY.engine(EngineOptions::default());
    let request = sampled(&prompt(20, 0), 60, 11);
    let mut session = engine.session();
    let all = events(session.generate(&request).expect("valid"));
    let text: String = all.iter().map(|e| e.text.as_str()).collect();
    let chars: Vec<char> = text.chars().collect();
    assert!(chars.len() > 20, "{text:?}");
    let stop: String = chars[10..14].iter().collect();
    let at = text.find(&stop).expect("a part");
    let request = GenerateRequest { stop: vec!["never in the text".into(), stop], ..request };
    let mut generation = session.generate(&request).expect("valid");
    let cut: String = generation.by_ref().map(|e| e.expect("a token").text).collect();
    assert_eq!(generation.finish_reason(), Some(FinishReason::StopText));
    assert_eq!(cut, text[..at]);
    let empty = GenerateRequest { stop: vec![String::new()], ..request };
    assert!(matches!(session.generate(&empty), Err(InferenceError::Option { option: "stop", .. })));
}

#[test]
fn the_text_of_all_events_is_the_text_of_all_ids() {
    let engine = TINY.engine(EngineOptions::default());
    let tokenizer = engine.tokenizer().expect("in the file");
    for seed in 0..4 {
        let mut session = engine.session();
        let all = events(session.generate(&sampled(&prompt(20, 0), 40, seed)).expect("valid"));
        let ids: Vec<u32> = all.iter().map(|e| e.id).collect();
        let text: String = all.iter().map(|e| e.text.as_str()).collect();
        // the prompt may end inside a character: decode both and compare
        let before = tokenizer.decode(&prompt(20, 0), false);
        let whole = tokenizer.decode(&[&prompt(20, 0)[..], &ids].concat(), false);
        let stable = before.trim_end_matches('\u{fffd}');
        assert!(whole.starts_with(stable));
        assert!(whole.ends_with(&text), "{whole:?} {text:?}");
    }
}

#[test]
fn the_models_stop_token_ends_the_answer() {
    let engine = TINY.engine(EngineOptions::default());
    let force = Sampling { logit_bias: vec![(EOS, 1000.0)], ..Sampling::greedy() };
    let request = GenerateRequest { sampling: force, stop_at_eos: true, ..greedy(&prompt(9, 0), 5) };
    let mut session = engine.session();
    let mut generation = session.generate(&request).expect("valid");
    let all: Vec<TokenEvent> = generation.by_ref().map(|e| e.expect("a token")).collect();
    assert_eq!(generation.finish_reason(), Some(FinishReason::EndOfText));
    assert_eq!(all.iter().map(|e| (e.id, e.text.as_str())).collect::<Vec<_>>(), [(EOS, "")]);
    let on = GenerateRequest { stop_at_eos: false, ..request };
    assert_eq!(events(session.generate(&on).expect("valid")).len(), 5);
}

#[test]
fn seeds() {
    let engine = TINY.engine(EngineOptions::default());
    let request = |seed| sampled(&prompt(20, 0), 20, seed);
    assert_eq!(ids(&engine, &request(1)), ids(&engine, &request(1)));
    assert_ne!(ids(&engine, &request(1)), ids(&engine, &request(2)));
    assert_eq!(engine.generate("the thing", 12).expect("text"), engine.generate("the thing", 12).expect("text"));
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let engine = TINY.engine(EngineOptions::default());
    let mut session = engine.session();
    let outside = session.generate(&greedy(&[BOS, VOCAB as u32], 4)).err().expect("refused");
    assert!(outside.to_string().contains("vocabulary"), "{outside}");
    assert!(session.generate(&greedy(&[], 4)).is_err());
    assert!(session.generate(&GenerateRequest { logprobs: Some(101), ..greedy(&[BOS], 4) }).is_err());
    assert!(session.generate(&GenerateRequest { slide: Some(511), ..greedy(&[BOS], 4) }).is_err());
    let hot = Sampling { temperature: f32::INFINITY, ..Sampling::default() };
    assert!(session.generate(&GenerateRequest { sampling: hot, ..greedy(&[BOS], 4) }).is_err());
    let mut none = session.generate(&greedy(&[BOS], 0)).expect("valid");
    assert!(none.next().is_none());
    assert_eq!(none.finish_reason(), Some(FinishReason::Length));
    for options in [
        EngineOptions { context: Some(0), ..EngineOptions::default() },
        EngineOptions { context: Some(1 << 40), ..EngineOptions::default() },
        EngineOptions { kv_pages: Some(usize::MAX), ..EngineOptions::default() },
        EngineOptions { chunk: Some(0), ..EngineOptions::default() },
        EngineOptions { isa: Some("mmx".into()), ..EngineOptions::default() },
        EngineOptions { tokenizer: Some("no/such/tokenizer.json".into()), ..EngineOptions::default() },
    ] {
        let folder = tempfile::tempdir().expect("temporary folder");
        assert!(bitnet_inference::Engine::open(TINY.write(folder.path()), options).is_err());
    }
}

#[test]
fn a_model_without_tokenizer_works_with_ids() {
    let engine = Tiny { tokenizer: false, ..TINY }.engine(EngineOptions::default());
    assert_eq!(ids(&engine, &sampled(&prompt(10, 0), 5, 1)).len(), 5);
    let error = engine.generate("text", 5).expect_err("no tokenizer");
    assert!(matches!(error, InferenceError::NoTokenizer { .. }), "{error}");
    assert!(error.to_string().contains("--tokenizer"), "{error}");
    let never = GenerateRequest { stop: vec!["x".into()], ..greedy(&prompt(10, 0), 5) };
    let error = engine.session().generate(&never).err().expect("a stop text that nobody can find");
    assert!(matches!(error, InferenceError::NoTokenizer { .. }), "{error}");
}
