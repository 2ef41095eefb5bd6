//! Receipts: what a run computed, in a form that any machine can compute again.
//!
//! Results are the same bits on every machine, so a receipt needs no tolerance: the files' digests, the fingerprint of the logits and the
//! greedy tokens are equal, or something is broken.

use super::{Hashed, hash_files};
use crate::console::Console;
use crate::machine;
use crate::model_args::{ModelArgs, engine_of};
use crate::whole_file::whole_file;
use anyhow::{Context, bail};
use bitnet::inference::tracking::TrackReport;
use bitnet::kernels::{Isa, self_test};
use bitnet::{Checkpoint, Engine, EngineOptions, GenerateRequest, KvFormat, Prompt, Sampling};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const SCHEMA: &str = "bitnet-receipt/1";
/// No receipt is longer.
const LONGEST: u64 = 1 << 20;
/// Tokens of the canary that decodes: as many from the fixed prompt, then as many greedy ones.
const CANARY: usize = 16;
/// Tiers other than the one in use compute models of at most this many bytes per token: the scalar oracle takes seconds for them.
const EVERY_TIER: u64 = 32 << 20;

/// What was computed, from what, and with what.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receipt {
    schema: String,
    /// Version of this program.
    bitnet: String,
    /// `null`: the embedded model.
    model: Option<PathBuf>,
    /// LoRA side-car beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora: Option<PathBuf>,
    /// Of the model, then of the side-car.
    files: Vec<Hashed>,
    /// Overrides of how weights are read.
    load_options: Vec<String>,
    kv_format: String,
    threads: usize,
    machine: Machine,
    prompt_ids: Vec<u32>,
    /// FNV-1a of the logit bits for these ids (embedding models: of the vector).
    pub(super) fingerprint: String,
    /// Greedy tokens, one step each, after the beginning of these ids; none from embedding models.
    greedy_ids: Vec<u32>,
    /// The tier in use first.
    tiers: Vec<Tier>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    os: String,
    arch: String,
    processor: Option<String>,
}

/// What an instruction-set tier did.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Tier {
    isa: String,
    /// `passed`, or what is wrong.
    self_test: String,
    /// `null`: this tier computed nothing but its self-test, because the model is large.
    fingerprint: Option<String>,
    /// Calls, operations and bytes by verb.
    verbs: BTreeMap<String, Count>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Count {
    calls: u64,
    /// Additions and multiplications of matrix products and attention.
    operations: u64,
    bytes: u64,
}

/// Computes everything that a receipt says.
pub(super) fn make(
    checkpoint: &Checkpoint,
    args: &ModelArgs,
    files: Vec<Hashed>,
    console: &Console,
) -> anyhow::Result<Receipt> {
    let engine = engine_of(checkpoint, &args.files.path, EngineOptions { track: true, ..args.options() }, console)?;
    let (fingerprint, greedy_ids) = (engine.fingerprint()?, greedy(&engine)?);
    let used = engine.model().backend().isa();
    let mut tiers = vec![Tier::of(used, Some((fingerprint.clone(), engine.track_report())))];
    for isa in Isa::available().into_iter().filter(|&isa| isa != used) {
        let computed = if self_test(isa).is_ok() && engine.model().bytes_per_token() <= EVERY_TIER {
            let options = EngineOptions { track: true, isa: Some(isa.to_string()), ..args.options() };
            let engine = Engine::from_checkpoint(checkpoint, options)?;
            let computed = engine.fingerprint()?;
            if greedy(&engine)? != greedy_ids || computed != fingerprint {
                bail!("{isa} computes other bits than {used}: {computed} instead of {fingerprint}");
            }
            Some((computed, engine.track_report()))
        } else {
            None
        };
        tiers.push(Tier::of(isa, computed));
    }
    Ok(Receipt {
        schema: SCHEMA.into(),
        bitnet: env!("CARGO_PKG_VERSION").into(),
        model: args.files.path.model.clone(),
        lora: args.files.lora.clone(),
        files,
        load_options: args.files.load.given(),
        kv_format: args.compute.kv.format.to_string(),
        threads: engine.model().backend().threads(),
        machine: Machine {
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            processor: machine::processor(),
        },
        prompt_ids: engine.fingerprint_ids(),
        fingerprint,
        greedy_ids,
        tiers,
    })
}

/// The canary of decoding.
fn greedy(engine: &Engine) -> anyhow::Result<Vec<u32>> {
    let config = engine.model().config();
    let canary = CANARY.min(config.context / 2);
    if config.pooling.is_some() || canary == 0 {
        return Ok(Vec::new());
    }
    let mut ids = engine.fingerprint_ids();
    ids.truncate(canary);
    let request = GenerateRequest {
        prompt: Prompt::Ids(ids),
        sampling: Sampling::greedy(),
        stop_at_eos: false,
        ..GenerateRequest::new("", canary)
    };
    let mut tokens = Vec::new();
    engine.stream(&request, &mut |event| {
        tokens.push(event.id);
        true
    })?;
    Ok(tokens)
}

impl Tier {
    fn of(isa: Isa, computed: Option<(String, Option<TrackReport>)>) -> Self {
        let mut verbs: BTreeMap<String, Count> = BTreeMap::new();
        let (fingerprint, report) = computed.unzip();
        for operation in report.flatten().into_iter().flat_map(|report| report.operations) {
            let count = verbs.entry(operation.verb.name().into()).or_default();
            count.calls += operation.calls;
            count.operations += operation.operations;
            count.bytes += operation.bytes;
        }
        let self_test = self_test(isa).map_or_else(|error| error.to_string(), |()| "passed".into());
        Tier { isa: isa.to_string(), self_test, fingerprint, verbs }
    }
}

impl Receipt {
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        whole_file(path, |file| Ok(file.write_all(text.as_bytes())?)).with_context(|| path.display().to_string())
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let mut text = String::new();
        std::fs::File::open(path).with_context(name)?.take(LONGEST).read_to_string(&mut text).with_context(name)?;
        let receipt: Receipt =
            serde_json::from_str(&text).with_context(|| format!("{} is not a receipt of bitnet verify", name()))?;
        if receipt.schema != SCHEMA {
            bail!("{}: {:?} receipts are not known, only {SCHEMA:?}", name(), receipt.schema);
        }
        Ok(receipt)
    }

    /// What `other`, made anew, says differently.
    fn differences(&self, other: &Receipt) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, then: String, now: String| {
            if then != now {
                found.push(format!("{what}: {then} in the receipt, {now} here"));
            }
        };
        compare("prompt", format!("{:?}", self.prompt_ids), format!("{:?}", other.prompt_ids));
        compare("fingerprint", self.fingerprint.clone(), other.fingerprint.clone());
        compare("greedy tokens", format!("{:?}", self.greedy_ids), format!("{:?}", other.greedy_ids));
        for tier in self.tiers.iter().chain(&other.tiers) {
            if let Some(fingerprint) = &tier.fingerprint {
                compare(&format!("fingerprint of {}", tier.isa), fingerprint.clone(), other.fingerprint.clone());
            }
        }
        found.extend(other.tiers.iter().filter(|tier| tier.self_test != "passed").map(|tier| tier.self_test.clone()));
        found
    }
}

/// `bitnet verify --check`: everything again, and compared.
pub(super) fn check(path: &Path, args: &ModelArgs, json: bool, console: &Console) -> anyhow::Result<()> {
    let receipt = Receipt::read(path)?;
    let given = args.files.load.given();
    if given != receipt.load_options {
        let options = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(" ") };
        bail!(
            "the receipt was made with other options for reading the weights ({}) than were given ({}): give the same",
            options(&receipt.load_options),
            options(&given)
        );
    }
    let format: KvFormat = receipt.kv_format.parse()?;
    let mut args = args.clone();
    args.compute.kv.format = format;
    if args.files.path.model.is_none() {
        args.files.path.model.clone_from(&receipt.model);
    }
    if args.files.lora.is_none() {
        args.files.lora.clone_from(&receipt.lora);
    }
    let files = hash_files(&args.files, console)?;
    let digests = |files: &[Hashed]| files.iter().map(|file| file.sha256.clone()).collect::<Vec<_>>();
    if digests(&files) != digests(&receipt.files) {
        bail!(
            "{} is not the model of the receipt{}: SHA-256 {} here, {} there; --model{} gives the path of the right one",
            args.files.path.name(),
            if args.files.lora.is_some() { ", or its side-car is another" } else { "" },
            digests(&files).join(", "),
            digests(&receipt.files).join(", "),
            if args.files.lora.is_some() { " or --lora" } else { "" },
        );
    }
    let checkpoint = args.files.checkpoint(console)?;
    let now = make(&checkpoint, &args, files, console)?;
    let differences = receipt.differences(&now);
    let mut out = io::stdout().lock();
    let isa = &now.tiers[0].isa;
    if json {
        let report = json!({
            "ok": differences.is_empty(),
            "model": args.files.path.name(),
            "isa": isa,
            "fingerprint": now.fingerprint,
            "differences": differences,
        });
        writeln!(out, "{report}")?;
    } else if differences.is_empty() {
        writeln!(
            out,
            "the same bits: {} ({} there, {isa} here), {} greedy tokens",
            now.fingerprint,
            receipt.tiers.first().map_or("?", |tier| &tier.isa),
            now.greedy_ids.len()
        )?;
    } else {
        differences.iter().try_for_each(|difference| writeln!(out, "DIFFERENT    {difference}"))?;
    }
    out.flush()?;
    if !differences.is_empty() {
        bail!("{} does not hold on this machine", path.display());
    }
    Ok(())
}
