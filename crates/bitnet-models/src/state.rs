//! Working memory: activation buffers and KV cache, all made before the first step.

use crate::adapter::LowRankRows;
use crate::config::Config;
use crate::weights::WeightBytes;
use bitnet_kernels::{Backend, KernelError, KvFormat, KvShape};
use std::mem::swap;

/// How much working memory a [`State`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateShape {
    /// Tokens per forward step (prompts are cut into chunks of this).
    pub max_tokens: usize,
    /// Rows of logits per step.
    pub max_logits: usize,
    /// KV pages of [`bitnet_kernels::PAGE_LEN`] positions.
    pub kv_pages: usize,
    /// What the pages hold.
    pub kv_format: KvFormat,
}

impl StateShape {
    /// Size of the KV cache of a network.
    pub(crate) fn kv(&self, config: &Config) -> KvShape {
        KvShape {
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            pages: self.kv_pages,
            format: self.kv_format,
        }
    }
}

/// Activation buffers and KV cache: all memory a forward step touches besides weights.
pub struct State<B: Backend> {
    pub(crate) buffers: Buffers<B::Rows, B::Quantized>,
    pub(crate) kv: B::Kv,
}

/// The activations of a step. Generic over what a buffer is, so that the memory plan walks the very same list.
pub(crate) struct Buffers<R, Q> {
    /// The residual stream `[tokens, hidden]`.
    pub(crate) hidden: R,
    /// That of a step that was left; none where one sequence has nobody to leave for.
    pub(crate) aside: Option<R>,
    /// What a branch adds to it `[tokens, hidden]`.
    pub(crate) branch: R,
    /// The branch after its post-norm `[tokens, hidden]`.
    pub(crate) branch_normed: R,
    /// `[tokens, heads * head_dim]`.
    pub(crate) q: R,
    /// `[tokens, kv_heads * head_dim]`.
    pub(crate) k: R,
    /// `[tokens, kv_heads * head_dim]`.
    pub(crate) v: R,
    /// Queries after their norm.
    pub(crate) q_normed: R,
    /// Keys after their norm.
    pub(crate) k_normed: R,
    /// Output of attention `[tokens, heads * head_dim]`.
    pub(crate) attended: R,
    /// `[tokens, ffn]`.
    pub(crate) gate: R,
    /// `[tokens, ffn]`.
    pub(crate) up: R,
    /// Input of q·k·v and gate·up.
    pub(crate) hidden_input: Inputs<R, Q>,
    /// Input of the output projection.
    pub(crate) attended_input: Inputs<R, Q>,
    /// Input of the down projection.
    pub(crate) ffn_input: Inputs<R, Q>,
    pub(crate) lora: LowRankRows<R>,
    /// `[logit rows, vocab]`.
    pub(crate) logits: R,
}

/// Scratch in front of projections.
pub(crate) struct Inputs<R, Q> {
    /// After the block's norm.
    pub(crate) normed: R,
    /// After the norm inside a projection.
    pub(crate) inner: R,
    /// As int8.
    pub(crate) int8: Q,
}

/// Scratch in front of projections on a backend.
pub(crate) type Input<B> = Inputs<<B as Backend>::Rows, <B as Backend>::Quantized>;

impl<R, Q> Buffers<R, Q> {
    /// Makes all buffers; those the network has no use for get no rows.
    pub(crate) fn new<E>(
        config: &Config,
        weights: &WeightBytes,
        shape: StateShape,
        rows: &mut impl FnMut(usize, usize) -> Result<R, E>,
        int8: &mut impl FnMut(usize, usize) -> Result<Q, E>,
    ) -> Result<Self, E> {
        let (hidden, query, kv, ffn) = (config.hidden, config.query_width(), config.kv_width(), config.ffn);
        let tokens = shape.max_tokens;
        let only_if = |wanted: bool| if wanted { tokens } else { 0 };
        let in_norms = config.in_norm_eps.is_some();
        // dense and ternary projections side by side are normed apart
        let normed = only_if(weights.float || in_norms || weights.lora_rank > 0);
        let inner = only_if(weights.float && in_norms);
        let qk_norms = only_if(config.qk_norms);
        Ok(Buffers {
            hidden: rows(tokens, hidden)?,
            aside: if shape.max_logits > 1 { Some(rows(tokens, hidden)?) } else { None },
            branch: rows(tokens, hidden)?,
            branch_normed: rows(only_if(config.post_norms), hidden)?,
            q: rows(tokens, query)?,
            k: rows(tokens, kv)?,
            v: rows(tokens, kv)?,
            q_normed: rows(qk_norms, query)?,
            k_normed: rows(qk_norms, kv)?,
            attended: rows(tokens, query)?,
            gate: rows(tokens, ffn)?,
            up: rows(tokens, ffn)?,
            hidden_input: Inputs {
                normed: rows(normed, hidden)?,
                inner: rows(inner, hidden)?,
                int8: int8(only_if(weights.int8), hidden)?,
            },
            attended_input: Inputs {
                normed: rows(normed, query)?,
                inner: rows(inner, query)?,
                int8: int8(only_if(weights.int8), query)?,
            },
            ffn_input: Inputs {
                normed: rows(normed, ffn)?,
                inner: rows(inner, ffn)?,
                int8: int8(only_if(weights.int8), ffn)?,
            },
            lora: LowRankRows::new(config, weights.lora_rank, shape, rows)?,
            logits: rows(shape.max_logits, config.vocab)?,
        })
    }
}

impl<R, Q> Buffers<R, Q> {
    /// Takes up the step that was left, or leaves the one there is.
    pub(crate) fn exchange_aside(&mut self) {
        if let Some(aside) = &mut self.aside {
            swap(&mut self.hidden, aside);
        }
    }
}

impl<B: Backend> State<B> {
    pub(crate) fn new(
        backend: &B,
        config: &Config,
        weights: &WeightBytes,
        shape: StateShape,
    ) -> Result<Self, KernelError> {
        let mut rows = |capacity, cols| backend.rows(capacity, cols);
        let mut int8 = |capacity, cols| backend.quantized(capacity, cols);
        Ok(State {
            buffers: Buffers::new(config, weights, shape, &mut rows, &mut int8)?,
            kv: backend.kv(shape.kv(config))?,
        })
    }
}
