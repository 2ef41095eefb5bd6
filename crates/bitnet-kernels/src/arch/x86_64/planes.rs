//! Sums over the bit planes of a head.
//!
//! Codes are unsigned bytes below 32, activations come as two int8 halves of 16 bits.

use std::arch::x86_64::*;

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
fn whole(high: i32, low: i32) -> i64 {
    256 * i64::from(high) + i64::from(low)
}

/// Calls a function of a constant number of queries for all rows, in an order of several streams.
macro_rules! for_all_rows {
    ($rows:expr, $queries:expr, $store:expr, $sums:ident) => {{
        let (rows, queries, mut store) = ($rows, $queries, $store);
        let stream = rows.len() / STREAMS;
        let in_streams = (0..stream).flat_map(|row| (0..STREAMS).map(move |s| s * stream + row));
        for row in in_streams.chain(STREAMS * stream..rows.len()) {
            for (block, queries) in queries.chunks(QUERIES).enumerate() {
                let mut store = |sums: &[i64]| {
                    sums.iter().enumerate().for_each(|(q, &sum)| store(row, block * QUERIES + q, sum));
                };
                match queries.len() {
                    1 => store(&$sums::<1>(rows.row(row), queries)),
                    2 => store(&$sums::<2>(rows.row(row), queries)),
                    3 => store(&$sums::<3>(rows.row(row), queries)),
                    4 => store(&$sums::<4>(rows.row(row), queries)),
                    5 => store(&$sums::<5>(rows.row(row), queries)),
                    6 => store(&$sums::<6>(rows.row(row), queries)),
                    7 => store(&$sums::<7>(rows.row(row), queries)),
                    _ => store(&$sums::<8>(rows.row(row), queries)),
                }
            }
        }
    }};
}

/// `store(row, query, Σ (u / 2) x̂)` for all rows and queries. A block adds at most 8 · 31 · 128 to a 32-bit lane: enough room
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
    let (even, one) = (_mm512_set1_epi8(0x1e), _mm512_set1_epi8(1));
    let mut x: [Halves<'_>; Q] = [(&[], &[]); Q];
    for q in 0..Q {
        let (high, low) = queries[q].halves();
        x[q] = (&high[..row.0.len()], &low[..row.0.len()]);
    }
    let mut sums = [[_mm512_setzero_si512(); 2]; Q];
    for (block, (halves, bits)) in row.0.iter().zip(row.1).enumerate() {
        let [b0, b1] = words(bits);
        // SAFETY: the load is that of an array of 64 bytes; a prefetch may name any address.
        let halves = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(halves.as_ptr().wrapping_add(PREFETCH).cast());
            _mm512_loadu_si512(halves.as_ptr().cast())
        };
        let first = _mm512_and_si512(_mm512_slli_epi16::<1>(halves), even);
        let second = _mm512_and_si512(_mm512_srli_epi16::<3>(halves), even);
        let codes = [_mm512_mask_add_epi8(first, b0, first, one), _mm512_mask_add_epi8(second, b1, second, one)];
        for q in 0..Q {
            add_products_512(codes, &x[q].0[block], &mut sums[q][0]);
            add_products_512(codes, &x[q].1[block], &mut sums[q][1]);
        }
    }
    sums.map(|sums| whole(_mm512_reduce_add_epi32(sums[0]), _mm512_reduce_add_epi32(sums[1])))
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

/// `Σ (u % 2) x̂` of one row.
///
/// # Safety
/// The processor must have AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) unsafe fn fine_sum_avx512(fine: &[u8], query: &Query) -> i64 {
    let one = _mm512_set1_epi8(1);
    let mut sums = [_mm512_setzero_si512(); 4]; // independent, two for each half
    let (high, low) = query.halves();
    for ((bits, high), low) in fine.as_chunks::<BITS>().0.iter().zip(high).zip(low) {
        let codes = words(bits).map(|bits| _mm512_maskz_mov_epi8(bits, one));
        let (h, l) = (high.as_chunks::<64>().0, low.as_chunks::<64>().0);
        for (i, x) in [&h[0], &h[1], &l[0], &l[1]].into_iter().enumerate() {
            // SAFETY: the load is that of an array of 64 bytes.
            let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
            sums[i] = _mm512_dpbusd_epi32(sums[i], codes[i % 2], x);
        }
    }
    let [high, low] = [_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3])];
    whole(_mm512_reduce_add_epi32(high), _mm512_reduce_add_epi32(low))
}

/// The bits of columns `0..64` and `64..128`.
#[inline(always)]
fn words(bits: &[u8; BITS]) -> [u64; 2] {
    let bits = u128::from_le_bytes(*bits);
    [bits as u64, (bits >> 64) as u64]
}

/// `store(row, query, Σ (u / 2) x̂)` for all rows and queries. The four products of a block add at most 4 · 2 · 31 · 128 = 31744
/// to a 16-bit lane.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn coarse_sums_avx2(rows: CoarseRows<'_>, queries: &[Query], store: impl FnMut(usize, usize, i64)) {
    for_all_rows!(rows, queries, store, coarse_avx2);
}

#[inline]
#[target_feature(enable = "avx2")]
fn coarse_avx2<const Q: usize>(row: (&[[u8; HALVES]], &[[u8; BITS]]), queries: &[Query]) -> [i64; Q] {
    let even = _mm256_set1_epi8(0x1e);
    let mut x: [Halves<'_>; Q] = [(&[], &[]); Q];
    for q in 0..Q {
        let (high, low) = queries[q].halves();
        x[q] = (&high[..row.0.len()], &low[..row.0.len()]);
    }
    let mut sums = [[_mm256_setzero_si256(); 2]; Q];
    for (block, (halves, bits)) in row.0.iter().zip(row.1).enumerate() {
        // SAFETY: both loads are inside of an array of 64 bytes; a prefetch may name any address.
        let (a, b) = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(halves.as_ptr().wrapping_add(PREFETCH).cast());
            (_mm256_loadu_si256(halves.as_ptr().cast()), _mm256_loadu_si256(halves.as_ptr().add(32).cast()))
        };
        let mut codes = [
            _mm256_and_si256(_mm256_slli_epi16::<1>(a), even),
            _mm256_and_si256(_mm256_slli_epi16::<1>(b), even),
            _mm256_and_si256(_mm256_srli_epi16::<3>(a), even),
            _mm256_and_si256(_mm256_srli_epi16::<3>(b), even),
        ];
        let odd = spread(bits);
        for i in 0..4 {
            codes[i] = _mm256_sub_epi8(codes[i], odd[i]); // less -1
        }
        for q in 0..Q {
            add_products(&codes, &x[q].0[block], &mut sums[q][0]);
            add_products(&codes, &x[q].1[block], &mut sums[q][1]);
        }
    }
    sums.map(|sums| whole(reduce(sums[0]), reduce(sums[1])))
}

/// `Σ (u % 2) x̂` of one row.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn fine_sum_avx2(fine: &[u8], query: &Query) -> i64 {
    let mut sums = [_mm256_setzero_si256(); 2];
    let (high, low) = query.halves();
    for ((bits, high), low) in fine.as_chunks::<BITS>().0.iter().zip(high).zip(low) {
        let codes = spread(bits);
        let codes = [
            _mm256_abs_epi8(codes[0]),
            _mm256_abs_epi8(codes[1]),
            _mm256_abs_epi8(codes[2]),
            _mm256_abs_epi8(codes[3]),
        ];
        add_products(&codes, high, &mut sums[0]);
        add_products(&codes, low, &mut sums[1]);
    }
    whole(reduce(sums[0]), reduce(sums[1]))
}

/// A byte per column: -1 where its bit is set, else 0.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(bits: &[u8; BITS]) -> [__m256i; 4] {
    let mask = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let mut out = [_mm256_setzero_si256(); 4];
    for (out, bits) in out.iter_mut().zip(bits.as_chunks::<4>().0) {
        let copies = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*bits)), bytes);
        *out = _mm256_cmpeq_epi8(_mm256_and_si256(copies, mask), mask);
    }
    out
}

/// Adds the products of a block.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(codes: &[__m256i; 4], x: &[i8; BLOCK], sum: &mut __m256i) {
    let mut pairs = _mm256_setzero_si256();
    for (codes, x) in codes.iter().zip(x.as_chunks::<32>().0) {
        // SAFETY: the load is inside of an array of 32 bytes.
        let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(*codes, x));
    }
    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduce(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
    _mm_cvtsi128_si32(v)
}
