//! Instruction-set tiers: the same results as the scalar bodies, faster. The only place with intrinsics.
//!
//! The functions here choose the tier. A tier comes from [`Cpu`](crate::Cpu) or has passed `Isa::require`, so the
//! processor supports it.

#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
mod sixteen_bytes;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(crate) mod wasm32;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

use crate::Isa;
use crate::bf16::{Bf16Sums, Bf16Tile, Bf16Unit};
use crate::cpu::{Quantized, RowScale};
use crate::planes::{self, CodeRows, Look, Query};
use crate::ternary_matmul::{GroupPanel, Panel, scalar};

/// Calls `store(row, token, sums)` for all rows and tokens, some rows at a time; sums are `Σ q·code`.
pub(crate) fn multiply(isa: Isa, panel: Panel<'_>, x: &Quantized, store: impl FnMut(usize, usize, &[i32])) {
    match isa {
        // SAFETY: the processor supports the tier, see above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { x86_64::ternary_amx::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { x86_64::ternary_avx512vnni::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86_64::avxvnni::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => unsafe { x86_64::sse41::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm => unsafe { aarch64::i8mm::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Dotprod => unsafe { aarch64::dotprod::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::multiply(panel, x, store) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => unsafe { wasm32::simd128::multiply(panel, x, store) },
        _ => scalar::multiply(panel, x, store),
    }
}

/// The same with several scales per row; values are `Σ_g fma(Σ q·weight, scale_g)`. The matrix unit has nothing to offer
/// here: its sums would have to be taken out for every group.
pub(crate) fn multiply_groups(isa: Isa, panel: GroupPanel<'_>, x: &Quantized, store: impl FnMut(usize, usize, &[f32])) {
    match isa {
        // SAFETY: the processor supports the tier, see above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Vnni => unsafe { x86_64::ternary_avx512vnni::multiply_groups(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86_64::avxvnni::multiply_groups(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::multiply_groups(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => unsafe { x86_64::sse41::multiply_groups(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm | Isa::Dotprod => unsafe { aarch64::dotprod::multiply_groups(panel, x, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::multiply_groups(panel, x, store) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => unsafe { wasm32::simd128::multiply_groups(panel, x, store) },
        _ => scalar::multiply_groups(panel, x, store),
    }
}

/// Quantises one row, see [`crate::quantize`]. (On 64-bit ARM the body is compiled for NEON anyway.)
pub(crate) fn quantize(
    isa: Isa,
    x: &[f32],
    norm: Option<(f32, &[f32])>,
    codes: &mut [i8],
    sums: &mut [i32],
) -> RowScale {
    match isa {
        // SAFETY: the processor supports the tier, see above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Vnni => unsafe { x86_64::quantize::avx512(x, norm, codes, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86_64::avxvnni::quantize(x, norm, codes, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::quantize(x, norm, codes, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => unsafe { x86_64::sse41::quantize(x, norm, codes, sums) },
        _ => crate::quantize::body(x, norm, codes, sums),
    }
}

/// Sums of a first look at a head, see [`planes::scalar::first_sums`].
pub(crate) fn first_sums(
    isa: Isa,
    look: Look,
    rows: CodeRows<'_>,
    queries: &[Query],
    store: impl FnMut(usize, usize, &[i64]),
) {
    match isa {
        // SAFETY: the processor supports the tier, see above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { x86_64::planes_amx::first_sums(look, rows, queries, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { x86_64::planes::first_sums_avx512(look, rows, queries, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86_64::avxvnni::first_sums(look, rows, queries, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::first_sums(look, rows, queries, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => unsafe { x86_64::sse41::first_sums(look, rows, queries, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm | Isa::Dotprod => unsafe { aarch64::dotprod::first_sums(look, rows, queries, store) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::first_sums(look, rows, queries, store) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => unsafe { wasm32::simd128::first_sums(look, rows, queries, store) },
        _ => planes::scalar::first_sums(look, rows, queries, store),
    }
}

/// The sum over one row of the fine or the finest plane.
pub(crate) fn bit_sum(isa: Isa, bits: &[u8], query: &Query) -> i32 {
    match isa {
        // SAFETY: the processor supports the tier, see above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Vnni => unsafe { x86_64::planes::bit_sum_avx512(bits, query) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86_64::avxvnni::bit_sum(bits, query) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::bit_sum(bits, query) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => unsafe { x86_64::sse41::bit_sum(bits, query) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::I8mm | Isa::Dotprod => unsafe { aarch64::dotprod::bit_sum(bits, query) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::bit_sum(bits, query) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => unsafe { wasm32::simd128::bit_sum(bits, query) },
        _ => planes::scalar::bit_sum(bits, query),
    }
}

/// Operations of a round of [`int8_rounds`]; `None` for tiers without.
pub(crate) fn int8_round(isa: Isa) -> Option<u64> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => Some(x86_64::peak::AMX_ROUND),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Some(x86_64::peak::AVX512_ROUND),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => Some(x86_64::peak::AVX_VNNI_ROUND),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Some(x86_64::peak::AVX2_ROUND),
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => Some(x86_64::peak::SSE_ROUND),
        _ => None,
    }
}

/// Multiplies and adds bytes in registers, at least once, for nothing but the time that it takes.
pub(crate) fn int8_rounds(isa: Isa, rounds: u64) {
    let rounds = rounds.max(1);
    match isa {
        // SAFETY: the processor supports the tier, see above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { x86_64::peak::amx(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { x86_64::peak::avx512vnni(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86_64::peak::avxvnni(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::peak::avx2(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Sse41 => unsafe { x86_64::peak::sse41(rounds) },
        _ => _ = rounds,
    }
}

/// Fetches the cache lines of bytes that are read soon; only a hint.
#[inline(always)]
pub(crate) fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: every x86-64 processor has SSE, and a fetch changes nothing that can be seen.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Fetches the cache lines of the first `len` values, to be written soon: full lines only, and only a hint.
#[inline(always)]
pub(crate) fn fetch_to_write(values: &mut [f32], len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in values[..len.min(values.len())].chunks_exact(16) {
        // SAFETY: every x86-64 processor has SSE, and a fetch changes nothing that can be seen.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, len);
}

/// Whether there is a matrix unit for bf16.
pub(crate) fn has_bf16_unit() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86_64::bf16_amx::has_unit();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// See [`Bf16Unit::multiply`].
pub(crate) fn bf16_products(
    _unit: Bf16Unit,
    left: &[Bf16Tile],
    right: &[Bf16Tile],
    strip: usize,
    store: &mut dyn FnMut(usize, usize, &Bf16Sums),
) {
    // SAFETY: the token exists, so the processor has the unit.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        x86_64::bf16_amx::products(left, right, strip, store)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (left, right, strip, store);
}
