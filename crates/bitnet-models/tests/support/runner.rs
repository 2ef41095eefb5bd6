//! A loaded model with working memory, driven one call at a time.

use bitnet_formats::Checkpoint;
use bitnet_kernels::{Batch, Cpu, CpuOptions, KvFormat, PAGE_LEN, Wanted};
use bitnet_models::{LoadOptions, Model, Stage, State, StateShape};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) struct Runner {
    pub(crate) model: Model<Cpu>,
    pub(crate) state: State<Cpu>,
    batch: Batch,
    sequences: usize,
}

/// Positions per sequence, and tokens per step that a [`Runner`] has room for.
const CONTEXT: usize = 256;

impl Runner {
    pub(crate) fn open(path: &Path, options: &LoadOptions) -> Runner {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Runner::new(&checkpoint, options, CpuOptions { threads: Some(2), isa: None })
    }

    pub(crate) fn new(checkpoint: &Checkpoint, options: &LoadOptions, cpu: CpuOptions) -> Runner {
        Runner::with(checkpoint, options, cpu, 8, KvFormat::F32)
    }

    /// With room for `sequences` at a time.
    pub(crate) fn with(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        cpu: CpuOptions,
        sequences: usize,
        kv_format: KvFormat,
    ) -> Runner {
        let model = Model::load(checkpoint, Cpu::new(cpu).unwrap(), options).unwrap_or_else(|e| panic!("{e}"));
        let kv_pages = sequences * CONTEXT / PAGE_LEN;
        let shape = StateShape { max_tokens: CONTEXT, max_logits: CONTEXT, kv_pages, kv_format };
        let plan = model.plan(shape);
        let before = bitnet_models::MemoryPlan::of(checkpoint, options, shape).unwrap();
        assert_eq!(plan, before, "the plan before loading differs from the plan of the loaded model");
        let state = model.state(shape).unwrap();
        Runner { model, state, batch: Batch::default(), sequences }
    }

    pub(crate) fn vocab(&self) -> usize {
        self.model.config().vocab
    }

    /// Pages of sequence `sequence`: far apart, so that pages of a sequence do not lie side by side.
    fn pages(&self, sequence: usize) -> Vec<u32> {
        (0..CONTEXT / PAGE_LEN).map(|page| (page * self.sequences + sequence) as u32).collect()
    }

    /// Runs `(sequence, start, tokens)` in one step; logits of all tokens, row after row.
    pub(crate) fn step(&mut self, runs: &[(usize, usize, &[u32])]) -> Vec<f32> {
        self.fill(runs, usize::MAX);
        self.model.forward(&mut self.state, &self.batch);
        let mut logits = vec![0.0; self.batch.logit_rows().len() * self.vocab()];
        self.model.read_logits(&self.state, &mut logits);
        logits
    }

    /// The first of two steps, left before every block it can be left before, with the second one in between each time.
    pub(crate) fn left(&mut self, run: (usize, usize, &[u32]), between: &[(usize, usize, &[u32])]) -> Vec<f32> {
        let mut first = 0;
        loop {
            self.fill(&[run], usize::MAX);
            let from = first;
            match self.model.forward_from(from, &mut self.state, &self.batch, Wanted::All, &mut Err::<(), usize>) {
                Ok(_) => break,
                Err(block) => first = block,
            }
            assert_eq!(first, from + 1, "asked before every block");
            self.step(between);
        }
        assert_eq!(first + 1, self.model.config().layers);
        let mut logits = vec![0.0; self.batch.logit_rows().len() * self.vocab()];
        self.model.read_logits(&self.state, &mut logits);
        logits
    }

    fn fill(&mut self, runs: &[(usize, usize, &[u32])], logits: usize) {
        self.batch.clear();
        for &(sequence, start, tokens) in runs {
            let pages = self.pages(sequence);
            self.batch.push(start, tokens, &pages, logits.min(tokens.len()));
        }
    }

    /// Logits at every position.
    pub(crate) fn logits(&mut self, ids: &[u32]) -> Vec<f32> {
        self.step(&[(0, 0, ids)])
    }

    /// Final-norm hidden states at every position.
    pub(crate) fn hidden(&mut self, runs: &[(usize, usize, &[u32])]) -> Vec<f32> {
        self.fill(runs, 0);
        let mut out = vec![0.0; self.batch.tokens().len() * self.model.config().hidden];
        self.model.hidden(&mut self.state, &self.batch, &mut out);
        out
    }

    /// Hidden states after the embedding and after every block.
    pub(crate) fn stages(&mut self, ids: &[u32]) -> BTreeMap<String, Vec<f32>> {
        self.fill(&[(0, 0, ids)], 0);
        let mut stages = BTreeMap::new();
        self.model.forward_observed(&mut self.state, &self.batch, &mut |stage, rows| {
            let name = match stage {
                Stage::Embedding => "embed".to_string(),
                Stage::Block(layer) => format!("layer{layer}"),
            };
            stages.insert(name, rows.data().to_vec());
        });
        stages
    }
}
