//! int8 activations × ternary weights.
//!
//! With `code = weight + 1`, `Σ q·weight = Σ q·code − Σ q`: the tiers multiply unsigned codes, and the sum of the
//! activations, known from quantisation, is subtracted once.
//!
//! Two bounds for a matrix `[m, k]` and `n` tokens: it reads `m·k / 4` bytes of weights (all that counts for n = 1:
//! one decoded token of a 2B model reads 521 MB), and it does `2·m·k·n` operations on integers, of which AVX-512 VNNI
//! does 256 per clock and core, and the matrix unit (AMX) 2048.

use std::ops::Range;

use crate::arch::{fetch_to_write, multiply, multiply_groups};
use crate::cpu::{Quantized, QuantizedRow, Rows, position};
use crate::gated_activation::{GeluTanh, Relu2, Silu};
use crate::lanes::{Kernel, LANES, Lanes, Map, dispatch};
use crate::threads::{ColumnTile, Pool};
use crate::{Activation, Cpu, Isa, KernelError, TernaryScales, TernaryWeights, add, gated_activation};

/// Rows that the tiers compute together.
#[cfg(target_arch = "x86_64")]
pub(crate) const ROW_TILE: usize = 4;
/// Weight bytes that a thread takes at a time: at least enough to make the hand-over cheap; in prompts at most what stays near.
const GRAIN: Range<usize> = 32 * 1024..256 * 1024;
/// Tokens from which on that is so; on tiers that prepare activations for each part at least [`PREPARED_ROWS`], at most four times as much.
const PROMPT: usize = 20;
/// Rows that are worth that. More would leave cores that are faster than others waiting.
const PREPARED_ROWS: usize = 96;
/// Tokens from which on results are combined with what they meet while they are near.
const FUSED: usize = 2;
/// How many tokens ahead the cache is told of results.
const AHEAD: usize = 8;

/// A ternary matrix whose codes and scales have been checked.
pub struct Ternary {
    weights: TernaryWeights,
}

impl Ternary {
    /// Output features.
    pub fn rows(&self) -> usize {
        self.weights.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.weights.cols
    }

    /// Bytes of the codes.
    pub fn bytes(&self) -> usize {
        self.weights.codes.len()
    }

    /// What a product with one token reads, apart from scales.
    pub(crate) fn codes(&self) -> &[u8] {
        &self.weights.codes
    }

    /// For weights made by [`TernaryWeights::pack`].
    pub(crate) fn unchecked(weights: TernaryWeights) -> Ternary {
        Ternary { weights }
    }

    pub(crate) fn panel(&self, rows: Range<usize>) -> Panel<'_> {
        let row_bytes = self.weights.row_bytes();
        Panel { codes: &self.weights.codes[rows.start * row_bytes..rows.end * row_bytes], row_bytes }
    }
}

/// Consecutive rows of codes.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    codes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Panel<'a> {
    pub(crate) fn rows(&self) -> usize {
        self.codes.len() / self.row_bytes
    }

    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        &self.codes[row * self.row_bytes..(row + 1) * self.row_bytes]
    }
}

/// Consecutive rows of codes with several scales per row.
#[derive(Clone, Copy)]
pub(crate) struct GroupPanel<'a> {
    pub(crate) codes: Panel<'a>,
    /// Columns per scale, a multiple of 32.
    pub(crate) len: usize,
    /// Scales per row.
    pub(crate) groups: usize,
    /// `[rows, groups]`.
    pub(crate) scales: &'a [f32],
}

/// Checks byte length, codes and scales. The codes are read once, by all threads.
pub(crate) fn load(cpu: &Cpu, weights: TernaryWeights) -> Result<Ternary, KernelError> {
    let TernaryWeights { rows, cols, .. } = weights;
    if rows == 0 || cols == 0 {
        return Err(shape("ternary matrix", format!("{rows} × {cols}"), "at least one row and column".into()));
    }
    // |Σ q·code| ≤ 254 cols must fit an i32.
    let most = i32::MAX as usize / 254 / 128 * 128;
    if cols > most {
        return Err(shape("ternary columns", cols.to_string(), format!("at most {most}")));
    }
    let bytes = rows.saturating_mul(weights.row_bytes());
    if weights.codes.len() != bytes {
        let expected = format!("{bytes} for {rows} × {cols}");
        return Err(shape("ternary weight bytes", weights.codes.len().to_string(), expected));
    }
    match &weights.scales {
        TernaryScales::Tensor(scale) if !(scale.is_finite() && *scale > 0.0) => {
            return Err(KernelError::Scale { index: 0, value: *scale });
        }
        TernaryScales::Tensor(_) => {}
        TernaryScales::Groups { len, values } => {
            if *len == 0 || (*len != cols && len % 32 != 0) {
                let expected = format!("a multiple of 32, or the row length {cols}");
                return Err(shape("columns per scale", len.to_string(), expected));
            }
            let count = rows.saturating_mul(cols.div_ceil(*len));
            if values.len() != count {
                let expected = format!("{count} for {rows} × {cols} in groups of {len}");
                return Err(shape("ternary scales", values.len().to_string(), expected));
            }
            // Zero is what the writers of block formats store for a group without weights.
            if let Some(index) = values.iter().position(|scale| !(scale.is_finite() && *scale >= 0.0)) {
                return Err(KernelError::Scale { index, value: values[index] });
            }
        }
    }
    match find_illegal(cpu.pool(), &weights.codes) {
        Some(byte) => Err(KernelError::IllegalCode { byte }),
        None => Ok(Ternary { weights }),
    }
}

fn shape(what: &'static str, found: String, expected: String) -> KernelError {
    KernelError::Shape { what, found, expected }
}

/// Offset of the first byte with code 3.
fn find_illegal(pool: &Pool, codes: &[u8]) -> Option<usize> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const PIECE: usize = 1 << 20;
    let first = AtomicUsize::new(usize::MAX);
    pool.run(codes.len().div_ceil(PIECE), |piece| {
        let start = piece * PIECE;
        let bytes = &codes[start..(start + PIECE).min(codes.len())];
        if has_illegal(bytes)
            && let Some(at) = bytes.iter().position(|&byte| has_illegal(&[byte]))
        {
            first.fetch_min(start + at, Ordering::Relaxed);
        }
    });
    Some(first.into_inner()).filter(|&at| at != usize::MAX)
}

/// Whether a pair of bits is `11`: eight bytes at a time, which compilers turn into vectors.
fn has_illegal(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(8);
    let mut found = 0;
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        found |= word & (word >> 1);
    }
    for &byte in words.remainder() {
        found |= u64::from(byte & (byte >> 1));
    }
    found & 0x5555_5555_5555_5555 != 0
}

/// `outs[i] = x · weights[i]ᵀ`.
pub(crate) fn run(cpu: &Cpu, x: &Quantized, weights: &[&Ternary], outs: &mut [&mut Rows]) {
    for out in outs.iter_mut() {
        out.set_len(x.len());
    }
    share(cpu, x, weights, outs, |matrix, tile| products(cpu, x, weights[matrix], tile, Store));
}

/// `out += x · weightsᵀ`; `branch` may be used as working space.
pub(crate) fn run_add(cpu: &Cpu, x: &Quantized, weights: &Ternary, branch: &mut Rows, out: &mut Rows) {
    assert_eq!(x.len(), out.len(), "rows of the product and of what it is added to");
    if x.len() < FUSED {
        run(cpu, x, &[weights], &mut [branch]);
        return add::run(cpu, out, branch);
    }
    share(cpu, x, &[weights], &mut [out], |_, tile| products(cpu, x, weights, tile, Combine(Sum)));
}

/// `gate = activation(x · weights[0]ᵀ) · (x · weights[1]ᵀ)`; `up` may be used as working space.
pub(crate) fn run_gated(
    cpu: &Cpu,
    x: &Quantized,
    weights: [&Ternary; 2],
    activation: Activation,
    gate: &mut Rows,
    up: &mut Rows,
) {
    if x.len() < FUSED {
        run(cpu, x, &weights, &mut [&mut *gate, &mut *up]);
        return gated_activation::run(cpu, activation, gate, up);
    }
    gate.set_len(x.len());
    assert_eq!((weights[1].rows(), weights[1].cols()), (gate.cols(), x.cols()), "shape of the up projection");
    share(cpu, x, &[weights[0]], &mut [gate], |_, tile| {
        // What the first product leaves is still near when the second arrives.
        products(cpu, x, weights[0], tile, Store);
        match activation {
            Activation::Relu2 => products(cpu, x, weights[1], tile, Combine(Relu2)),
            Activation::Silu => products(cpu, x, weights[1], tile, Combine(Silu)),
            Activation::GeluTanh => products(cpu, x, weights[1], tile, Combine(GeluTanh)),
        }
    });
}

/// Shares the columns of all `outs` among the threads.
fn share(
    cpu: &Cpu,
    x: &Quantized,
    weights: &[&Ternary],
    outs: &mut [&mut Rows],
    body: impl Fn(usize, &mut ColumnTile<'_>) + Sync,
) {
    assert_eq!(weights.len(), outs.len(), "one output per matrix");
    for (ternary, out) in weights.iter().zip(outs.iter()) {
        assert_eq!(ternary.cols(), x.cols(), "columns of weights and activations");
        assert_eq!(ternary.rows(), out.cols(), "rows of weights and columns of the output");
    }
    if x.is_empty() {
        return;
    }
    let row_bytes = x.cols().div_ceil(128) * 32;
    let (least, most) = (GRAIN.start / row_bytes, GRAIN.end / row_bytes);
    let grain = match x.len() {
        ..PROMPT => least..usize::MAX,
        PROMPT.. if cpu.isa() == Isa::Amx => least..most,
        PROMPT.. => PREPARED_ROWS..4 * most,
    };
    cpu.pool().columns(outs, grain, |matrix, mut tile| body(matrix, &mut tile));
}

/// The products of all tokens with the rows of weights that belong to the columns of `tile`.
fn products(cpu: &Cpu, x: &Quantized, ternary: &Ternary, tile: &mut ColumnTile<'_>, finish: impl Finish) {
    let (isa, columns) = (cpu.isa(), tile.columns());
    let panel = ternary.panel(columns.clone());
    match &ternary.weights.scales {
        TernaryScales::Tensor(scale) => multiply(isa, panel, x, |row, token, sums| {
            // The next tokens' results are written soon, and those of many tokens exceed the caches.
            if token + AHEAD < tile.rows().end {
                fetch_to_write(&mut tile.row(token + AHEAD)[row..], sums.len());
            }
            let QuantizedRow { scale: s, sum, .. } = x.row(token);
            let out = &mut tile.row(token)[row..row + sums.len()];
            finish.finish(isa, Products::Sums { sums, sum, factor: scale / s }, out);
        }),
        // A single group needs no sum over groups: fma(a, b, 0) = a · b.
        TernaryScales::Groups { len, values } if *len >= x.cols() => {
            let scales = &values[columns];
            multiply(isa, panel, x, |row, token, sums| {
                let QuantizedRow { scale: s, sum, .. } = x.row(token);
                let (scales, out) = (&scales[row..row + sums.len()], &mut tile.row(token)[row..row + sums.len()]);
                finish.finish(isa, Products::ScaledSums { sums, sum, scales, s }, out);
            });
        }
        TernaryScales::Groups { len, values } => {
            let groups = x.cols().div_ceil(*len);
            let scales = &values[columns.start * groups..columns.end * groups];
            let panel = GroupPanel { codes: panel, len: *len, groups, scales };
            multiply_groups(isa, panel, x, |row, token, values| {
                let s = x.row(token).scale;
                finish.finish(isa, Products::Values { values, s }, &mut tile.row(token)[row..row + values.len()]);
            });
        }
    }
}

/// What a tier gives for some rows of weights and one token of scale `s`.
#[derive(Clone, Copy)]
enum Products<'a> {
    /// `(sums - sum) · factor`, where `factor` is the scale of the weights divided by `s`.
    Sums { sums: &'a [i32], sum: i32, factor: f32 },
    /// `(sums - sum) · scales / s`
    ScaledSums { sums: &'a [i32], sum: i32, scales: &'a [f32], s: f32 },
    /// `values / s`
    Values { values: &'a [f32], s: f32 },
}

impl Products<'_> {
    #[inline(always)]
    fn value(self, i: usize) -> f32 {
        match self {
            Products::Sums { sums, sum, factor } => (sums[i] - sum) as f32 * factor,
            Products::ScaledSums { sums, sum, scales, s } => (sums[i] - sum) as f32 * scales[i] / s,
            Products::Values { values, s } => values[i] / s,
        }
    }

    /// Sixteen values from `first` on, or what is left of them.
    #[inline(always)]
    fn values<L: Lanes>(self, l: L, first: usize, len: usize) -> L::V {
        if let (LANES, Products::Sums { sums, sum, factor }) = (len, self)
            && let Some(sums) = sums[first..].first_chunk()
        {
            return l.mul(l.i32_lanes(sums, sum), l.splat(factor));
        }
        let mut values = [0.0; LANES];
        for (i, value) in values[..len].iter_mut().enumerate() {
            *value = self.value(first + i);
        }
        l.load(&values)
    }
}

/// What becomes of products.
trait Finish: Copy + Sync {
    /// Writes `out`.
    fn finish(self, isa: Isa, products: Products<'_>, out: &mut [f32]);
}

/// They are the result.
#[derive(Clone, Copy)]
struct Store;

impl Finish for Store {
    #[inline(always)]
    fn finish(self, isa: Isa, products: Products<'_>, out: &mut [f32]) {
        if out.len() >= LANES {
            return Combine(Keep).finish(isa, products, out);
        }
        for (i, out) in out.iter_mut().enumerate() {
            *out = products.value(i);
        }
    }
}

/// `out = f(out, product)`
#[derive(Clone, Copy)]
struct Combine<M>(M);

impl<M: Map + Sync> Finish for Combine<M> {
    #[inline(always)]
    fn finish(self, isa: Isa, products: Products<'_>, out: &mut [f32]) {
        dispatch(isa, Combined { products, map: self.0, out });
    }
}

struct Combined<'a, M> {
    products: Products<'a>,
    map: M,
    out: &'a mut [f32],
}

impl<M: Map> Kernel for Combined<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Combined { products, map, out } = self;
        let (lanes, rest) = out.as_chunks_mut();
        for (i, out) in lanes.iter_mut().enumerate() {
            l.store(map.apply(l, l.load(out), products.values(l, i * LANES, LANES)), out);
        }
        if !rest.is_empty() {
            let values = products.values(l, lanes.len() * LANES, rest.len());
            l.store_part(map.apply(l, l.load_part(rest), values), rest);
        }
    }
}

/// The product alone.
#[derive(Clone, Copy)]
struct Keep;

impl Map for Keep {
    #[inline(always)]
    fn apply<L: Lanes>(self, _: L, _: L::V, product: L::V) -> L::V {
        product
    }
}

#[derive(Clone, Copy)]
struct Sum;

impl Map for Sum {
    #[inline(always)]
    fn apply<L: Lanes>(self, l: L, x: L::V, product: L::V) -> L::V {
        l.add(x, product)
    }
}

/// The oracle.
pub(crate) mod scalar {
    use super::{GroupPanel, Panel, Quantized, position};
    use crate::lanes::fma;

    /// Code 0, 1 or 2 of column `col`.
    fn code(row: &[u8], col: usize) -> i32 {
        let byte = row[col / 128 * 32 + col % 32];
        i32::from(byte >> (6 - 2 * (col % 128 / 32)) & 3)
    }

    pub(crate) fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
        for row in 0..panel.rows() {
            for token in 0..x.len() {
                let (weights, codes) = (panel.row(row), x.row(token).codes);
                let sum = (0..x.cols()).map(|col| code(weights, col) * i32::from(codes[position(col)])).sum();
                store(row, token, &[sum]);
            }
        }
    }

    pub(crate) fn multiply_groups(panel: GroupPanel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[f32])) {
        for row in 0..panel.codes.rows() {
            for token in 0..x.len() {
                let (weights, codes) = (panel.codes.row(row), x.row(token).codes);
                let mut value = 0.0f32;
                for group in 0..panel.groups {
                    let columns = group * panel.len..((group + 1) * panel.len).min(x.cols());
                    let sum: i32 = columns.map(|col| (code(weights, col) - 1) * i32::from(codes[position(col)])).sum();
                    value = fma(sum as f32, panel.scales[row * panel.groups + group], value);
                }
                store(row, token, &[value]);
            }
        }
    }
}
