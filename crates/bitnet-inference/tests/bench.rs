//! The bench reports what it measured.

mod tiny;

use bitnet_inference::{BenchSpec, EngineOptions, InferenceError};
use tiny::TINY;

#[test]
fn report() {
    let engine = TINY.engine(EngineOptions { threads: Some(1), ..EngineOptions::default() });
    let mut calls = 0;
    let spec = BenchSpec { prompt: 40, new: 8, reps: 3 };
    let report = engine
        .bench(spec, &mut |rep| {
            calls += 1;
            rep < 2 // stops after two counted repetitions
        })
        .expect("valid");
    assert_eq!(calls, 3);
    assert_eq!((report.threads, report.prompt_tokens, report.decode_tokens), (1, 40, 8));
    for spread in [report.prompt_speed, report.decode_speed, report.first_token] {
        assert!(
            spread.min > 0.0 && spread.min <= spread.mean && spread.mean <= spread.max && spread.sd >= 0.0,
            "{spread:?}"
        );
    }
    assert!((report.decode_bound - report.read_bandwidth / report.bytes_per_token as f64).abs() < 1e-6);
    assert!(report.load > 0.0 && report.decode_fraction > 0.0);
    let json = report.to_json();
    assert!(json["prompt_tokens_per_second"].is_number() && json["isa"].is_string());
    // nothing stays behind: the whole pool is free again
    assert!(engine.bench(BenchSpec { prompt: 500, new: 12, reps: 1 }, &mut |_| true).is_ok());
    let long = engine.bench(BenchSpec { prompt: 600, new: 8, reps: 1 }, &mut |_| true);
    assert!(matches!(long, Err(InferenceError::ContextFull { tokens: 608, context: 512 })));
    assert!(engine.bench(BenchSpec { prompt: 0, new: 8, reps: 1 }, &mut |_| true).is_err());
}
