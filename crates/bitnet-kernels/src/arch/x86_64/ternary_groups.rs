//! Ternary products with several scales per row.

/// The product with grouped scales, for the features of a tier and its way to add four products to a 32-bit lane. It
/// works on 32 columns at a time, because that is the granularity of groups, and on four rows, so that their sums
/// are reduced and scaled together.
macro_rules! group_kernel {
    (features: $features:literal, $(#[$doc:meta])* dot4: |$acc:ident, $code:ident, $q:ident| $dot4:expr) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = $features)]
        fn dot4($acc: __m256i, $code: __m256i, $q: __m256i) -> __m256i {
            $dot4
        }

        /// `store(row, token, values)` as for [`multiply`]; values are `Σ_g fma(Σ q·w, scale_g)`.
        ///
        /// # Safety
        /// The processor must have the features of this tier.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn multiply_groups(
            panel: GroupPanel<'_>,
            x: &Quantized,
            mut store: impl FnMut(usize, usize, &[f32]),
        ) {
            for row in (0..panel.codes.rows()).step_by(ROW_TILE) {
                let count = ROW_TILE.min(panel.codes.rows() - row);
                for token in 0..x.len() {
                    store(row, token, &four_rows(panel, row, count, x.row(token))[..count]);
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn four_rows(
            panel: GroupPanel<'_>,
            first: usize,
            count: usize,
            x: $crate::cpu::QuantizedRow<'_>,
        ) -> [f32; ROW_TILE] {
            let mut codes: [&[u8]; ROW_TILE] = [&[]; ROW_TILE];
            let mut scales: [&[f32]; ROW_TILE] = [&[]; ROW_TILE];
            for r in 0..ROW_TILE {
                let row = first + r.min(count - 1);
                codes[r] = panel.codes.row(row);
                scales[r] = &panel.scales[row * panel.groups..(row + 1) * panel.groups];
            }
            let blocks = codes[0].len() / 32;
            assert!(x.codes.len() * 2 >= blocks * UNIT);
            let chunks_per_group = panel.len.div_ceil(32);
            let mask = _mm256_set1_epi8(3);
            let mut value = _mm_setzero_ps();
            let mut acc = [_mm256_setzero_si256(); ROW_TILE];
            let (mut group, mut in_group, mut correction) = (0, 0, 0);
            for block in 0..blocks {
                let mut bits = [_mm256_setzero_si256(); ROW_TILE];
                for r in 0..ROW_TILE {
                    // SAFETY: rows of a panel have equal lengths, 32 bytes per block.
                    bits[r] = unsafe { _mm256_loadu_si256(codes[r].as_ptr().add(block * 32).cast()) };
                }
                for chunk in 0..4 {
                    let at = block / 2 * UNIT + block % 2 * 32 + chunk * 64;
                    // SAFETY: `at + 32` is within the unit, and there are enough units by the assertion above.
                    let q = unsafe { _mm256_loadu_si256(x.codes.as_ptr().add(at).cast()) };
                    let shift = _mm_cvtsi32_si128(6 - 2 * chunk as i32);
                    for r in 0..ROW_TILE {
                        let code = _mm256_and_si256(_mm256_srl_epi16(bits[r], shift), mask);
                        acc[r] = dot4(acc[r], code, q);
                    }
                    correction += x.sums[block * 4 + chunk];
                    in_group += 1;
                    let last = block + 1 == blocks && chunk == 3;
                    if in_group == chunks_per_group || last {
                        if group < panel.groups {
                            let sums = _mm_sub_epi32(sums4(acc), _mm_set1_epi32(correction));
                            let [a, b, c, d] = scales.map(|scales| scales[group]);
                            value = _mm_fmadd_ps(_mm_cvtepi32_ps(sums), _mm_setr_ps(a, b, c, d), value);
                        }
                        acc = [_mm256_setzero_si256(); ROW_TILE];
                        (group, in_group, correction) = (group + 1, 0, 0);
                    }
                }
            }
            let mut out = [0.0; ROW_TILE];
            // SAFETY: `out` takes 16 bytes.
            unsafe { _mm_storeu_ps(out.as_mut_ptr(), value) };
            out
        }
    };
}
pub(super) use group_kernel;
