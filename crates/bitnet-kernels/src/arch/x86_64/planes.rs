//! Sums over the bit planes of a head.
//!
//! Codes are unsigned bytes below 32, or below 64 with the fine plane (`FINE`); activations come as two int8 halves of 16 bits, of
//! which fine codes meet the upper ones only.

use std::arch::x86_64::*;

use super::bytes::Bytes;
use super::ternary_avx512vnni::eight_sums;
use crate::planes::{BITS, BLOCK, CodeRow, CodeRows, HALVES, Look, Query};

/// How far ahead of the products the codes are fetched (2 and 4 KB, two and four streams were compared on Zen 3).
const PREFETCH: usize = 2048;
/// Streams in which rows are read: memory gives a core more that way than in one.
const STREAMS: usize = 2;
/// The same with AVX-512, as chosen on Intel's servers.
const PREFETCH_512: usize = 4096;
const STREAMS_512: usize = 4;
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
    ($streams:ident, $rows:expr, $queries:expr, $store:expr, $sums:ident, $fine:literal $(, $bytes:ident)?) => {{
        let (rows, queries, store) = ($rows, $queries, &mut $store);
        let stream = rows.len() / $streams;
        let in_streams = (0..stream).flat_map(|row| (0..$streams).map(move |s| s * stream + row));
        for row in in_streams.chain($streams * stream..rows.len()) {
            for (block, queries) in queries.chunks(QUERIES).enumerate() {
                let mut sums = [0; QUERIES]; // one call of `store`, which is then no call
                macro_rules! of {
                    ($q:literal) => {
                        $sums::<$fine, $q>($($bytes,)? rows.row(row), queries, &mut sums)
                    };
                }
                match queries.len() {
                    1 => of!(1),
                    2 => of!(2),
                    3 => of!(3),
                    4 => of!(4),
                    5 => of!(5),
                    6 => of!(6),
                    7 => of!(7),
                    _ => of!(8),
                }
                store(row, block * QUERIES, &sums[..queries.len()]);
            }
        }
    }};
}

/// See [`scalar::first_sums`](crate::planes::scalar::first_sums). A block adds at most 8 · 63 · 127 to a 32-bit lane: enough room for the 512 blocks of the
/// longest rows.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn first_sums_avx512(
    look: Look,
    rows: CodeRows<'_>,
    queries: &[Query],
    mut store: impl FnMut(usize, usize, &[i64]),
) {
    match look {
        Look::Coarse => for_all_rows!(STREAMS_512, rows, queries, store, row_avx512, false),
        Look::Fine => for_all_rows!(STREAMS_512, rows, queries, store, row_avx512, true),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn row_avx512<const FINE: bool, const Q: usize>(row: CodeRow<'_>, queries: &[Query], out: &mut [i64; QUERIES]) {
    let blocks = row.halves.len();
    let (bits, fine) = (&row.bits[..blocks], &row.fine[..blocks]);
    let mut x: [Halves<'_>; Q] = [(&[], &[]); Q];
    for q in 0..Q {
        let (high, low) = queries[q].halves();
        x[q] = (&high[..blocks], &low[..blocks]);
    }
    let one = _mm512_set1_epi8(opaque(1));
    let mut sums = [[_mm512_setzero_si512(); QUERIES]; 2];
    for (block, halves) in row.halves.iter().enumerate() {
        _mm_prefetch::<_MM_HINT_T0>(halves.as_ptr().wrapping_add(PREFETCH_512).cast()); // may name any address
        _mm_prefetch::<_MM_HINT_T0>(bits[block].as_ptr().wrapping_add(PREFETCH_512).cast());
        let mut codes = unpack_512(halves, &bits[block], one);
        if FINE {
            _mm_prefetch::<_MM_HINT_T0>(fine[block].as_ptr().wrapping_add(PREFETCH_512).cast());
            for (codes, bits) in codes.iter_mut().zip(words(&fine[block])) {
                let twice = _mm512_add_epi8(*codes, *codes);
                *codes = _mm512_mask_add_epi8(twice, bits, twice, one);
            }
        }
        for q in 0..Q {
            add_products_512(codes, &x[q].0[block], &mut sums[0][q]);
            if !FINE {
                add_products_512(codes, &x[q].1[block], &mut sums[1][q]);
            }
        }
    }
    let (high, low) = (eight_sums(sums[0]), if FINE { [0; QUERIES] } else { eight_sums(sums[1]) });
    for q in 0..Q {
        out[q] = if FINE { i64::from(high[q]) } else { whole(high[q], low[q]) };
    }
}

/// `x`, of which the compiler knows nothing: it turns additions of a known bit into two instructions.
#[inline(always)]
fn opaque(mut x: i8) -> i8 {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(reg_byte) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}

/// Coarse codes of a block: of columns `0..64` and `64..128`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack_512(halves: &[u8; HALVES], bits: &[u8; BITS], one: __m512i) -> [__m512i; 2] {
    let even = _mm512_set1_epi8(0x1e);
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

/// See [`scalar::first_sums`](crate::planes::scalar::first_sums).
#[inline(always)]
pub(super) fn first_sums<B: Bytes>(
    b: B,
    look: Look,
    rows: CodeRows<'_>,
    queries: &[Query],
    mut store: impl FnMut(usize, usize, &[i64]),
) {
    match look {
        Look::Coarse => for_all_rows!(STREAMS, rows, queries, store, row, false, b),
        Look::Fine => for_all_rows!(STREAMS, rows, queries, store, row, true, b),
    }
}

#[inline(always)]
fn row<const FINE: bool, const Q: usize>(b: impl Bytes, row: CodeRow<'_>, queries: &[Query], out: &mut [i64; QUERIES]) {
    let even = b.splat(0x1e);
    let blocks = row.halves.len();
    let (bits, fine) = (&row.bits[..blocks], &row.fine[..blocks]);
    let mut x: [Halves<'_>; Q] = [(&[], &[]); Q];
    for q in 0..Q {
        let (high, low) = queries[q].halves();
        x[q] = (&high[..blocks], &low[..blocks]);
    }
    let mut sums = [[b.zero(); 2]; Q];
    for (block, halves) in row.halves.iter().enumerate() {
        // SAFETY: a prefetch may name any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(halves.as_ptr().wrapping_add(PREFETCH).cast());
            _mm_prefetch::<_MM_HINT_T0>(bits[block].as_ptr().wrapping_add(PREFETCH).cast());
            if FINE {
                _mm_prefetch::<_MM_HINT_T0>(fine[block].as_ptr().wrapping_add(PREFETCH).cast());
            }
        }
        // No closures around instructions: they would not have the features, and may be called.
        let mut codes = [b.zero(); BLOCK / 16];
        for i in 0..BLOCK / width(b) {
            let at = i * width(b);
            // SAFETY: the load is inside of an array of 64 bytes.
            let halves = unsafe { b.load(halves.as_ptr().add(at % HALVES)) };
            let shifted = if at < HALVES { b.shift_left::<1>(halves) } else { b.shift_right::<3>(halves) };
            codes[i] = b.sub8(b.and(shifted, even), b.spread(&bits[block], i)); // less -1
            if FINE {
                codes[i] = b.sub8(codes[i], b.sub8(b.spread(&fine[block], i), codes[i])); // twice that, and 1
            }
        }
        for q in 0..Q {
            if FINE {
                add_products::<_, 2>(b, &codes, &x[q].0[block], &mut sums[q][0]);
            } else {
                add_products::<_, 4>(b, &codes, &x[q].0[block], &mut sums[q][0]);
                add_products::<_, 4>(b, &codes, &x[q].1[block], &mut sums[q][1]);
            }
        }
    }
    for (out, [high, low]) in out.iter_mut().zip(sums) {
        *out = if FINE { i64::from(b.sum(high)) } else { whole(b.sum(high), b.sum(low)) };
    }
}

/// `Σ bit high` of one row of the fine or the finest plane.
#[inline(always)]
pub(super) fn bit_sum<B: Bytes>(b: B, bits: &[u8], query: &Query) -> i32 {
    let mut sum = b.zero();
    for (bits, high) in bits.as_chunks::<BITS>().0.iter().zip(query.halves().0) {
        let mut codes = [b.zero(); BLOCK / 16];
        for i in 0..BLOCK / B::WIDTH {
            codes[i] = b.and(b.spread(bits, i), b.splat(1));
        }
        add_products::<_, 4>(b, &codes, high, &mut sum);
    }
    b.sum(sum)
}

/// Codes of a block of columns: vectors beyond those that the tier needs are not used.
type Codes<B> = [<B as Bytes>::V; BLOCK / 16];

#[inline(always)]
fn width<B: Bytes>(_: B) -> usize {
    B::WIDTH
}

/// Adds the products of a block, `N` together: four add at most 4 · 2 · 31 · 128 = 31744 to a lane, which may have 16 bits, two of
/// fine codes 2 · 2 · 63 · 127 = 32004.
#[inline(always)]
fn add_products<B: Bytes, const N: usize>(b: B, codes: &Codes<B>, x: &[i8; BLOCK], sum: &mut B::V) {
    for first in (0..BLOCK / B::WIDTH).step_by(N) {
        let mut narrow = b.zero();
        for i in first..first + N {
            // SAFETY: the load is inside of the array.
            let x = unsafe { b.load(x.as_ptr().add(i * B::WIDTH).cast()) };
            narrow = b.add_products(narrow, codes[i], x);
        }
        *sum = b.add32(*sum, b.widen(narrow));
    }
}
