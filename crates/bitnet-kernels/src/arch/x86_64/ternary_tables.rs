//! Ternary matrix products of many tokens, by tables.
//!
//! A byte of weights holds four columns in one of 81 combinations. For all of these, the sum of four activations with
//! their signs is computed once, for 16 tokens at a time, and every row of the matrix looks its sums up: a load and an
//! addition of 16-bit lanes do four products each, twice as many as a multiplication and an addition (`vpmaddubsw`,
//! `vpaddw`) of vectors of the same width. (Kronrod's method of the "four Russians"; T-MAC and bitnet.cpp look up sums
//! of columns of a single token, with byte shuffles.)
//!
//! Making a table costs 80 additions and 81 stores, using it a row costs one load, so the method needs many rows.
//! There are no intrinsics but for transposing: the arrays become the vectors of the tier that this is compiled for.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::cpu::{Quantized, UNIT};
use crate::ternary_matmul::Panel;

/// Tokens that share a look-up: a vector of 16-bit sums.
const LANES: usize = 16;
/// Rows of a panel from which on tables pay.
const FEWEST_ROWS: usize = 96;
const _: () = assert!(FEWEST_ROWS <= crate::cpu::self_test::ROWS, "tables that no self-test has seen");
/// Tokens from which on a block of [`LANES`] pays, the others being empty.
const FEWEST_TOKENS: usize = 14;
/// Rows that share tables.
const ROWS: usize = 832;
/// Blocks of tokens that share decoded weights.
const BLOCKS: usize = 4;
/// Rows whose results are stored together, some cache lines per token.
const LINE: usize = 64;
/// Combinations of four weights.
const COMBINATIONS: usize = 81;
/// Tables in use at a time: 20 KB of a first-level cache, of which many have 32.
const TABLES: usize = 8;
/// Bytes of weights whose sums fit 16 bits: 64 · 4 · 127 = 32512.
const SLAB: usize = 64;

/// One value per token.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Lanes([i16; LANES]);

/// Where in a table the combinations of one row and [`TABLES`] bytes stand, in bytes: four in an integer, because loads are what bounds
/// the loop that looks up.
type Offsets = [u64; TABLES / 4];

/// Activations of the four columns of a byte of weights.
type Columns = [Lanes; 4];

/// Entries of all tables, and room for an offset that only illegal codes would have (at most 255 − 111 − 21 − 3 = 120
/// entries): then no byte leads out of the array.
const ENTRIES: usize = TABLES * COMBINATIONS + 40;
struct Tables([Lanes; ENTRIES]);

/// How many of the first tokens of `x` to multiply by tables, rather than one by one.
pub(super) fn worthwhile(panel: Panel<'_>, x: &Quantized) -> usize {
    let rest = x.len() % LANES;
    match panel.rows() {
        0..FEWEST_ROWS => 0,
        _ if rest < FEWEST_TOKENS => x.len() - rest,
        _ => x.len(),
    }
}

/// `store(row, token, sums)` for all rows of the panel, some at a time, and `tokens` of `x`; sums are `Σ q·code`.
#[inline(always)]
pub(super) fn multiply(
    panel: Panel<'_>,
    x: &Quantized,
    tokens: Range<usize>,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let parts = panel.rows().div_ceil(ROWS);
    for part in 0..parts {
        let rows = panel.rows() * part / parts..panel.rows() * (part + 1) / parts;
        for first in tokens.clone().step_by(BLOCKS * LANES) {
            multiply_block(panel, rows.clone(), x, first..tokens.end.min(first + BLOCKS * LANES), store);
        }
    }
}

/// At most [`ROWS`] rows and [`BLOCKS`] times [`LANES`] tokens.
#[inline(always)]
fn multiply_block(
    panel: Panel<'_>,
    rows: Range<usize>,
    x: &Quantized,
    tokens: Range<usize>,
    store: &mut impl FnMut(usize, usize, &[i32]),
) {
    let mut tables = Tables([Lanes([0; LANES]); ENTRIES]);
    let mut columns = [[Lanes([0; LANES]); 4]; SLAB];
    let mut offsets = [[[0; TABLES / 4]; ROWS]; SLAB / TABLES];
    let mut narrow = [Lanes([0; LANES]); ROWS];
    let mut sums = [[[0; LANES]; ROWS]; BLOCKS];
    let count = rows.len();
    // The tables hold sums of weights: what the codes 0..=2 have more is the sum of the activations.
    for (first, sums) in tokens.clone().step_by(LANES).zip(&mut sums) {
        let mut start = [0; LANES];
        for (start, token) in start.iter_mut().zip(first..tokens.end) {
            *start = x.row(token).sum;
        }
        sums[..count].fill(start);
    }
    let row_bytes = panel.row(0).len();
    for at in (0..row_bytes).step_by(SLAB) {
        let bytes = SLAB.min(row_bytes - at);
        for (r, row) in rows.clone().enumerate() {
            find_offsets(&panel.row(row)[at..at + bytes], r, &mut offsets);
        }
        for (first, sums) in tokens.clone().step_by(LANES).zip(&mut sums) {
            gather(x, first..tokens.end.min(first + LANES), at / SLAB, &mut columns);
            for (step, offsets) in offsets[..bytes / TABLES].iter().enumerate() {
                for (columns, table) in columns[step * TABLES..][..TABLES].iter().zip(tables.0.as_chunks_mut().0) {
                    fill(columns, table);
                }
                look_up(&tables, &offsets[..count], &mut narrow[..count]);
            }
            for (sums, narrow) in sums[..count].iter_mut().zip(&mut narrow) {
                for (sum, narrow) in sums.iter_mut().zip(&narrow.0) {
                    *sum += i32::from(*narrow);
                }
                *narrow = Lanes([0; LANES]);
            }
        }
    }
    for (first_token, sums) in tokens.clone().step_by(LANES).zip(&sums) {
        for (first, sums) in rows.clone().step_by(LINE).zip(sums[..count].chunks(LINE)) {
            let mut lines = [[0; LINE]; LANES];
            for (r, sums) in sums.iter().enumerate() {
                for (line, &sum) in lines.iter_mut().zip(sums) {
                    line[r] = sum;
                }
            }
            for (token, line) in (first_token..tokens.end).zip(&lines) {
                store(first, token, &line[..sums.len()]);
            }
        }
    }
}

/// Turns 2-bit codes, `64 a + 16 b + 4 c + d`, into positions `27 a + 9 b + 3 c + d`.
#[inline(always)]
fn find_offsets(bytes: &[u8], row: usize, offsets: &mut [[Offsets; ROWS]; SLAB / TABLES]) {
    // SAFETY: a hint, for the end of the same row's next slab: its beginning is in this cache line, or in the same as the end.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(2 * SLAB - 1).cast()) };
    let mut offsets = offsets.iter_mut();
    for block in bytes.as_chunks::<32>().0 {
        // In two loops, so that the first has vectors of bytes.
        let mut entries = [0u8; 32];
        for (entry, &byte) in entries.iter_mut().zip(block) {
            let pairs = byte - (byte >> 2 & 0x33); // 16 (3 a + b) + 3 c + d
            *entry = pairs - (pairs >> 4) * 7;
        }
        let mut found = [0u16; 32];
        for (found, entry) in found.iter_mut().zip(entries) {
            *found = u16::from(entry) * size_of::<Lanes>() as u16;
        }
        for (found, offsets) in found.as_chunks::<TABLES>().0.iter().zip(&mut offsets) {
            // SAFETY: integers of the same size altogether.
            offsets[row] = unsafe { std::mem::transmute::<[u16; TABLES], Offsets>(*found) };
        }
    }
}

/// All sums of four columns with signs.
#[inline(always)]
fn fill(columns: &Columns, table: &mut [Lanes; COMBINATIONS]) {
    let [a, b, c, d] = columns;
    for (i, table) in table.as_chunks_mut::<27>().0.iter_mut().enumerate() {
        let sum = add(&Lanes([0; LANES]), a, i as i16 - 1);
        for (j, table) in table.as_chunks_mut::<9>().0.iter_mut().enumerate() {
            let sum = add(&sum, b, j as i16 - 1);
            for (k, table) in table.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let sum = add(&sum, c, k as i16 - 1);
                table[0] = add(&sum, d, -1);
                table[1] = sum;
                table[2] = add(&sum, d, 1);
            }
        }
    }
}

/// `x + sign y`
#[inline(always)]
fn add(x: &Lanes, y: &Lanes, sign: i16) -> Lanes {
    let mut out = *x;
    for i in 0..LANES {
        out.0[i] += sign * y.0[i];
    }
    out
}

/// Adds what every row finds in the tables to its sums.
#[inline(always)]
fn look_up(tables: &Tables, offsets: &[Offsets], sums: &mut [Lanes]) {
    for (offsets, sums) in offsets.iter().zip(sums) {
        let mut total = *sums;
        for table in 0..TABLES {
            let offset = offsets[table / 4] >> (16 * (table % 4)) & 0xFFFF;
            // SAFETY: an offset is at most 120 times the size of an entry, whatever the byte was: see `Tables`.
            let found = unsafe { &*tables.0.as_ptr().add(table * COMBINATIONS).byte_add(offset as usize) };
            total = add(&total, found, 1);
        }
        *sums = total;
    }
}

/// Activations of the four columns of each byte of `slab`, zeros where there are fewer tokens.
#[inline(always)]
fn gather(x: &Quantized, tokens: Range<usize>, slab: usize, out: &mut [Columns; SLAB]) {
    let mut rows: [&[[i8; LANES]]; LANES] = [&[[0; LANES]; UNIT / LANES]; LANES];
    for (row, token) in rows.iter_mut().zip(tokens) {
        *row = x.row(token).codes[slab * UNIT..(slab + 1) * UNIT].as_chunks().0;
    }
    for square in 0..UNIT / LANES {
        // SAFETY: as below; every x86-64 processor has SSE2. No closure, which may become a call.
        let mut columns = [unsafe { _mm_setzero_si128() }; LANES];
        for (column, row) in columns.iter_mut().zip(rows) {
            // SAFETY: the load is that of an array of 16 bytes.
            *column = unsafe { _mm_loadu_si128(row[square].as_ptr().cast()) };
        }
        let columns = transpose(columns);
        // A unit of activations has 64 columns of chunk 0, then those of chunk 1, and so on.
        let (chunk, first) = (square / (SLAB / LANES), square % (SLAB / LANES) * LANES);
        for (column, out) in columns.iter().zip(&mut out[first..first + LANES]) {
            let mut bytes = [0i8; LANES];
            // SAFETY: the store is that of an array of 16 bytes.
            unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), *column) };
            for (out, byte) in out[chunk].0.iter_mut().zip(bytes) {
                *out = i16::from(byte);
            }
        }
    }
}

/// 16 × 16 bytes: four times, every row is interleaved with the one eight further.
#[inline(always)]
fn transpose(mut rows: [__m128i; 16]) -> [__m128i; 16] {
    for _ in 0..4 {
        let mut next = rows;
        for i in 0..8 {
            // SAFETY: every x86-64 processor has SSE2.
            unsafe {
                next[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + 8]);
                next[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + 8]);
            }
        }
        rows = next;
    }
    rows
}
