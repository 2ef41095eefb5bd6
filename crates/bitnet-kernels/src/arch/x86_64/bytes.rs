//! Vectors of bytes: what the integer kernels of the tiers below AVX-512 are written over.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::float_sse41;

/// A tier's vectors of bytes. A value of the implementing type proves that the processor has the tier; therefore
/// everything here is safe but for the memory that `load` reads.
pub(super) trait Bytes: Copy {
    /// [`WIDTH`](Self::WIDTH) bytes, or as many bits of wider integers.
    type V: Copy;
    /// Bytes of a vector, at most 32.
    const WIDTH: usize;
    /// Products of codes 0..=2 that a lane of [`add_products`](Self::add_products) can take: each adds
    /// at most 2 · 2 · 127 = 508 to a lane of 16 bits.
    const ROOM: usize;
    /// Tokens that share unpacked weights: their sums for two rows fit sixteen registers, with what a product needs.
    const TOKEN_TILE: usize;

    /// All bits 0.
    fn zero(self) -> Self::V;
    /// All bytes `x`.
    fn splat(self, x: u8) -> Self::V;
    /// Reads a vector.
    ///
    /// # Safety
    /// [`WIDTH`](Self::WIDTH) bytes from `at` must be readable; there is no need for alignment.
    unsafe fn load(self, at: *const u8) -> Self::V;
    /// Bitwise.
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    /// In 16-bit lanes: bits cross from byte to byte.
    fn shift_left<const N: i32>(self, v: Self::V) -> Self::V;
    /// In 16-bit lanes: bits cross from byte to byte.
    fn shift_right<const N: i32>(self, v: Self::V) -> Self::V;
    /// `a - b` in 8-bit lanes, wrapping.
    fn sub8(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a + b` in 32-bit lanes.
    fn add32(self, a: Self::V, b: Self::V) -> Self::V;
    /// Vector `i` of a vector per bit: bytes of −1 where the bit of a column is set, else 0.
    fn spread(self, bits: &[u8; 16], i: usize) -> Self::V;
    /// Adds products of unsigned `x` and signed `y` to lanes of the tier's choice: neighbours fall into one.
    fn add_products(self, sums: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The sums of [`add_products`](Self::add_products) in lanes of 32 bits.
    fn widen(self, sums: Self::V) -> Self::V;
    /// Sum of the 32-bit lanes.
    fn sum(self, v: Self::V) -> i32;
    /// The four sums of four vectors.
    fn four_sums(self, v: [Self::V; 4]) -> __m128i;
    /// `a * b + c`, rounded once.
    fn fma(self, a: __m128, b: __m128, c: __m128) -> __m128;
}

/// Sixteen bytes, with SSE4.1.
#[derive(Clone, Copy)]
pub(super) struct Xmm(());

impl Xmm {
    /// # Safety
    /// The processor must have SSE4.1.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        Xmm(())
    }
}

// In all functions of both implementations, SAFETY: `self` exists, so the processor has the features.
impl Bytes for Xmm {
    type V = __m128i;
    const WIDTH: usize = 16;
    const ROOM: usize = 64;
    const TOKEN_TILE: usize = 4;

    #[inline(always)]
    fn zero(self) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_setzero_si128() }
    }
    #[inline(always)]
    fn splat(self, x: u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe { _mm_loadu_si128(at.cast()) }
    }
    #[inline(always)]
    fn and(self, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_and_si128(a, b) }
    }
    #[inline(always)]
    fn shift_left<const N: i32>(self, v: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_slli_epi16::<N>(v) }
    }
    #[inline(always)]
    fn shift_right<const N: i32>(self, v: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_srli_epi16::<N>(v) }
    }
    #[inline(always)]
    fn sub8(self, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_sub_epi8(a, b) }
    }
    #[inline(always)]
    fn add32(self, a: __m128i, b: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_add_epi32(a, b) }
    }
    #[inline(always)]
    fn spread(self, bits: &[u8; 16], i: usize) -> __m128i {
        let bits = i16::from_le_bytes(bits.as_chunks().0[i]);
        // SAFETY: see above.
        unsafe {
            let mask = _mm_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let copies = _mm_shuffle_epi8(_mm_set1_epi16(bits), _mm_set_epi64x(0x0101_0101_0101_0101, 0));
            _mm_cmpeq_epi8(_mm_and_si128(copies, mask), mask)
        }
    }
    #[inline(always)]
    fn add_products(self, sums: __m128i, x: __m128i, y: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_add_epi16(sums, _mm_maddubs_epi16(x, y)) }
    }
    #[inline(always)]
    fn widen(self, sums: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_madd_epi16(sums, _mm_set1_epi16(1)) }
    }
    #[inline(always)]
    fn sum(self, v: __m128i) -> i32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
        }
    }
    #[inline(always)]
    fn four_sums(self, v: [__m128i; 4]) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_hadd_epi32(_mm_hadd_epi32(v[0], v[1]), _mm_hadd_epi32(v[2], v[3])) }
    }
    #[inline(always)]
    fn fma(self, a: __m128, b: __m128, c: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { float_sse41::fma(a, b, c) }
    }
}

/// Thirty-two bytes, with AVX2 and FMA, and the multiplication `M`.
#[derive(Clone, Copy)]
pub(super) struct Ymm<M>(PhantomData<M>);

impl<M: Multiply> Ymm<M> {
    /// # Safety
    /// The processor must have AVX2 and FMA and what `M` needs.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        Ymm(PhantomData)
    }
}

/// How bytes are multiplied in vectors of 32.
pub(super) trait Multiply: Copy {
    /// See [`Bytes::ROOM`].
    const ROOM: usize;
    /// See [`Bytes::TOKEN_TILE`].
    const TOKEN_TILE: usize;

    /// See [`Bytes::add_products`].
    ///
    /// # Safety
    /// The processor must have the features.
    unsafe fn add_products(sums: __m256i, x: __m256i, y: __m256i) -> __m256i;

    /// See [`Bytes::widen`].
    ///
    /// # Safety
    /// The processor must have the features.
    #[inline(always)]
    unsafe fn widen(sums: __m256i) -> __m256i {
        sums
    }
}

/// `vpmaddubsw`: pairs of products in lanes of 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

impl Multiply for Pairs {
    const ROOM: usize = 64;
    const TOKEN_TILE: usize = 4;

    #[inline(always)]
    unsafe fn add_products(sums: __m256i, x: __m256i, y: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_add_epi16(sums, _mm256_maddubs_epi16(x, y)) }
    }
    #[inline(always)]
    unsafe fn widen(sums: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) }
    }
}

/// More than any row has: lanes of 32 bits have room for whole rows.
const NO_LIMIT: usize = 1 << 30;

/// `vpdpbusd` of AVX-VNNI: four products in a lane of 32 bits.
#[derive(Clone, Copy)]
pub(super) struct AvxVnni;

impl Multiply for AvxVnni {
    const ROOM: usize = NO_LIMIT;
    const TOKEN_TILE: usize = 6;

    #[inline(always)]
    unsafe fn add_products(sums: __m256i, x: __m256i, y: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, x, y) }
    }
}

/// The same of AVX-512 VNNI and VL.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni;

impl Multiply for Avx512Vnni {
    const ROOM: usize = NO_LIMIT;
    const TOKEN_TILE: usize = 6;

    #[inline(always)]
    unsafe fn add_products(sums: __m256i, x: __m256i, y: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_epi32(sums, x, y) }
    }
}

impl<M: Multiply> Bytes for Ymm<M> {
    type V = __m256i;
    const WIDTH: usize = 32;
    const ROOM: usize = M::ROOM;
    const TOKEN_TILE: usize = M::TOKEN_TILE;

    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    fn splat(self, x: u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi8(x as i8) }
    }
    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn shift_left<const N: i32>(self, v: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_slli_epi16::<N>(v) }
    }
    #[inline(always)]
    fn shift_right<const N: i32>(self, v: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_srli_epi16::<N>(v) }
    }
    #[inline(always)]
    fn sub8(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_sub_epi8(a, b) }
    }
    #[inline(always)]
    fn add32(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn spread(self, bits: &[u8; 16], i: usize) -> __m256i {
        let bits = i32::from_le_bytes(bits.as_chunks().0[i]);
        // SAFETY: see above.
        unsafe {
            let mask = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let copies = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), bytes);
            _mm256_cmpeq_epi8(_mm256_and_si256(copies, mask), mask)
        }
    }
    #[inline(always)]
    fn add_products(self, sums: __m256i, x: __m256i, y: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { M::add_products(sums, x, y) }
    }
    #[inline(always)]
    fn widen(self, sums: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { M::widen(sums) }
    }
    #[inline(always)]
    fn sum(self, v: __m256i) -> i32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
        }
    }
    #[inline(always)]
    fn four_sums(self, v: [__m256i; 4]) -> __m128i {
        // SAFETY: see above.
        unsafe {
            let v = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
            _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
        }
    }
    #[inline(always)]
    fn fma(self, a: __m128, b: __m128, c: __m128) -> __m128 {
        // SAFETY: see above.
        unsafe { _mm_fmadd_ps(a, b, c) }
    }
}
