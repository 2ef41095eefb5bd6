//! Speed of an engine, and how near it comes to what memory allows.

use crate::sampler::{Random, Sampler};
use crate::sequence::Sequence;
use crate::{Engine, InferenceError, Sampling};
use bitnet_kernels::Computed;
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
}

/// Repeated measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the values (`n − 1` in the divisor); 0 for a single one.
    pub sd: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Spread {
    /// NaN everywhere when there are no values.
    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        Spread {
            mean,
            sd: if values.len() == 1 { 0.0 } else { (squares / (n - 1.0)).sqrt() },
            min: values.iter().copied().fold(f64::NAN, f64::min),
            max: values.iter().copied().fold(f64::NAN, f64::max),
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
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the first one included.
    pub decode_tokens: usize,
    /// Prompt tokens per second.
    pub prompt_speed: Spread,
    /// Generated tokens per second, each after the first.
    pub decode_speed: Spread,
    /// Seconds from an opened model to the first token.
    pub first_token: Spread,
    /// Seconds to open the model.
    pub load: f64,
    /// Largest resident memory of the process so far, in bytes; see [`peak_memory`].
    pub peak_memory: Option<u64>,
    /// Bytes of weights read for one generated token, on average: the output head is not always read as a whole.
    pub bytes_per_token: u64,
    /// Bytes per second that the same number of threads can read from memory.
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
            "prompt_tokens": self.prompt_tokens,
            "decode_tokens": self.decode_tokens,
            "prompt_tokens_per_second": self.prompt_speed.mean,
            "prompt_tokens_per_second_sd": self.prompt_speed.sd,
            "decode_tokens_per_second": self.decode_speed.mean,
            "decode_tokens_per_second_sd": self.decode_speed.sd,
            "time_to_first_token_seconds": self.first_token.mean,
            "time_to_first_token_seconds_sd": self.first_token.sd,
            "load_seconds": self.load,
            "peak_resident_bytes": self.peak_memory,
            "bytes_per_decoded_token": self.bytes_per_token,
            "read_bandwidth_bytes_per_second": self.read_bandwidth,
            "decode_bound_tokens_per_second": self.decode_bound,
            "decode_bandwidth_fraction": self.decode_fraction,
        })
    }
}

impl Engine {
    /// Measures prompt and decode speed with random prompts (no two alike, so nothing comes from the cache) and greedy
    /// tokens. `progress` hears the repetitions done; when it returns false, those done so far are reported.
    ///
    /// # Errors
    /// Zero tokens or repetitions, more tokens than the context, or what generating fails with.
    pub fn bench(
        &self,
        spec: BenchSpec,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<BenchReport, InferenceError> {
        let BenchSpec { prompt, new, reps } = spec;
        for (option, value) in [("prompt", prompt), ("new tokens", new), ("repetitions", reps)] {
            if value == 0 {
                return Err(InferenceError::Option { option, reason: "must be at least 1".into() });
            }
        }
        if prompt.saturating_add(new) > self.context() {
            let tokens = prompt.saturating_add(new);
            return Err(InferenceError::ContextFull { tokens, context: self.context() });
        }
        let mut random = Random::new(0);
        let (mut prompt_speeds, mut decode_speeds, mut first_tokens) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = Vec::new();
        for rep in 0..=reps {
            let (read, decoded, bytes_read) = self.measure(&mut random, prompt, new)?;
            if rep > 0 {
                prompt_speeds.push(prompt as f64 / read);
                first_tokens.push(read);
                if new > 1 {
                    decode_speeds.push((new - 1) as f64 / decoded);
                    bytes.push(bytes_read as f64 / (new - 1) as f64);
                }
            }
            if !progress(rep) && rep > 0 {
                break;
            }
        }
        let cpu = self.model().backend();
        let bytes_per_token = match new {
            1 => self.model().bytes_per_token(),
            _ => Spread::of(&bytes).mean as u64,
        };
        let peak_memory = peak_memory(); // before the bandwidth is measured, which takes much memory
        let read_bandwidth = bitnet_kernels::read_bandwidth(cpu.threads());
        let decode_speed = Spread::of(&decode_speeds);
        let decode_bound = read_bandwidth / bytes_per_token as f64;
        Ok(BenchReport {
            threads: cpu.threads(),
            isa: cpu.isa().to_string(),
            prompt_tokens: prompt,
            decode_tokens: new,
            prompt_speed: Spread::of(&prompt_speeds),
            decode_speed,
            first_token: Spread::of(&first_tokens),
            load: self.load_time().as_secs_f64(),
            peak_memory,
            bytes_per_token,
            read_bandwidth,
            decode_bound,
            decode_fraction: decode_speed.mean / decode_bound,
        })
    }

    /// Seconds to the first token of a random prompt; and seconds and bytes of weights read for the `new - 1` tokens after it.
    fn measure(&self, random: &mut Random, prompt: usize, new: usize) -> Result<(f64, f64, u64), InferenceError> {
        let vocab = self.model().config().vocab;
        let mut sampler = Sampler::new(vocab, &Sampling::greedy())?;
        let mut logits = vec![0.0; vocab];
        let mut sequence = Sequence::new(self.context());
        (0..prompt).for_each(|_| sequence.push((random.uniform() * vocab as f64) as u32));
        let mut next = |sequence: &mut Sequence| {
            let mut computed = Computed { complete: true, bytes: 0 };
            while sequence.computed() < sequence.tokens().len() {
                computed = self.step(sequence, sampler.wanted(sequence.tokens()), &mut logits)?;
            }
            sequence.push(sampler.sample_computed(&logits, computed.complete, sequence.tokens())?);
            Ok(computed.bytes)
        };
        let start = Instant::now();
        let result = next(&mut sequence).and_then(|_| {
            let read = start.elapsed();
            let start = Instant::now();
            let bytes = (1..new).try_fold(0, |bytes, _| Ok::<_, InferenceError>(bytes + next(&mut sequence)?))?;
            Ok((read.as_secs_f64(), start.elapsed().as_secs_f64(), bytes))
        });
        self.with_pool(|pool| sequence.truncate(0, pool));
        result
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
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { mean: 2.0, sd: 1.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0]), Spread { mean: 4.0, sd: 0.0, min: 4.0, max: 4.0 });
        assert!(Spread::of(&[]).mean.is_nan());
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
