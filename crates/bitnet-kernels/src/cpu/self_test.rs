//! A canary: kernels that compute something else than the oracle must not touch a model.

use crate::ahead::Ahead;
use crate::arch::{bit_sum, first_sums, multiply, multiply_groups, quantize};
use crate::cpu::Quantized;
use crate::exp::exp;
use crate::lanes::{self, Kernel, LANES, Lanes, dispatch};
use crate::planes::{Look, Planes, Query};
use crate::ternary_matmul::{GroupPanel, Ternary};
use crate::{Isa, KernelError, TernaryScales, TernaryWeights};

/// Odd counts, so that every tail of every kernel is used, above the 32 × 32 of the largest tile and the rows from which on tables are
/// used (which [`crate::arch`] asserts).
pub(crate) const ROWS: usize = 99;
const COLS: usize = 520;
const TOKENS: usize = 37;
/// Of 64 columns each.
const GROUPS: usize = COLS.div_ceil(64);
/// Activations of one look at bit planes.
const QUERIES: usize = 9;
/// Tokens of the products: decoding, a few, a prompt; 15 are one less than a table has lanes.
const BATCHES: [usize; 7] = [1, 2, 3, 7, 12, 15, TOKENS];

/// Runs the kernels of a tier on fixed data and compares them, bit for bit, with the scalar oracle. Takes some
/// milliseconds. (An instruction that the processor refuses altogether, against its own list of features, ends the process:
/// no test can catch that without taking over the signals of the program.)
pub fn self_test(isa: Isa) -> Result<(), KernelError> {
    let isa = isa.require()?;
    let fails = |what| Err(KernelError::SelfTest { isa, what });

    let mut random = 1u32;
    let mut next = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 8
    };
    let values: Vec<f32> = (0..TOKENS * COLS).map(|_| next() as f32 / 1000.0 - 8000.0).collect();
    let mut x = quantized(isa, &values)?;
    let oracle = quantized(Isa::Scalar, &values)?;
    if (0..TOKENS).any(|token| oracle.row(token) != x.row(token)) {
        return fails("quantisation");
    }
    let weights: Vec<i8> = (0..ROWS * COLS).map(|_| (next() % 3) as i8 - 1).collect();
    let matrix = Ternary::unchecked(TernaryWeights::pack(&weights, ROWS, COLS, TernaryScales::Tensor(1.0))?);
    let panel = matrix.panel(0..ROWS);
    let product = |isa, x: &Quantized| {
        let mut out = [[0; ROWS]; TOKENS];
        multiply(isa, panel, x, |row, token, sums| out[token][row..row + sums.len()].copy_from_slice(sums));
        out
    };
    let expected = product(Isa::Scalar, &oracle);
    for tokens in BATCHES {
        x.set_len(tokens);
        if product(isa, &x)[..tokens] != expected[..tokens] {
            return fails("the ternary product");
        }
    }
    let floats = |isa| dispatch(isa, Floats(&values));
    if floats(isa) != floats(Isa::Scalar) {
        return fails("float arithmetic");
    }
    x.set_len(7);
    let scales: Vec<f32> = (0..ROWS * GROUPS).map(|_| next() as f32).collect();
    let panel = GroupPanel { codes: panel, len: 64, groups: GROUPS, scales: &scales };
    let product = |isa| {
        let mut out = [[0; ROWS]; TOKENS];
        multiply_groups(isa, panel, &x, |row, token, values| {
            out[token][row..row + values.len()].iter_mut().zip(values).for_each(|(out, v)| *out = v.to_bits());
        });
        out
    };
    if product(isa) != product(Isa::Scalar) {
        return fails("the ternary product with grouped scales");
    }
    let planes = Planes::of_codes(ROWS, COLS, || next() as u8)?;
    let mut queries = Vec::new();
    for values in values.chunks(COLS).take(QUERIES) {
        queries.push(Query::new(COLS)?);
        if !queries.iter_mut().next_back().is_some_and(|query| query.set(values, &planes)) {
            return fails("the quantisation for the output head");
        }
    }
    let sums = |isa, queries: &[Query]| {
        let mut out = [[[0; ROWS]; QUERIES]; 3];
        for (look, out) in [Look::Coarse, Look::Fine].into_iter().zip(&mut out) {
            first_sums(isa, look, planes.rows(0..ROWS), queries, |row, query, sums| {
                out[query..].iter_mut().zip(sums).for_each(|(out, &sum)| out[row] = sum);
            });
        }
        for (query, out) in queries.iter().zip(&mut out[2]) {
            out.iter_mut().enumerate().for_each(|(row, out)| *out = bit_sum(isa, planes.fine(row), query).into());
        }
        out
    };
    if [1, QUERIES].into_iter().any(|n| sums(isa, &queries[..n]) != sums(Isa::Scalar, &queries[..n])) {
        return fails("the sums over bit planes");
    }
    Ok(())
}

/// What float kernels are made of: conversions, products and sums rounded once, `exp`, reductions, and products of bytes.
struct Floats<'a>(&'a [f32]);

impl Kernel for Floats<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> Vec<u32> {
        let (mut out, mut lines, mut codes) = (Vec::new(), Vec::new(), Vec::new());
        let mut lanes = [0.0; LANES];
        for x in self.0.as_chunks().0 {
            let mut halves = [0; 2 * LANES];
            for (half, x) in halves.as_chunks_mut().0.iter_mut().zip(x) {
                *half = ((x.to_bits() >> 8) as u16 & 0xbfff).to_le_bytes(); // finite
            }
            let half = l.load_f16(&halves);
            let v = l.div(l.fma(l.load(x), half, l.load_bf16(&halves)), l.splat(1e3));
            l.store(exp(l, l.sub(l.splat(1.0), l.mul(v, v))), &mut lanes);
            out.extend(lanes.map(f32::to_bits));
            out.extend([lanes::dot(l, x, &lanes), l.sum(half), l.largest(half)].map(f32::to_bits));

            let mut line = [0; 4 * LANES];
            line.as_chunks_mut().0.iter_mut().zip(x).for_each(|(bytes, x)| *bytes = x.to_le_bytes());
            let (same, bytes) = (l.load_f32(&line), l.i8_lanes(u128::from_le_bytes(line.as_chunks().0[1])));
            for each in [
                l.sum_of_each(&[same, half, v]),
                l.largest_of_each(&[same, half, v]),
                l.sum_of_each(&[v, bytes, half, same, bytes, half, same, v]),
                l.largest_of_each(&[v, bytes, half, same, bytes, half, same, v]),
            ] {
                l.store(each, &mut lanes);
                out.extend(lanes.map(f32::to_bits));
            }
            let mut lowest = [0; LANES];
            l.store_lowest_bytes(v, &mut lowest);
            codes.extend_from_slice(lowest.as_chunks().0);
            lines.push(line);
        }
        // Attention to a cache of codes: the keys' and the values' shape.
        let codes = [&codes[..32], &codes[32..64]];
        let (ahead, offset) = (&mut Ahead::all(&[]), [1234, -567]);
        for pair in l.byte_products::<2, 2>(&lines, 2, codes, offset, ahead) {
            for products in pair {
                l.store(products, &mut lanes);
                out.extend(lanes.map(f32::to_bits));
            }
        }
        out
    }
}

fn quantized(isa: Isa, values: &[f32]) -> Result<Quantized, KernelError> {
    let mut out = Quantized::new(TOKENS, COLS)?;
    out.set_len(TOKENS);
    let stride = out.stride();
    let (codes, scales, sums) = out.parts_mut();
    let rows = codes.chunks_mut(stride).zip(sums.chunks_mut(stride / crate::cpu::SUM_LEN)).zip(scales);
    for (token, (((codes, sums), scale), row)) in rows.zip(values.chunks(COLS)).enumerate() {
        // Every other token normalised, by weights of all sizes.
        let norm = (token % 2 == 1).then_some((0.7, &values[..COLS]));
        *scale = quantize(isa, row, norm, codes, sums);
    }
    Ok(out)
}
