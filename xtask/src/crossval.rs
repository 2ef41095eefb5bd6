//! Our engine against others: golden data, and random models that nobody has seen before.

mod fresh;
mod goldens;

use crate::peer::Engine as PeerEngine;
use anyhow::{bail, ensure};
use bitnet::inference::{LogitsDiff, LogitsDiffReport};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::time::SystemTime;

#[derive(Args)]
pub(crate) struct Crossval {
    /// Also compare fresh random models with other engines, which are installed if they are not there.
    #[arg(long, value_enum)]
    peer: Option<Peers>,
    /// Folder of golden data besides crossval/golden [default: ../shared/crossval beside the checkout, if it is there].
    #[arg(long)]
    goldens: Option<PathBuf>,
    /// Seed of the random models [default: another one every time].
    #[arg(long)]
    seed: Option<u32>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peers {
    Transformers,
    LlamaCpp,
    All,
}

/// How much results may differ.
#[derive(Clone, Copy)]
enum Allowed {
    /// Sums in another order: this absolute difference, and the same best token everywhere.
    Rounding(f64),
    /// The engines round activations differently, for the reason given: this mean cosine.
    Cosine(f64, &'static str),
}

/// One line of the table.
struct Row {
    family: String,
    peer: String,
    diff: LogitsDiffReport,
    /// Perplexity of the ids, here and there; none of embedding models and single tokens.
    perplexity: Option<(f64, f64)>,
    allowed: Allowed,
}

impl Crossval {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let own = crate::root().join("crossval/golden");
        let mut rows = goldens::dumps(&own)?;
        let beside = crate::root().join("../shared/crossval");
        match &self.goldens {
            Some(folder) => rows.extend(goldens::folder(folder)?),
            None if beside.is_dir() => rows.extend(goldens::folder(&beside)?),
            None => eprintln!("SKIPPED: {} is not there; --goldens names another folder", beside.display()),
        }
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_secs() as u32);
        let seed = self.seed.unwrap_or_else(now);
        if matches!(self.peer, Some(Peers::LlamaCpp | Peers::All)) {
            rows.extend(fresh::llama_cpp(&PeerEngine::LlamaCpp.python(true)?, seed)?);
        }
        if matches!(self.peer, Some(Peers::Transformers | Peers::All)) {
            rows.extend(fresh::transformers(&PeerEngine::Transformers.python(true)?, seed)?);
        }
        ensure!(!rows.is_empty(), "nothing was compared");
        if self.json {
            let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
            println!("{}", json!({"seed": seed, "rows": rows}));
        } else {
            table(&rows);
            if self.peer.is_some() {
                println!("random models: --seed {seed} makes them again");
            }
        }
        let wrong: Vec<_> = rows.iter().filter(|row| !row.agrees()).map(|row| row.family.as_str()).collect();
        if !wrong.is_empty() {
            bail!("{} of {} disagree: {}", wrong.len(), rows.len(), wrong.join(", "));
        }
        Ok(())
    }
}

impl Row {
    /// Compares lists of rows of `width` values. With `ids` the rows are logits, and the perplexity of the ids is computed from both.
    fn new(
        family: String,
        peer: String,
        width: usize,
        lists: &[(Vec<f32>, Vec<f32>)],
        ids: Option<&[Vec<u32>]>,
        allowed: Allowed,
    ) -> anyhow::Result<Self> {
        let mut diff = LogitsDiff::default();
        for (theirs, ours) in lists {
            ensure!(theirs.len() == ours.len(), "{family}: {} values there, {} here", theirs.len(), ours.len());
            theirs.chunks_exact(width).zip(ours.chunks_exact(width)).for_each(|(theirs, ours)| diff.add(theirs, ours));
        }
        let perplexity = ids.and_then(|ids| {
            let ours = perplexity(lists.iter().map(|(_, ours)| ours), ids, width);
            ours.zip(perplexity(lists.iter().map(|(theirs, _)| theirs), ids, width))
        });
        Ok(Row { family, peer, diff: diff.report(), perplexity, allowed })
    }

    fn agrees(&self) -> bool {
        let close =
            self.perplexity.is_none_or(|(ours, theirs)| (ours / theirs - 1.0).abs() <= self.perplexity_tolerance());
        close
            && match self.allowed {
                Allowed::Rounding(tolerance) => self.diff.max_abs <= tolerance && self.diff.argmax_agreement == 1.0,
                Allowed::Cosine(least, _) => self.diff.mean_cosine >= least,
            }
    }

    fn perplexity_tolerance(&self) -> f64 {
        match self.allowed {
            Allowed::Rounding(_) => 1e-3,
            Allowed::Cosine(..) => 0.1,
        }
    }

    fn allowed(&self) -> String {
        match self.allowed {
            Allowed::Rounding(tolerance) => format!("max abs {tolerance:.0e}"),
            Allowed::Cosine(least, why) => format!("mean cosine {least}: {why}"),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "family": self.family,
            "peer": self.peer,
            "difference": self.diff,
            "perplexity": self.perplexity.map(|(ours, _)| ours),
            "peer_perplexity": self.perplexity.map(|(_, theirs)| theirs),
            "allowed": self.allowed(),
            "agrees": self.agrees(),
        })
    }
}

fn table(rows: &[Row]) {
    println!(
        "{:<28} {:<30} {:>5} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}  allowed",
        "family", "other engine", "rows", "argmax %", "max abs", "cosine", "mean KL", "ppl here", "ppl there"
    );
    for row in rows {
        let (ours, theirs) =
            row.perplexity.map_or(("–".into(), "–".into()), |(a, b)| (format!("{a:.3}"), format!("{b:.3}")));
        println!(
            "{:<28} {:<30} {:>5} {:>8.2} {:>9.1e} {:>9.6} {:>9.1e} {ours:>9} {theirs:>9}  {}{}",
            row.family,
            row.peer,
            row.diff.positions,
            100.0 * row.diff.argmax_agreement,
            row.diff.max_abs,
            row.diff.mean_cosine,
            row.diff.mean_kl,
            if row.agrees() { "" } else { "DISAGREES with " },
            row.allowed()
        );
    }
}

/// Perplexity of every id after the first of its list.
fn perplexity<'l>(lists: impl Iterator<Item = &'l Vec<f32>>, ids: &[Vec<u32>], vocab: usize) -> Option<f64> {
    let (mut sum, mut count) = (0f64, 0u32);
    for (logits, ids) in lists.zip(ids) {
        for (row, &next) in logits.chunks_exact(vocab).zip(ids.iter().skip(1)) {
            let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let total: f64 = row.iter().map(|&x| (f64::from(x) - top).exp()).sum();
            sum += total.ln() + top - f64::from(*row.get(next as usize)?);
            count += 1;
        }
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(theirs: &[f32], ours: &[f32], allowed: Allowed) -> Row {
        let lists = [(theirs.to_vec(), ours.to_vec())];
        Row::new("x".into(), "y".into(), 2, &lists, Some(&[vec![0, 1]]), allowed).expect("of one length")
    }

    #[test]
    fn perplexity_by_hand() {
        // equal logits of two tokens: 2; certain ones: 1
        assert_eq!(row(&[1.0, 1.0], &[0.0, 200.0], Allowed::Rounding(1.0)).perplexity, Some((1.0, 2.0)));
    }

    #[test]
    fn a_disagreement_is_one() {
        let exact = Allowed::Rounding(1e-4);
        assert!(row(&[1.0, 2.0], &[1.0, 2.00005], exact).agrees());
        assert!(!row(&[1.0, 2.0], &[1.0, 2.001], exact).agrees(), "too far");
        assert!(!row(&[1.0, 1.00001], &[1.0, 0.99999], exact).agrees(), "another best token");
        assert!(!row(&[1.0, 2.0], &[1.0, f32::NAN], exact).agrees());
        let cosine = Allowed::Cosine(0.99, "why");
        assert!(row(&[1.0, 2.0], &[1.02, 2.0], cosine).agrees());
        assert!(!row(&[1.0, 2.0], &[2.0, 1.0], cosine).agrees());
        assert!(!row(&[1.0, 2.0], &[f32::NAN, 2.0], cosine).agrees());
    }

    #[test]
    fn lists_of_other_lengths_are_an_error() {
        let lists = [(vec![1.0, 2.0], vec![1.0])];
        assert!(Row::new("x".into(), "y".into(), 1, &lists, None, Allowed::Rounding(0.0)).is_err());
    }

    /// The golden data of the repository, and what a wrong model looks like beside it.
    #[test]
    fn the_shipped_golden_data_agrees() {
        let own = crate::root().join("crossval/golden");
        let rows = goldens::dumps(&own).expect("readable");
        assert!(!rows.is_empty() && rows.iter().all(Row::agrees));
    }
}
