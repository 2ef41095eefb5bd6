//! Matrix products of training: operands are rounded to bf16, sums are f32.
//!
//! Operands are packed into tiles of the matrix unit, from f32 or bf16 values that lie along the rows or along the
//! columns of the product; rounding, scaling and transposing happen on the way. Where the processor has no matrix unit
//! the same tiles are multiplied with vectors.
//!
//! Bounds of one product `[m, k] · [k, n]` per core: `2 m k n` operations, of which the unit does 1024 per clock and
//! AVX-512 64, and packing, which reads and writes each operand once.

use crate::vectorized::vectorized;
use bitnet_kernels::{Bf16Sums, Bf16Tile, Bf16Unit, Cpu, CpuOptions, arithmetic_peak};
use rayon::prelude::*;
use std::cell::RefCell;
use std::hint::black_box;
use std::time::Instant;

/// Lines of a strip: rows of the left operand, columns of the right one.
pub(crate) const STRIP: usize = 32;
/// Depth of a tile.
const DEPTH: usize = 32;

/// The values of an operand as they lie in memory.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    /// Floats, to be rounded.
    F32(&'a [f32]),
    /// Upper halves of floats.
    Bf16(&'a [u16]),
}

/// How an operand lies in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Along {
    /// Values that are multiplied and added up lie side by side: `(line, depth)` is `line · stride + depth`.
    Depth,
    /// Lines lie side by side: `(line, depth)` is `depth · stride + line`.
    Lines,
}

/// An operand: `lines` rows of the left one, or columns of the right one, with `depth` values each.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) values: Values<'a>,
    pub(crate) along: Along,
    pub(crate) lines: usize,
    pub(crate) depth: usize,
    /// Values from one stored row to the next.
    pub(crate) stride: usize,
    /// Factor of each stored row, applied before rounding.
    pub(crate) factors: Option<&'a [f32]>,
}

impl<'a> Operand<'a> {
    /// A contiguous matrix `[lines, depth]`.
    pub(crate) fn rows(values: Values<'a>, lines: usize, depth: usize) -> Operand<'a> {
        Operand { values, along: Along::Depth, lines, depth, stride: depth, factors: None }
    }

    /// A contiguous matrix `[depth, lines]`.
    pub(crate) fn columns(values: Values<'a>, depth: usize, lines: usize) -> Operand<'a> {
        Operand { values, along: Along::Lines, lines, depth, stride: lines, factors: None }
    }

    fn steps(&self) -> usize {
        self.depth.div_ceil(DEPTH)
    }

    /// 32 bits with two neighbours in depth, for 16 by 16 of them from `line` and `depth` on: rows are stored rows (of
    /// pairs, along lines). What is outside is zero.
    #[inline(always)]
    fn pairs(&self, line: usize, depth: usize) -> [[u32; 16]; 16] {
        let mut out = [[0; 16]; 16];
        match self.along {
            Along::Depth => {
                let width = DEPTH.min(self.depth - depth);
                for (row, out) in (line..self.lines).zip(&mut out) {
                    let x: [u16; 32] = self.load(row, row * self.stride + depth, width);
                    for i in 0..16 {
                        out[i] = u32::from(x[2 * i]) | u32::from(x[2 * i + 1]) << 16;
                    }
                }
            }
            Along::Lines => {
                let width = 16.min(self.lines - line);
                for (row, out) in (depth..self.depth).step_by(2).zip(&mut out) {
                    let low: [u16; 16] = self.load(row, row * self.stride + line, width);
                    let high = match row + 1 < self.depth {
                        true => self.load(row + 1, (row + 1) * self.stride + line, width),
                        false => [0; 16],
                    };
                    for i in 0..16 {
                        out[i] = u32::from(low[i]) | u32::from(high[i]) << 16;
                    }
                }
            }
        }
        out
    }

    /// `width` values from `start` on of stored row `row`, as bf16; zeros after them.
    #[inline(always)]
    fn load<const N: usize>(&self, row: usize, start: usize, width: usize) -> [u16; N] {
        let factor = self.factors.map_or(1.0, |factors| factors[row]);
        // loops, because compilers do not inline `map` of arrays
        let mut out = [0; N];
        match self.values {
            Values::F32(x) => {
                let x = padded::<f32, N>(&x[start..start + width]);
                for i in 0..N {
                    out[i] = round(x[i] * factor);
                }
            }
            Values::Bf16(x) => {
                out = padded::<u16, N>(&x[start..start + width]);
                if self.factors.is_some() {
                    for x in &mut out {
                        *x = round(f32::from_bits(u32::from(*x) << 16) * factor);
                    }
                }
            }
        }
        out
    }

    /// Packs the strips of lines `32 first..`, as many as there is room for. Stored rows are read from their beginning to their end where lines lie
    /// side by side: going down one strip after the other would touch a page per row.
    #[inline(always)]
    fn pack_strips(&self, first: usize, side: Side, out: &mut [Bf16Tile]) {
        // left tiles have a row per line, right ones a row per pair
        let transposed = (side == Side::Left) == (self.along == Along::Lines);
        let steps = self.steps();
        let strips = out.len() / (2 * steps);
        let (outer, inner) = match self.along {
            Along::Depth => (strips, steps),
            Along::Lines => (steps, strips),
        };
        // one call, which compilers inline: only then it is made of vectors
        for at in 0..outer * inner {
            let (strip, step) = match self.along {
                Along::Depth => (at / inner, at % inner),
                Along::Lines => (at % inner, at / inner),
            };
            for half in 0..2 {
                let tile = &mut out[2 * (strip * steps + step) + half];
                let line = (first + strip) * STRIP + half * 16;
                if line >= self.lines {
                    *tile = Bf16Tile::ZERO;
                    continue;
                }
                let pairs = self.pairs(line, step * DEPTH);
                tile.0 = if transposed { transpose(pairs) } else { pairs };
            }
        }
    }

    /// Strips that a thread packs together.
    fn strips_per_task(&self) -> usize {
        match self.along {
            Along::Depth => 1,
            Along::Lines => self.lines.div_ceil(STRIP).div_ceil(2 * rayon::current_num_threads()).max(2),
        }
    }
}

/// A few values and zeros; most often all of them, which compilers load at once.
#[inline(always)]
fn padded<T: Copy + Default, const N: usize>(x: &[T]) -> [T; N] {
    if let Some(all) = x.first_chunk::<N>() {
        return *all;
    }
    let mut out = [T::default(); N];
    out[..x.len()].copy_from_slice(x);
    out
}

/// The transpose, by exchanging ever smaller quarters, which compilers make shuffles of.
#[inline(always)]
fn transpose(mut m: [[u32; 16]; 16]) -> [[u32; 16]; 16] {
    exchange::<8>(&mut m);
    exchange::<4>(&mut m);
    exchange::<2>(&mut m);
    exchange::<1>(&mut m);
    m
}

/// Exchanges the upper right with the lower left quarter of every square of `2 S` rows.
#[inline(always)]
fn exchange<const S: usize>(m: &mut [[u32; 16]; 16]) {
    for row in (0..16).filter(|row| row & S == 0) {
        let (upper, lower) = (m[row], m[row + S]);
        for j in 0..16 {
            m[row][j] = if j & S == 0 { upper[j] } else { lower[j ^ S] };
            m[row + S][j] = if j & S == 0 { upper[j ^ S] } else { lower[j] };
        }
    }
}

/// Rounds to the nearest bf16, ties to even.
#[inline(always)]
pub(crate) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Which operand of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// A packed right operand, and its memory for the next one.
#[derive(Default)]
pub(crate) struct Packed {
    tiles: Vec<Bf16Tile>,
    lines: usize,
    steps: usize,
}

impl Packed {
    /// Packs a right operand with all threads.
    pub(crate) fn pack(&mut self, operand: &Operand<'_>) {
        self.prepare(operand);
        let strips = operand.strips_per_task();
        self.tiles.par_chunks_mut(2 * self.steps * strips).enumerate().for_each(|(task, tiles)| {
            vectorized(
                #[inline(always)]
                || operand.pack_strips(task * strips, Side::Right, tiles),
            );
        });
    }

    /// Packs a right operand on this thread.
    fn pack_here(&mut self, operand: &Operand<'_>) {
        self.prepare(operand);
        vectorized(
            #[inline(always)]
            || operand.pack_strips(0, Side::Right, &mut self.tiles),
        );
    }

    fn prepare(&mut self, operand: &Operand<'_>) {
        self.lines = operand.lines;
        self.steps = operand.steps();
        self.tiles.resize(operand.lines.div_ceil(STRIP) * 2 * self.steps, Bf16Tile::ZERO);
    }
}

/// What becomes of the sums.
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    /// Factor of all sums.
    pub(crate) scale: f32,
    /// Factor of each row.
    pub(crate) factors: Option<&'a [f32]>,
    /// Adds to what is there instead of replacing it.
    pub(crate) add: bool,
}

impl Store<'_> {
    /// Replaces what is there by the sums.
    pub(crate) const SET: Store<'static> = Store { scale: 1.0, factors: None, add: false };
    /// Adds the sums to what is there.
    pub(crate) const ADD: Store<'static> = Store { scale: 1.0, factors: None, add: true };

    /// Puts a block to columns `column..` of rows of `cols` values, the first of which is row `row` of the product.
    #[inline(always)]
    fn block(&self, sums: &Bf16Sums, row: usize, column: usize, cols: usize, out: &mut [f32]) {
        let width = STRIP.min(cols - column);
        for (r, (out, sums)) in out.chunks_mut(cols).zip(&sums.0).enumerate() {
            let factor = self.scale * self.factors.map_or(1.0, |factors| factors[row + r]);
            let out = &mut out[column..column + width];
            if self.add {
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum * factor);
            } else {
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
            }
        }
    }
}

thread_local! {
    /// Left strips, and a right operand of a product on one thread.
    static SCRATCH: RefCell<(Vec<Bf16Tile>, Packed)> = RefCell::default();
}

/// `out [left.lines, right.lines] = left · right`, with all threads.
pub(crate) fn matmul(left: &Operand<'_>, right: &Packed, store: Store<'_>, out: &mut [f32]) {
    let cols = right.lines;
    assert!(out.len() == left.lines * cols && left.steps() == right.steps, "shapes of a product");
    let strips = left.strips_per_task();
    out.par_chunks_mut(strips * STRIP * cols).enumerate().for_each(|(task, out)| {
        SCRATCH.with_borrow_mut(|(tiles, _)| product(left, task * strips, right, tiles, store, out));
    });
}

/// The same on this thread alone, for the small products of attention.
pub(crate) fn matmul_here(left: &Operand<'_>, right: &Operand<'_>, store: Store<'_>, out: &mut [f32]) {
    assert!(out.len() == left.lines * right.lines && left.depth == right.depth, "shapes of a product");
    SCRATCH.with_borrow_mut(|(tiles, packed)| {
        packed.pack_here(right);
        let strips = left.strips_per_task();
        for (task, out) in out.chunks_mut(strips * STRIP * right.lines).enumerate() {
            product(left, task * strips, packed, tiles, store, out);
        }
    });
}

/// Rows `32 first..` of a product, as many as there are in `out`.
fn product(
    left: &Operand<'_>,
    first: usize,
    right: &Packed,
    tiles: &mut Vec<Bf16Tile>,
    store: Store<'_>,
    out: &mut [f32],
) {
    let cols = right.lines;
    tiles.resize(out.len().div_ceil(STRIP * cols) * 2 * right.steps, Bf16Tile::ZERO);
    vectorized(
        #[inline(always)]
        || left.pack_strips(first, Side::Left, tiles),
    );
    let mut put = |strip: usize, column: usize, sums: &Bf16Sums| {
        let out = &mut out[strip * STRIP * cols..];
        vectorized(
            #[inline(always)]
            || store.block(sums, (first + strip) * STRIP, column * STRIP, cols, out),
        );
    };
    match Bf16Unit::new() {
        Some(unit) => unit.multiply(tiles, &right.tiles, right.steps, put),
        None => {
            for (strip, left) in tiles.chunks_exact(2 * right.steps).enumerate() {
                for (column, right) in right.tiles.chunks_exact(2 * right.steps).enumerate() {
                    let sums = vectorized(
                        #[inline(always)]
                        || vector_product(left, right),
                    );
                    put(strip, column, &sums);
                }
            }
        }
    }
}

/// Floating-point operations per second that all threads do at most: with the matrix unit on tiles that lie in the nearest cache, or with
/// vectors in registers where there is none. Takes some hundredths of a second.
pub(crate) fn peak() -> f64 {
    const STEPS: usize = 8;
    const REPEATS: usize = 200;
    let threads = rayon::current_num_threads();
    let Some(unit) = Bf16Unit::new() else {
        let cpu = Cpu::new(CpuOptions { threads: Some(threads), isa: None });
        return cpu.map_or(f64::INFINITY, |cpu| arithmetic_peak(&cpu).float);
    };
    let tiles = vec![Bf16Tile::ZERO; 2 * STEPS];
    let operations = (threads * REPEATS * STEPS * 2 * STRIP * STRIP * DEPTH) as f64;
    let pass = |_| {
        let start = Instant::now();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            for _ in 0..REPEATS {
                unit.multiply(black_box(&tiles), black_box(&tiles), STEPS, |_, _, sums| {
                    black_box(sums);
                });
            }
        });
        operations / start.elapsed().as_secs_f64()
    };
    (0..20).map(pass).fold(0.0, f64::max)
}

/// What the matrix unit does, with vectors: a row at a time stays in registers.
#[inline(always)]
fn vector_product(left: &[Bf16Tile], right: &[Bf16Tile]) -> Bf16Sums {
    let mut sums = Bf16Sums([[0.0; 32]; 32]);
    let (low, high) = (|x: u32| f32::from_bits(x << 16), |x: u32| f32::from_bits(x & 0xffff_0000));
    for (left, right) in left.chunks_exact(2).zip(right.chunks_exact(2)) {
        for (half, rows) in sums.0.chunks_exact_mut(16).enumerate() {
            for (pairs, sums) in left[half].0.chunks_exact(4).zip(rows.chunks_exact_mut(4)) {
                let mut acc: [[f32; 32]; 4] = [sums[0], sums[1], sums[2], sums[3]];
                for depth in 0..16 {
                    let (a, b) = (&right[0].0[depth], &right[1].0[depth]);
                    for (acc, pairs) in acc.iter_mut().zip(pairs) {
                        let (x, y) = (low(pairs[depth]), high(pairs[depth]));
                        for i in 0..16 {
                            acc[i] = x.mul_add(low(a[i]), y.mul_add(high(a[i]), acc[i]));
                            acc[16 + i] = x.mul_add(low(b[i]), y.mul_add(high(b[i]), acc[16 + i]));
                        }
                    }
                }
                sums.copy_from_slice(&acc);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn bf16(x: f32) -> f64 {
        f64::from(f32::from_bits(u32::from(round(x)) << 16))
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        assert_eq!(round(1.0), 0x3f80);
        assert_eq!(round(1.0 + 1.0 / 256.0), 0x3f80, "a tie goes to the even value below");
        assert_eq!(round(1.0 + 3.0 / 256.0), 0x3f82, "and to the even value above");
        assert_eq!(round(-1.00391), 0xbf81);
        assert_eq!(round(0.0), 0);
        assert_eq!(round(f32::INFINITY), 0x7f80);
        assert!(f32::from_bits(u32::from(round(f32::NAN)) << 16).is_nan());
    }

    #[test]
    fn transposing() {
        let m = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as u32));
        let t = transpose(m);
        assert!((0..16).all(|i| (0..16).all(|j| t[i][j] == m[j][i])));
    }

    /// Every layout of both operands, odd sizes, factors, against sums in f64.
    #[test]
    fn products() {
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (32, 32, 32), (33, 65, 31), (64, 40, 100), (70, 96, 257)] {
            for layout in 0..4 {
                let mut random = Random::new(m as u64 * 1000 + n as u64, layout);
                let (a, b) = (random.normal(m * k, 1.0), random.normal(n * k, 1.0));
                let factors = random.normal(m.max(n).max(k), 1.0);
                let half: Vec<u16> = b.iter().map(|&x| round(x)).collect();
                let left = match layout & 1 {
                    0 => Operand { factors: Some(&factors), ..Operand::rows(Values::F32(&a), m, k) },
                    _ => Operand { factors: Some(&factors), ..Operand::columns(Values::F32(&a), k, m) },
                };
                let right = match layout & 2 {
                    0 => Operand::rows(Values::Bf16(&half), n, k),
                    _ => Operand::columns(Values::F32(&b), k, n),
                };
                let (mut there, mut here) = (vec![1.0; m * n], vec![1.0; m * n]);
                let store = Store { scale: 0.5, factors: Some(&factors), add: true };
                let mut packed = Packed::default();
                packed.pack(&right);
                matmul(&left, &packed, store, &mut there);
                matmul_here(&left, &right, store, &mut here);
                assert_eq!(there, here);
                for i in 0..m {
                    for j in 0..n {
                        let (mut sum, mut magnitude) = (0.0, 0.0);
                        for d in 0..k {
                            let (x, f) =
                                if layout & 1 == 0 { (a[i * k + d], factors[i]) } else { (a[d * m + i], factors[d]) };
                            let y = if layout & 2 == 0 { b[j * k + d] } else { b[d * n + j] };
                            sum += bf16(x * f) * bf16(y);
                            magnitude += (bf16(x * f) * bf16(y)).abs();
                        }
                        let (want, got) = (1.0 + 0.5 * f64::from(factors[i]) * sum, f64::from(here[i * n + j]));
                        let bound = 1e-6 + 1e-5 * magnitude;
                        assert!((got - want).abs() < bound, "{m}x{n}x{k}, {layout}: [{i}, {j}] {got}, not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn vectors_give_what_the_unit_gives() {
        let Some(unit) = Bf16Unit::new() else {
            eprintln!("SKIPPED: no matrix unit for bf16");
            return;
        };
        let mut random = Random::new(5, 5);
        let mut tiles = |count: usize| -> Vec<Bf16Tile> {
            let mut tile = || {
                let mut tile = Bf16Tile::ZERO;
                tile.0.as_flattened_mut().iter_mut().for_each(|x| {
                    let pair = random.normal(2, 1.0);
                    *x = u32::from(round(pair[0])) | u32::from(round(pair[1])) << 16;
                });
                tile
            };
            (0..count).map(|_| tile()).collect()
        };
        let (left, right) = (tiles(6), tiles(6));
        let want = vector_product(&left, &right);
        unit.multiply(&left, &right, 3, |_, _, sums| {
            for (got, want) in sums.0.as_flattened().iter().zip(want.0.as_flattened()) {
                assert!((got - want).abs() < 1e-4, "{got}, not {want}");
            }
        });
    }
}
