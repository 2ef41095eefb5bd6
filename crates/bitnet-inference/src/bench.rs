//! Speed of an engine, and how near it comes to what memory allows.

use crate::engine::Run;
use crate::sampler::{Random, Sampler};
use crate::sequence::Sequence;
use crate::tracking::{ProcessUse, percentile};
use crate::{Engine, EngineOptions, InferenceError, Sampling};
use bitnet_kernels::{PAGE_LEN, Wanted};
use std::time::Instant;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchSpec {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens to generate after it.
    pub new: usize,
    /// Repetitions, after one that is not counted.
    pub reps: usize,
    /// Sequences that decode together. Their prompts are read one after the other.
    pub batch: usize,
    /// Tokens that every sequence has in the cache before its prompt.
    pub depth: usize,
}

impl Default for BenchSpec {
    fn default() -> Self {
        BenchSpec { prompt: 128, new: 64, reps: 5, batch: 1, depth: 0 }
    }
}

impl BenchSpec {
    /// Positions of a sequence.
    pub fn positions(self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.new)
    }

    /// The options with as much room as this measurement needs.
    pub fn room(self, options: EngineOptions) -> EngineOptions {
        let pages = self.batch.saturating_mul(self.positions().div_ceil(PAGE_LEN));
        EngineOptions {
            context: Some(self.positions()),
            sequences: Some(self.batch),
            kv_pages: Some(pages.saturating_add(1)), // one to copy a shared page to
            ..options
        }
    }

    fn check(self, engine: &Engine) -> Result<(), InferenceError> {
        let BenchSpec { prompt, new, reps, batch, .. } = self;
        let counts = [("prompt", prompt), ("new tokens", new), ("repetitions", reps), ("batch", batch)];
        if let Some((option, _)) = counts.into_iter().find(|&(_, count)| count == 0) {
            return Err(InferenceError::Option { option, reason: "must be at least 1".into() });
        }
        let (tokens, context) = (self.positions(), engine.context());
        if tokens > context {
            return Err(InferenceError::ContextFull { tokens, context });
        }
        let most = engine.shape().max_logits;
        if batch > most {
            let reason = format!("{batch} sequences are more than the {most} that the engine was opened for");
            return Err(InferenceError::Option { option: "batch", reason });
        }
        Ok(())
    }
}

/// Repeated measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the values (`n − 1` in the divisor); 0 for a single one.
    pub sd: f64,
    /// Smallest value.
    pub min: f64,
    /// The value in the middle, or the mean of the two there.
    pub median: f64,
    /// Largest value.
    pub max: f64,
    /// The values, in the order in which they were measured.
    pub values: Vec<f64>,
}

impl Spread {
    /// NaN everywhere when there are no values.
    pub fn of(values: Vec<f64>) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        Spread {
            mean,
            sd: if values.len() == 1 { 0.0 } else { (squares / (n - 1.0)).sqrt() },
            min: at(0),
            median: (at(values.len() / 2) + at(values.len().saturating_sub(1) / 2)) / 2.0,
            max: at(values.len().saturating_sub(1)),
            values,
        }
    }
}

/// Result of a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchReport {
    /// Threads used.
    pub threads: usize,
    /// Instruction-set tier used.
    pub isa: String,
    /// Sequences that decoded together.
    pub batch: usize,
    /// Tokens that were cached before the prompt.
    pub depth: usize,
    /// Tokens of the prompt of a sequence.
    pub prompt_tokens: usize,
    /// Tokens generated per sequence, the first one included.
    pub decode_tokens: usize,
    /// Prompt tokens per second.
    pub prompt_speed: Spread,
    /// Generated tokens per second of all sequences together, each after its first.
    pub decode_speed: Spread,
    /// Seconds from the beginning of a prompt to its first token.
    pub first_token: Spread,
    /// Seconds from one generated token to the next, of all repetitions.
    pub token_seconds: Spread,
    /// Seconds of a whole repetition: prompts and answers.
    pub request_seconds: Spread,
    /// Prompt and generated tokens per second of a whole repetition.
    pub total_speed: Spread,
    /// Processor time over time, of the repetitions that count: 2 is two threads at work. `None` where the system does not say.
    pub cpu_share: Option<f64>,
    /// Seconds to open the model.
    pub load: f64,
    /// Largest resident memory of the process so far, in bytes; see [`peak_memory`].
    pub peak_memory: Option<u64>,
    /// Bytes read for one generated token, on average: weights (the output head not always as a whole; sequences that decode
    /// together share them) and cached keys and values.
    pub bytes_per_token: u64,
    /// Keys and values among them.
    pub kv_bytes_per_token: u64,
    /// Bytes that the engine was planned to need.
    pub planned_memory: u64,
    /// Bytes of weights that lie in a file map; all others lie in memory of the process.
    pub mapped_weights: u64,
    /// Bytes per second at which the same threads read the weights when they do nothing else with them
    /// ([`weight_bandwidth`](bitnet_kernels::weight_bandwidth)).
    pub read_bandwidth: f64,
    /// `read_bandwidth / bytes_per_token`: tokens per second that no engine can exceed.
    pub decode_bound: f64,
    /// Mean decode speed over `decode_bound`.
    pub decode_fraction: f64,
}

impl BenchReport {
    /// The report under the names that scripts rely on.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "threads": self.threads,
            "isa": self.isa,
            "batch": self.batch,
            "depth": self.depth,
            "prompt_tokens": self.prompt_tokens,
            "decode_tokens": self.decode_tokens,
            "prompt_tokens_per_second": self.prompt_speed.mean,
            "prompt_tokens_per_second_sd": self.prompt_speed.sd,
            "decode_tokens_per_second": self.decode_speed.mean,
            "decode_tokens_per_second_sd": self.decode_speed.sd,
            "time_to_first_token_seconds": self.first_token.mean,
            "time_to_first_token_seconds_sd": self.first_token.sd,
            "tokens_per_second": self.total_speed.mean,
            "tokens_per_second_sd": self.total_speed.sd,
            "token_latency_seconds": latency(&self.token_seconds),
            "request_latency_seconds": latency(&self.request_seconds),
            "cpu_percent": self.cpu_share.map(|share| share * 100.0),
            "values": {
                "prompt_tokens_per_second": self.prompt_speed.values,
                "decode_tokens_per_second": self.decode_speed.values,
                "tokens_per_second": self.total_speed.values,
                "time_to_first_token_seconds": self.first_token.values,
                "request_seconds": self.request_seconds.values,
            },
            "load_seconds": self.load,
            "peak_resident_bytes": self.peak_memory,
            "planned_bytes": self.planned_memory,
            "mapped_weight_bytes": self.mapped_weights,
            "bytes_per_decoded_token": self.bytes_per_token,
            "kv_bytes_per_decoded_token": self.kv_bytes_per_token,
            "read_bandwidth_bytes_per_second": self.read_bandwidth,
            "decode_bound_tokens_per_second": self.decode_bound,
            "decode_bandwidth_fraction": self.decode_fraction,
        })
    }
}

/// Percentiles under the names that scripts rely on; null when there are no values.
fn latency(spread: &Spread) -> serde_json::Value {
    let mut ascending = spread.values.clone();
    ascending.sort_by(f64::total_cmp);
    let at = |percent| percentile(&ascending, percent);
    serde_json::json!({"p50": at(50.0), "p95": at(95.0), "p99": at(99.0), "mean": spread.mean, "sd": spread.sd})
}

impl Engine {
    /// Measures prompt and decode speed with random prompts (no two alike, so nothing comes from the cache) and greedy
    /// tokens, on an engine that has the [`room`](BenchSpec::room). `progress` hears the repetitions done; when it returns
    /// false, those done so far are reported.
    ///
    /// # Errors
    /// Zero tokens, sequences or repetitions, more tokens or sequences than the engine was opened for, or what generating
    /// fails with.
    pub fn bench(
        &self,
        spec: BenchSpec,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<BenchReport, InferenceError> {
        spec.check(self)?;
        let BenchSpec { prompt, new, reps, batch, depth } = spec;
        let decoded = (batch * (new - 1)) as f64;
        let mut runners = Runners::new(self, spec)?;
        let (mut prompt_speeds, mut decode_speeds, mut first_tokens) = (Vec::new(), Vec::new(), Vec::new());
        let (mut token_seconds, mut request_seconds, mut total_speeds) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = Vec::new();
        let (mut cpu_before, mut counted) = (None, Instant::now());
        for rep in 0..=reps {
            let time = runners.measure(spec)?;
            if rep == 0 {
                if let Some(tracker) = self.tracker() {
                    tracker.clear(); // this repetition does not count
                }
                (cpu_before, counted) = (ProcessUse::now().cpu_seconds, Instant::now());
            } else {
                let seconds = time.prompts + time.decode;
                request_seconds.push(seconds);
                total_speeds.push((batch * (prompt + new)) as f64 / seconds);
                token_seconds.extend(time.tokens);
                prompt_speeds.push((batch * prompt) as f64 / time.prompts);
                first_tokens.push(time.prompts / batch as f64);
                if new > 1 {
                    decode_speeds.push(decoded / time.decode);
                    bytes.push(time.bytes as f64 / decoded);
                }
            }
            if !progress(rep) && rep > 0 {
                break;
            }
        }
        let counted = counted.elapsed().as_secs_f64();
        let cpu_seconds = ProcessUse::now().cpu_seconds.zip(cpu_before).map(|(after, before)| after - before);
        drop(runners);
        let cpu = self.model().backend();
        let weight_bytes = match new {
            1 => self.model().bytes_per_token(),
            _ => Spread::of(bytes).mean as u64,
        };
        let kv_bytes_per_token = self.kv_bytes(depth + prompt + new / 2);
        let bytes_per_token = weight_bytes + kv_bytes_per_token;
        let plan = self.plan();
        let (ternary, dense) = self.model().matrices();
        let read_bandwidth = bitnet_kernels::weight_bandwidth(cpu, &ternary, &dense);
        let decode_speed = Spread::of(decode_speeds);
        let decode_bound = read_bandwidth / bytes_per_token as f64;
        Ok(BenchReport {
            threads: cpu.threads(),
            isa: cpu.isa().to_string(),
            batch,
            depth,
            prompt_tokens: prompt,
            decode_tokens: new,
            prompt_speed: Spread::of(prompt_speeds),
            decode_fraction: decode_speed.mean / decode_bound,
            decode_speed,
            first_token: Spread::of(first_tokens),
            token_seconds: Spread::of(token_seconds),
            request_seconds: Spread::of(request_seconds),
            total_speed: Spread::of(total_speeds),
            cpu_share: cpu_seconds.map(|seconds| seconds / counted),
            load: self.load_time().as_secs_f64(),
            peak_memory: peak_memory(),
            planned_memory: plan.total(),
            mapped_weights: plan.mapped_weights,
            bytes_per_token,
            kv_bytes_per_token,
            read_bandwidth,
            decode_bound,
        })
    }

    /// Bytes of keys and values that a token at `position` attends to.
    fn kv_bytes(&self, position: usize) -> u64 {
        let config = self.model().config();
        let places = self.shape().kv_pages * PAGE_LEN * config.layers;
        let attended = |layer: usize| match &config.sliding {
            Some(sliding) if config.slides(layer) => position.min(sliding.window),
            _ => position,
        };
        let attended: usize = (0..config.layers).map(attended).sum();
        (self.plan().kv as f64 / places as f64 * attended as f64) as u64
    }
}

/// Sequences that do the same work again and again.
struct Runners<'e> {
    engine: &'e Engine,
    random: Random,
    sampler: Sampler,
    sequences: Vec<Sequence>,
    /// `[sequences, vocab]`.
    logits: Vec<f32>,
}

/// Of one repetition.
struct Times {
    /// Seconds for all prompts, with the first token of each.
    prompts: f64,
    /// Seconds for the tokens after these.
    decode: f64,
    /// Seconds of each of these steps.
    tokens: Vec<f64>,
    /// Bytes of weights read for the tokens after the first.
    bytes: u64,
}

impl<'e> Runners<'e> {
    /// Sequences with `depth` random tokens in the cache.
    fn new(engine: &'e Engine, spec: BenchSpec) -> Result<Self, InferenceError> {
        let vocab = engine.model().config().vocab;
        let mut runners = Runners {
            engine,
            random: Random::new(0),
            sampler: Sampler::new(vocab, &Sampling::greedy())?,
            sequences: (0..spec.batch).map(|_| Sequence::new(spec.positions())).collect(),
            logits: vec![0.0; spec.batch * vocab],
        };
        runners.push_random(spec.depth);
        for i in 0..spec.batch {
            runners.read(i)?;
        }
        Ok(runners)
    }

    /// Appends random tokens to every sequence.
    fn push_random(&mut self, tokens: usize) {
        let vocab = self.engine.model().config().vocab as f64;
        for sequence in &mut self.sequences {
            (0..tokens).for_each(|_| sequence.push((self.random.uniform() * vocab) as u32));
        }
    }

    /// Computes all that a sequence lacks; its logits stand in the first row then. False when some of them are missing.
    fn read(&mut self, index: usize) -> Result<bool, InferenceError> {
        let Runners { engine, sampler, sequences, logits, .. } = self;
        let sequence = &mut sequences[index];
        let mut complete = true;
        while sequence.computed() < sequence.tokens().len() {
            complete = engine.step(sequence, sampler.wanted(sequence.tokens()), logits)?.complete;
        }
        Ok(complete)
    }

    /// Reads a prompt in every sequence, then decodes with all of them together, and takes both back.
    fn measure(&mut self, spec: BenchSpec) -> Result<Times, InferenceError> {
        self.push_random(spec.prompt);
        let start = Instant::now();
        for i in 0..spec.batch {
            let complete = self.read(i)?;
            self.choose(i, 0, complete)?;
        }
        let prompts = start.elapsed().as_secs_f64();
        let mut tokens = Vec::with_capacity(spec.new);
        let (start, mut bytes) = (Instant::now(), 0);
        let mut last = start;
        for _ in 1..spec.new {
            bytes += self.step()?;
            let now = Instant::now();
            tokens.push((now - last).as_secs_f64());
            last = now;
        }
        let decode = (last - start).as_secs_f64();
        self.engine
            .with_pool(|pool| self.sequences.iter_mut().for_each(|sequence| sequence.truncate(spec.depth, pool)));
        Ok(Times { prompts, decode, tokens, bytes })
    }

    /// One more token for every sequence. Returns the bytes of weights read.
    fn step(&mut self) -> Result<u64, InferenceError> {
        let Runners { engine, sampler, sequences, logits, .. } = self;
        let tops = sampler.wanted(&[]).map(|top| vec![top; sequences.len()]); // greedy: the history does not matter
        let mut runs: Vec<_> =
            sequences.iter_mut().map(|sequence| Run { end: sequence.tokens().len(), sequence, logits: 1 }).collect();
        let computed = engine.step_together(&mut runs, tops.as_deref().map_or(Wanted::All, Wanted::Top), logits)?;
        (0..self.sequences.len()).try_for_each(|i| self.choose(i, i, computed.complete))?;
        Ok(computed.bytes)
    }

    /// Appends the best token of a row of logits.
    fn choose(&mut self, index: usize, row: usize, complete: bool) -> Result<(), InferenceError> {
        let sequence = &mut self.sequences[index];
        let vocab = self.engine.model().config().vocab;
        let logits = &self.logits[row * vocab..(row + 1) * vocab];
        let begin = self.engine.tracker().map(|tracker| (tracker, Instant::now()));
        sequence.push(self.sampler.sample_computed(logits, complete, sequence.tokens())?);
        if let Some((tracker, begin)) = begin {
            tracker.sampled(begin.elapsed());
        }
        Ok(())
    }
}

impl Drop for Runners<'_> {
    fn drop(&mut self) {
        self.engine.with_pool(|pool| self.sequences.iter_mut().for_each(|sequence| sequence.truncate(0, pool)));
    }
}

/// Largest resident memory of this process so far, in bytes (`VmHWM`). `None` where the system does not say: only
/// Linux does without a system call that this crate, which is free of `unsafe`, cannot make.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread() {
        let values = vec![3.0, 1.0, 2.0];
        assert_eq!(Spread::of(values.clone()), Spread { mean: 2.0, sd: 1.0, min: 1.0, median: 2.0, max: 3.0, values });
        assert_eq!(Spread::of(vec![4.0]).sd, 0.0);
        assert_eq!(Spread::of(vec![1.0, 9.0, 2.0, 4.0]).median, 3.0);
        assert!(Spread::of(vec![]).mean.is_nan() && Spread::of(vec![]).median.is_nan());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_memory_grows_with_use() {
        let before = peak_memory().expect("Linux says");
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = peak_memory().expect("Linux says");
        assert!(after >= (64 << 20) && after >= before, "{before} {after} {}", block.len());
    }
}
