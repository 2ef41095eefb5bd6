//! Tiers of x86-64.

pub(crate) mod amx;
mod amx_streams;
pub(crate) mod bf16_amx;
mod bytes;
pub(crate) mod float_avx2;
pub(crate) mod float_avx512;
pub(crate) mod float_sse41;
pub(crate) mod peak;
pub(crate) mod planes;
pub(crate) mod planes_amx;
pub(crate) mod quantize;
pub(crate) mod ternary_amx;
mod ternary_amx_few;
pub(crate) mod ternary_avx512vnni;
mod ternary_tables;
mod ternary_vectors;

/// The integer kernels of a tier below AVX-512: written once over [`bytes::Bytes`], compiled for its features.
macro_rules! tier {
    ($(#[$doc:meta])* $tier:ident, $features:literal, $bytes:ty) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Of all functions: the processor must have these features.
        pub(crate) mod $tier {
            use super::bytes::*;
            use super::{planes, ternary_tables, ternary_vectors};
            use crate::cpu::{Quantized, RowScale};
            use crate::planes::{CodeRows, Look, Query};
            use crate::ternary_matmul::{GroupPanel, Panel};

            #[target_feature(enable = $features)]
            pub(crate) unsafe fn multiply(
                panel: Panel<'_>,
                x: &Quantized,
                mut store: impl FnMut(usize, usize, &[i32]),
            ) {
                let many = ternary_tables::worthwhile(panel, x);
                if many > 0 {
                    by_tables(panel, x, many, &mut store);
                }
                // SAFETY: this function has the features.
                ternary_vectors::multiply(unsafe { <$bytes>::new() }, panel, x, many..x.len(), store);
            }

            /// Apart, because it takes 380 KB of stack.
            #[inline(never)]
            #[target_feature(enable = $features)]
            fn by_tables(
                panel: Panel<'_>,
                x: &Quantized,
                tokens: usize,
                store: &mut impl FnMut(usize, usize, &[i32]),
            ) {
                ternary_tables::multiply(panel, x, 0..tokens, store);
            }

            #[target_feature(enable = $features)]
            pub(crate) unsafe fn multiply_groups(
                panel: GroupPanel<'_>,
                x: &Quantized,
                store: impl FnMut(usize, usize, &[f32]),
            ) {
                // SAFETY: this function has the features.
                ternary_vectors::multiply_groups(unsafe { <$bytes>::new() }, panel, x, store);
            }

            #[target_feature(enable = $features)]
            pub(crate) unsafe fn first_sums(
                look: Look,
                rows: CodeRows<'_>,
                queries: &[Query],
                store: impl FnMut(usize, usize, &[i64]),
            ) {
                // SAFETY: this function has the features.
                planes::first_sums(unsafe { <$bytes>::new() }, look, rows, queries, store);
            }

            #[target_feature(enable = $features)]
            pub(crate) unsafe fn bit_sum(bits: &[u8], query: &Query) -> i32 {
                // SAFETY: this function has the features.
                planes::bit_sum(unsafe { <$bytes>::new() }, bits, query)
            }

            #[target_feature(enable = $features)]
            pub(crate) unsafe fn quantize(
                x: &[f32],
                norm: Option<(f32, &[f32])>,
                codes: &mut [i8],
                sums: &mut [i32],
            ) -> RowScale {
                crate::quantize::body(x, norm, codes, sums)
            }
        }
    };
}

tier! {
    /// SSE4.1: sixteen bytes, pairs of products in 16 bits.
    sse41, "sse4.1", Xmm
}
tier! {
    /// AVX2: thirty-two bytes, pairs of products in 16 bits.
    avx2, "avx2,fma", Ymm<Pairs>
}
tier! {
    /// AVX-VNNI: thirty-two bytes, four products in 32 bits.
    avxvnni, "avx2,fma,avxvnni", Ymm<AvxVnni>
}
