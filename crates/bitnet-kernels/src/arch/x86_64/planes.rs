//! Sums over the bit planes of a head.
//!
//! Codes are unsigned bytes below 32, activations come as two int8 halves of 16 bits.

use std::arch::x86_64::*;

use super::bytes::Bytes;
use crate::planes::{BITS, BLOCK, CoarseRows, HALVES, Query};

/// How far ahead of the products the codes are fetched.
const PREFETCH: usize = 4096;
/// Streams in which rows are read: memory gives a core more that way than in one.
const STREAMS: usize = 4;
/// Queries that share unpacked codes.
const QUERIES: usize = 8;

/// Upper and lower halves of activations.
type Halves<'a> = (&'a [[i8; BLOCK]], &'a [[i8; BLOCK]]);

/// `256 Σ high + Σ low`
pub(super) fn whole(high: i32, low: i32) -> i64 {
    256 * i64::from(high) + i64::from(low)
}

/// Calls a function of a constant number of queries for all rows, in an order of several streams.
macro_rules! for_all_rows {
    ($rows:expr, $queries:expr, $store:expr, $sums:ident $(, $bytes:ident)?) => {{
        let (rows, queries, mut store) = ($rows, $queries, $store);
        let stream = rows.len() / STREAMS;
        let in_streams = (0..stream).flat_map(|row| (0..STREAMS).map(move |s| s * stream + row));
        for row in in_streams.chain(STREAMS * stream..rows.len()) {
            for (block, queries) in queries.chunks(QUERIES).enumerate() {
                let mut store = |sums: &[i64]| {
                    sums.iter().enumerate().for_each(|(q, &sum)| store(row, block * QUERIES + q, sum));
                };
                match queries.len() {
                    1 => store(&$sums::<1>($($bytes,)? rows.row(row), queries)),
                    2 => store(&$sums::<2>($($bytes,)? rows.row(row), queries)),
                    3 => store(&$sums::<3>($($bytes,)? rows.row(row), queries)),
                    4 => store(&$sums::<4>($($bytes,)? rows.row(row), queries)),
                    5 => store(&$sums::<5>($($bytes,)? rows.row(row), queries)),
                    6 => store(&$sums::<6>($($bytes,)? rows.row(row), queries)),
                    7 => store(&$sums::<7>($($bytes,)? rows.row(row), queries)),
                    _ => store(&$sums::<8>($($bytes,)? rows.row(row), queries)),
                }
            }
        }
    }};
}

/// `store(row, query, Σ (u / 4) x̂)` for all rows and queries. A block adds at most 8 · 31 · 128 to a 32-bit lane: enough room
/// for the 512 blocks of the longest rows.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn coarse_sums_avx512(rows: CoarseRows<'_>, queries: &[Query], store: impl FnMut(usize, usize, i64)) {
    for_all_rows!(rows, queries, store, coarse_avx512);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn coarse_avx512<const Q: usize>(row: (&[[u8; HALVES]], &[[u8; BITS]]), queries: &[Query]) -> [i64; Q] {
    let mut x: [Halves<'_>; Q] = [(&[], &[]); Q];
    for q in 0..Q {
        let (high, low) = queries[q].halves();
        x[q] = (&high[..row.0.len()], &low[..row.0.len()]);
    }
    let mut sums = [[_mm512_setzero_si512(); 2]; Q];
    for (block, (halves, bits)) in row.0.iter().zip(row.1).enumerate() {
        _mm_prefetch::<_MM_HINT_T0>(halves.as_ptr().wrapping_add(PREFETCH).cast()); // may name any address
        let codes = unpack_512(halves, bits);
        for q in 0..Q {
            add_products_512(codes, &x[q].0[block], &mut sums[q][0]);
            add_products_512(codes, &x[q].1[block], &mut sums[q][1]);
        }
    }
    let mut out = [0; Q];
    for q in 0..Q {
        out[q] = whole(_mm512_reduce_add_epi32(sums[q][0]), _mm512_reduce_add_epi32(sums[q][1]));
    }
    out
}

/// Coarse codes of a block: of columns `0..64` and `64..128`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack_512(halves: &[u8; HALVES], bits: &[u8; BITS]) -> [__m512i; 2] {
    let (even, one) = (_mm512_set1_epi8(0x1e), _mm512_set1_epi8(1));
    let [b0, b1] = words(bits);
    // SAFETY: the load is that of an array of 64 bytes.
    let halves = unsafe { _mm512_loadu_si512(halves.as_ptr().cast()) };
    let first = _mm512_and_si512(_mm512_slli_epi16::<1>(halves), even);
    let second = _mm512_and_si512(_mm512_srli_epi16::<3>(halves), even);
    [_mm512_mask_add_epi8(first, b0, first, one), _mm512_mask_add_epi8(second, b1, second, one)]
}

/// Adds the products of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_products_512(codes: [__m512i; 2], x: &[i8; BLOCK], sum: &mut __m512i) {
    // SAFETY: both loads are inside of an array of 128 bytes.
    unsafe {
        *sum = _mm512_dpbusd_epi32(*sum, codes[0], _mm512_loadu_si512(x.as_ptr().cast()));
        *sum = _mm512_dpbusd_epi32(*sum, codes[1], _mm512_loadu_si512(x.as_ptr().add(64).cast()));
    }
}

/// `Σ bit high` of one row of the fine or the finest plane.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn bit_sum_avx512(bits: &[u8], query: &Query) -> i32 {
    let (bits, high) = (bits.as_chunks::<BITS>().0, query.halves().0);
    let high = &high[..bits.len()];
    let mut sums = [[_mm512_setzero_si512(); 2]; 2]; // independent: of even and odd blocks
    for first in (0..bits.len() / 2 * 2).step_by(2) {
        for i in 0..2 {
            add_bits_512(&bits[first + i], &high[first + i], &mut sums[i]);
        }
    }
    if let Some(last) = bits.len().checked_sub(1).filter(|last| last % 2 == 0) {
        add_bits_512(&bits[last], &high[last], &mut sums[0]);
    }
    let [[a, b], [c, d]] = sums;
    _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)))
}

/// Adds what a block of bits selects of the activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_bits_512(bits: &[u8; BITS], high: &[i8; BLOCK], sums: &mut [__m512i; 2]) {
    let one = _mm512_set1_epi8(1);
    let words = words(bits);
    for i in 0..2 {
        // SAFETY: both loads are inside of an array of 128 bytes.
        let high = unsafe { _mm512_loadu_si512(high.as_ptr().add(64 * i).cast()) };
        sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_maskz_mov_epi8(words[i], one), high);
    }
}

/// The bits of columns `0..64` and `64..128`.
#[inline(always)]
fn words(bits: &[u8; BITS]) -> [u64; 2] {
    let bits = u128::from_le_bytes(*bits);
    [bits as u64, (bits >> 64) as u64]
}

/// `store(row, query, Σ (u / 4) x̂)` for all rows and queries.
#[inline(always)]
pub(super) fn coarse_sums<B: Bytes>(
    b: B,
    rows: CoarseRows<'_>,
    queries: &[Query],
    store: impl FnMut(usize, usize, i64),
) {
    for_all_rows!(rows, queries, store, coarse, b);
}

#[inline(always)]
fn coarse<const Q: usize>(b: impl Bytes, row: (&[[u8; HALVES]], &[[u8; BITS]]), queries: &[Query]) -> [i64; Q] {
    let even = b.splat(0x1e);
    let mut x: [Halves<'_>; Q] = [(&[], &[]); Q];
    for q in 0..Q {
        let (high, low) = queries[q].halves();
        x[q] = (&high[..row.0.len()], &low[..row.0.len()]);
    }
    let mut sums = [[b.zero(); 2]; Q];
    for (block, (halves, bits)) in row.0.iter().zip(row.1).enumerate() {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(halves.as_ptr().wrapping_add(PREFETCH).cast()) };
        let codes = block_codes(b, |i| {
            let at = i * width(b);
            // SAFETY: the load is inside of an array of 64 bytes.
            let halves = unsafe { b.load(halves.as_ptr().add(at % HALVES)) };
            let shifted = if at < HALVES { b.shift_left::<1>(halves) } else { b.shift_right::<3>(halves) };
            b.sub8(b.and(shifted, even), b.spread(bits, i)) // less -1
        });
        for q in 0..Q {
            add_products(b, &codes, &x[q].0[block], &mut sums[q][0]);
            add_products(b, &codes, &x[q].1[block], &mut sums[q][1]);
        }
    }
    sums.map(|sums| whole(b.sum(sums[0]), b.sum(sums[1])))
}

/// `Σ bit high` of one row of the fine or the finest plane.
#[inline(always)]
pub(super) fn bit_sum<B: Bytes>(b: B, bits: &[u8], query: &Query) -> i32 {
    let mut sum = b.zero();
    for (bits, high) in bits.as_chunks::<BITS>().0.iter().zip(query.halves().0) {
        let codes = block_codes(b, |i| b.and(b.spread(bits, i), b.splat(1)));
        add_products(b, &codes, high, &mut sum);
    }
    b.sum(sum)
}

/// Codes of a block of columns: vectors beyond those that the tier needs are not used.
type Codes<B> = [<B as Bytes>::V; BLOCK / 16];

#[inline(always)]
fn width<B: Bytes>(_: B) -> usize {
    B::WIDTH
}

#[inline(always)]
fn block_codes<B: Bytes>(b: B, code: impl Fn(usize) -> B::V) -> Codes<B> {
    let mut codes = [b.zero(); BLOCK / 16];
    for i in 0..BLOCK / B::WIDTH {
        codes[i] = code(i);
    }
    codes
}

/// Adds the products of a block. Four products add at most 4 · 2 · 31 · 128 = 31744 to a lane, which may have 16 bits.
#[inline(always)]
fn add_products<B: Bytes>(b: B, codes: &Codes<B>, x: &[i8; BLOCK], sum: &mut B::V) {
    for first in (0..BLOCK / B::WIDTH).step_by(4) {
        let mut narrow = b.zero();
        for i in first..first + 4 {
            // SAFETY: the load is inside of the array.
            let x = unsafe { b.load(x.as_ptr().add(i * B::WIDTH).cast()) };
            narrow = b.add_products(narrow, codes[i], x);
        }
        *sum = b.add32(*sum, b.widen(narrow));
    }
}
