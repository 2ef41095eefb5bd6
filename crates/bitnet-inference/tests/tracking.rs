//! A tracked engine computes the same and says where the time went.

mod tiny;

use bitnet_inference::tracking::{Phase, TrackReport, Verb};
use bitnet_inference::{BenchSpec, Engine, EngineOptions, GenerateRequest, Prompt, Sampling, Windows};
use std::time::Instant;
use tiny::{LAYERS, TINY};

fn engine(track: bool) -> Engine {
    TINY.engine(EngineOptions { threads: Some(1), track, chunk: Some(16), ..EngineOptions::default() })
}

fn generate(engine: &Engine, prompt: usize, new: usize) -> Vec<u32> {
    let ids: Vec<u32> = (0..prompt as u32).map(|i| i * 7 % 250).collect();
    let request = GenerateRequest {
        prompt: Prompt::Ids(ids),
        sampling: Sampling::greedy(),
        stop_at_eos: false,
        ..GenerateRequest::new("", new)
    };
    let mut out = Vec::new();
    engine
        .stream(&request, &mut |event| {
            out.push(event.id);
            true
        })
        .expect("valid");
    out
}

fn calls(report: &TrackReport, phase: Phase, verb: Verb) -> u64 {
    report.operations.iter().filter(|o| (o.phase, o.verb) == (phase, verb)).map(|o| o.calls).sum()
}

#[test]
fn the_answer_is_the_same_and_nothing_is_recorded_unasked() {
    let (plain, tracked) = (engine(false), engine(true));
    assert_eq!(generate(&plain, 20, 12), generate(&tracked, 20, 12));
    assert_eq!(plain.logits(&[1, 2, 3]).expect("valid"), tracked.logits(&[1, 2, 3]).expect("valid"));
    assert!(plain.tracker().is_none() && plain.track_report().is_none());
}

#[test]
fn steps_and_calls_are_counted() {
    let engine = engine(true);
    let tokens = generate(&engine, 40, 9).len() as u64;
    let report = engine.track_report().expect("tracked");
    let phase = |phase| report.phases.iter().find(|p| p.phase == phase).expect("there");
    // chunks of 16, 16 and 8; the first token comes with the prompt
    assert_eq!((phase(Phase::Prompt).steps, phase(Phase::Prompt).tokens), (3, 40));
    assert_eq!((phase(Phase::Decode).steps, phase(Phase::Decode).tokens), (tokens - 1, tokens - 1));
    assert_eq!(report.sampling.tokens, tokens);
    let layers = LAYERS as u64;
    assert_eq!(calls(&report, Phase::Prompt, Verb::Attend), 3 * layers);
    assert_eq!(calls(&report, Phase::Decode, Verb::TernaryMatmul), (tokens - 1) * layers, "query, key and value");
    assert_eq!(calls(&report, Phase::Decode, Verb::TernaryAdd), 2 * (tokens - 1) * layers, "output and down");
    assert_eq!(calls(&report, Phase::Decode, Verb::Logits), tokens - 1);
    assert!(report.phases.iter().all(|p| p.phase != Phase::Scoring));
}

#[test]
fn the_parts_sum_to_the_wall_time() {
    let engine = engine(true);
    generate(&engine, 100, 100); // memory is touched
    // on a busy machine a single try may be disturbed between two looks at the clock
    let close = (0..5).any(|_| {
        engine.tracker().expect("tracked").clear();
        let start = Instant::now();
        generate(&engine, 300, 200);
        let wall = start.elapsed().as_secs_f64();
        let report = engine.track_report().expect("tracked");
        let inside = report.phases.iter().all(|phase| phase.operations_seconds <= phase.seconds);
        let operations: f64 = report.operations.iter().map(|o| o.seconds).sum();
        let parts = operations + report.sampling.seconds;
        assert!(inside && report.busy_seconds() <= wall && parts <= wall, "no time is counted twice");
        parts >= 0.95 * wall
    });
    assert!(close, "more than 5 % of the time is in no part");
}

#[test]
fn bytes_of_a_decode_step_are_those_of_the_weights_and_more() {
    let engine = engine(true);
    generate(&engine, 20, 11);
    let report = engine.track_report().expect("tracked");
    let decode = || report.operations.iter().filter(|o| o.phase == Phase::Decode);
    let products = [Verb::TernaryMatmul, Verb::TernaryAdd, Verb::TernaryGated, Verb::Logits];
    let bytes: u64 = decode().filter(|o| products.contains(&o.verb)).map(|o| o.bytes).sum();
    // norms and scales are not in the products, activations are not in the weights: both are small
    let ratio = bytes as f64 / 10.0 / engine.model().bytes_per_token() as f64;
    assert!((0.95..1.35).contains(&ratio), "{ratio}");
    let c = engine.model().config();
    let per_layer = c.hidden * c.hidden * 2 + 2 * c.kv_heads * c.head_dim * c.hidden + 3 * c.hidden * c.ffn;
    let operations: u64 = decode().filter(|o| products[..3].contains(&o.verb)).map(|o| o.operations).sum();
    assert_eq!(operations, 10 * 2 * (c.layers * per_layer) as u64, "two per weight and token");
}

#[test]
fn scoring_and_embeddings_have_a_phase_of_their_own() {
    let engine = engine(true);
    engine.logits(&[1, 2, 3, 4, 5]).expect("valid");
    let ids: Vec<u32> = (0..64).collect();
    engine.perplexity(&ids, Windows { context: 32, stride: 32 }, &mut |_, _| true).expect("valid");
    engine.embed_ids(&[1, 2, 3]).expect("valid");
    let report = engine.track_report().expect("tracked");
    assert_eq!(report.phases.iter().map(|p| (p.phase, p.tokens)).collect::<Vec<_>>(), [(Phase::Scoring, 5 + 64 + 3)]);
    assert!(calls(&report, Phase::Scoring, Verb::Read) > 0 && report.sampling.tokens == 0);
}

#[test]
fn sessions_on_several_threads_share_a_record() {
    let engine = engine(true);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (generate(&engine, 10, 10), engine.logits(&[1; 20]).expect("valid")));
        }
    });
    let report = engine.track_report().expect("tracked");
    let tokens: u64 = report.phases.iter().map(|p| p.tokens).sum();
    // prompts may be found in the pages of another session, apart from their last token
    assert!((3 * (1 + 9 + 20)..=3 * (10 + 9 + 20)).contains(&tokens), "{tokens}");
    assert!(report.phases.iter().all(|p| p.operations_seconds <= p.seconds));
}

#[test]
fn a_bench_profiles_what_counts() {
    let spec = BenchSpec { prompt: 16, new: 5, reps: 2, ..BenchSpec::default() };
    let options = EngineOptions { threads: Some(1), track: true, ..EngineOptions::default() };
    let engine = TINY.engine(spec.room(options));
    engine.bench(spec, &mut |_| true).expect("valid");
    let report = engine.track_report().expect("tracked");
    let tokens: Vec<_> = report.phases.iter().map(|p| p.tokens).collect();
    assert_eq!(tokens, [2 * 16, 2 * 4], "the repetition that does not count is not there");
    assert_eq!(report.sampling.tokens, 2 * 5);
}

#[test]
fn percentiles_are_ordered_and_inside_the_total() {
    let engine = engine(true);
    generate(&engine, 8, 60);
    let report = engine.track_report().expect("tracked");
    let decode = report.phases.iter().find(|p| p.phase == Phase::Decode).expect("there");
    let p = decode.step_seconds;
    assert!(0.0 < p.p50 && p.p50 <= p.p95 && p.p95 <= p.p99 && p.p99 <= decode.seconds);
    assert!(report.operations.windows(2).all(|pair| pair[0].seconds >= pair[1].seconds), "longest first");
    assert!(report.load_seconds > 0.0 && report.wall_seconds >= report.busy_seconds());
}
