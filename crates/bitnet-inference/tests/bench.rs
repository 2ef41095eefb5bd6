//! The bench reports what it measured.

mod tiny;

use bitnet_inference::{BenchSpec, EngineOptions, InferenceError};
use tiny::TINY;

#[test]
fn report() {
    let engine = TINY.engine(EngineOptions { threads: Some(1), ..EngineOptions::default() });
    let mut calls = 0;
    let spec = BenchSpec { prompt: 40, new: 8, reps: 3, ..BenchSpec::default() };
    let report = engine
        .bench(spec, &mut |rep| {
            calls += 1;
            rep < 2 // stops after two counted repetitions
        })
        .expect("valid");
    assert_eq!(calls, 3);
    assert_eq!((report.threads, report.prompt_tokens, report.decode_tokens), (1, 40, 8));
    for spread in [&report.prompt_speed, &report.decode_speed, &report.first_token] {
        assert!(
            spread.min > 0.0 && spread.min <= spread.mean && spread.mean <= spread.max && spread.sd >= 0.0,
            "{spread:?}"
        );
    }
    assert!((report.decode_bound - report.read_bandwidth / report.bytes_per_token as f64).abs() < 1e-6);
    assert!(report.load > 0.0 && report.decode_fraction > 0.0);
    assert_eq!((report.token_seconds.values.len(), report.request_seconds.values.len()), (2 * 7, 2));
    let decode: f64 = report.token_seconds.values[..7].iter().sum();
    assert!((7.0 / decode / report.decode_speed.values[0] - 1.0).abs() < 1e-9);
    assert!((48.0 / report.request_seconds.values[1] / report.total_speed.values[1] - 1.0).abs() < 1e-9);
    let json = report.to_json();
    let latency = |p: &str| json["token_latency_seconds"][p].as_f64().expect("a number");
    assert!(latency("p50") <= latency("p95") && latency("p95") <= latency("p99"));
    assert_eq!(latency("p99"), report.token_seconds.max, "of 14 values");
    assert!(json["prompt_tokens_per_second"].is_number() && json["isa"].is_string());
    // nothing stays behind: the whole pool is free again
    assert_eq!(engine.page_use().held, 0);
    let spec = |prompt, new| BenchSpec { prompt, new, reps: 1, ..BenchSpec::default() };
    assert!(engine.bench(spec(500, 12), &mut |_| true).is_ok());
    let long = engine.bench(spec(600, 8), &mut |_| true);
    assert!(matches!(long, Err(InferenceError::ContextFull { tokens: 608, context: 512 })));
    let deep = engine.bench(BenchSpec { depth: usize::MAX, ..spec(6, 8) }, &mut |_| true);
    assert!(matches!(deep, Err(InferenceError::ContextFull { tokens: usize::MAX, context: 512 })));
    assert!(engine.bench(spec(0, 8), &mut |_| true).is_err());
    let many = engine.bench(BenchSpec { batch: 2, ..spec(6, 8) }, &mut |_| true).expect_err("opened for one");
    assert!(many.to_string().contains("2 sequences are more than the 1"), "{many}");
}

/// Several sequences over a cached past, in an engine with exactly the room for them.
#[test]
fn batch_and_depth() {
    let spec = BenchSpec { prompt: 9, new: 5, reps: 2, batch: 3, depth: 100 };
    let engine = TINY.engine(spec.room(EngineOptions { threads: Some(2), ..EngineOptions::default() }));
    let report = engine.bench(spec, &mut |_| true).expect("valid");
    assert_eq!((report.batch, report.depth, report.decode_tokens), (3, 100, 5));
    assert_eq!(engine.page_use().held, 0);
    // keys and values in f32: 2 layers, 2 heads of 32 channels, up to the middle of the answer
    assert_eq!(report.kv_bytes_per_token, 2 * 4 * 2 * 2 * 32 * (100 + 9 + 2));
    // three sequences share the weights of a step, all of which are read: the head is too small for a selection
    assert_eq!(report.bytes_per_token - report.kv_bytes_per_token, engine.model().bytes_per_token() / 3);
}
