//! What is chosen from selected logits is what is chosen from all of them.

mod tiny;

use bitnet_inference::sampler::{Random, Sampler};
use bitnet_inference::{BenchSpec, EngineOptions, Sampling};
use bitnet_kernels::{Backend, Cpu, CpuOptions, DenseFormat, DenseWeights, NormWeight, Top, Wanted};
use bitnet_models::LoadOptions;
use tiny::{TINY, greedy, prompt};

/// Settings of all kinds, most of which need few logits.
fn sampling(random: &mut Random) -> Sampling {
    let mut below = |n: u64| random.bits() % n;
    let base = match below(4) {
        0 => Sampling::greedy(),
        1 => Sampling { top_k: 1 + below(40) as usize, top_p: 0.5 + 0.1 * below(6) as f32, ..Sampling::default() },
        2 => Sampling { top_k: 0, top_p: 1.0, min_p: [0.5, 0.05, 1.0][below(3) as usize], ..Sampling::default() },
        _ => Sampling { top_k: 20, typical_p: 0.9, min_p: 0.02, epsilon_cutoff: 1e-3, ..Sampling::default() },
    };
    let chance = |yes: bool, value: f32, no: f32| if yes { value } else { no };
    Sampling {
        logit_bias: match below(4) {
            0 => vec![(below(800) as u32, 2.0), (below(800) as u32, f32::NEG_INFINITY), (below(800) as u32, -1.0)],
            _ => Vec::new(),
        },
        repetition_penalty: chance(below(3) == 0, 1.3, 1.0),
        frequency_penalty: chance(below(4) == 0, 0.2, 0.0),
        presence_penalty: chance(below(4) == 0, -0.3, 0.0), // a reward: tokens come up from below
        dry_multiplier: chance(below(4) == 0, 0.8, 0.0),
        no_repeat_ngram: if below(4) == 0 { 2 } else { 0 },
        xtc_probability: chance(below(4) == 0, 0.5, 0.0),
        seed: below(1000),
        ..base
    }
}

fn wanted<'a>(top: &'a Option<Top<'a>>) -> Wanted<'a> {
    top.as_ref().map_or(Wanted::All, |top| Wanted::Top(std::slice::from_ref(top)))
}

#[test]
fn ten_thousand_choices() {
    let (vocab, cols) = (800, 256);
    let mut random = Random::new(5);
    let mut normal = |scale: f32| (0..4).map(|_| random.uniform() as f32 - 0.5).sum::<f32>() * scale;
    let mut rows: Vec<Vec<f32>> = (0..vocab).map(|_| (0..cols).map(|_| normal(0.2)).collect()).collect();
    for i in (0..vocab - 7).step_by(5) {
        rows[i + 7] = rows[i].clone(); // ties
    }
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    let weights = DenseWeights { rows: vocab, cols, format: DenseFormat::F32, bytes: bytes.into() };
    let cpu = Cpu::new(CpuOptions { threads: Some(2), isa: None }).expect("a CPU");
    let head = cpu.head(weights).expect("a head");
    let norm = NormWeight { weight: vec![1.0; cols], eps: 1e-6 };
    let mut x = cpu.rows(1, cols).expect("memory");
    let (mut full, mut selected) = (cpu.rows(1, vocab).expect("memory"), cpu.rows(1, vocab).expect("memory"));
    x.set_len(1);

    let mut selections = 0;
    for _ in 0..500 {
        let sampling = sampling(&mut random);
        let mut a = Sampler::new(vocab, &sampling).expect("valid");
        let mut b = Sampler::new(vocab, &sampling).expect("valid");
        let mut history = vec![3, 1, 4];
        for _ in 0..20 {
            let near = (random.bits() % vocab as u64) as usize;
            for (x, w) in x.row_mut(0).iter_mut().zip(&rows[near]) {
                *x = w * 0.2 + (random.uniform() - 0.5) as f32;
            }
            cpu.logits(&x, &[0], &norm, &head, Wanted::All, &mut full);
            let computed = cpu.logits(&x, &[0], &norm, &head, wanted(&b.wanted(&history)), &mut selected);
            selections += usize::from(!computed.complete);
            let expected = a.sample(full.row(0), &history).expect("a token");
            let chosen = b.sample_computed(selected.row(0), computed.complete, &history).expect("a token");
            assert_eq!(chosen, expected, "{sampling:?} after {history:?}");
            history.push(chosen);
        }
    }
    assert!(selections > 5_000, "{selections} selections");
}

/// Everything that needs the sum over the vocabulary takes all logits.
#[test]
fn all_logits_where_the_sum_is_needed() {
    let wants_all = |sampling: Sampling| {
        let mut sampler = Sampler::new(100, &sampling).expect("valid");
        sampler.wanted(&[1, 2, 3]).is_none()
    };
    let wide = Sampling { top_k: 0, top_p: 1.0, ..Sampling::default() };
    assert!(wants_all(wide.clone()));
    assert!(wants_all(Sampling { top_p: 0.9, min_p: 0.1, ..wide.clone() }));
    assert!(wants_all(Sampling { typical_p: 0.9, min_p: 0.1, ..wide.clone() }));
    assert!(wants_all(Sampling { epsilon_cutoff: 0.1, ..wide.clone() }));
    assert!(!wants_all(Sampling { min_p: 0.1, ..wide }));
    assert!(!wants_all(Sampling::default()));
    assert!(!wants_all(Sampling::greedy()));
}

/// Through the engine: the same tokens, from fewer bytes.
#[test]
fn an_engine_reads_less_and_says_the_same() {
    let engine = |select_head| {
        let load = LoadOptions { select_head: Some(select_head), ..LoadOptions::default() };
        TINY.engine(EngineOptions { load, threads: Some(2), ..EngineOptions::default() })
    };
    let (selecting, full) = (engine(true), engine(false));
    assert!(selecting.plan().owned_weights > full.plan().owned_weights);
    let mut random = Random::new(9);
    for i in 0..40 {
        let request = tiny_request(sampling(&mut random), i);
        let tokens = |engine: &bitnet_inference::Engine| -> Vec<u32> {
            let mut session = engine.session();
            let generation = session.generate(&request).expect("valid");
            generation.map(|event| event.expect("a token").id).collect()
        };
        assert_eq!(tokens(&selecting), tokens(&full), "{:?}", request.sampling);
    }
    let bytes = |engine: &bitnet_inference::Engine| {
        let report = engine
            .bench(BenchSpec { prompt: 8, new: 32, reps: 2, ..BenchSpec::default() }, &mut |_| true)
            .expect("valid");
        report.bytes_per_token - report.kv_bytes_per_token
    };
    assert_eq!(bytes(&full), full.model().bytes_per_token());
    assert!(bytes(&selecting) < bytes(&full), "{} of {}", bytes(&selecting), bytes(&full));
}

fn tiny_request(mut sampling: Sampling, seed: u32) -> bitnet_inference::GenerateRequest {
    sampling.logit_bias.iter_mut().for_each(|(id, _)| *id %= tiny::VOCAB as u32);
    sampling.top_k = sampling.top_k.min(16);
    bitnet_inference::GenerateRequest { sampling, ..greedy(&prompt(20, seed), 30) }
}
