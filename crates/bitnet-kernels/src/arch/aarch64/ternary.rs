//! Ternary products, see [`neon`](super::neon).

/// The loops around `Sums`, `none`, `add`, `widen` and `FLUSH` of a tier.
macro_rules! ternary_kernels {
    ($features:literal) => {
        use $crate::cpu::{Quantized, QuantizedRow, UNIT};
        use $crate::ternary_matmul::{GroupPanel, Panel};

        /// Rows that share a load of activations.
        const ROW_TILE: usize = 4;
        /// Tokens that share unpacked weights: 4 × 4 sums, 4 × 2 vectors of weights and the activations fit 32 registers.
        const TOKEN_TILE: usize = 4;
        /// Tokens that all rows meet before the next ones: their activations stay in the second-level cache.
        const TOKEN_BLOCK: usize = 32;

        /// `store(row, token, sums)` for all rows of the panel, some at a time, and all tokens of `x`; sums are `Σ q·code`.
        ///
        /// # Safety
        /// The processor must have the features of this tier.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn multiply(panel: Panel<'_>, x: &Quantized, mut store: impl FnMut(usize, usize, &[i32])) {
            for block in (0..x.len()).step_by(TOKEN_BLOCK) {
                let end = (block + TOKEN_BLOCK).min(x.len());
                for row in (0..panel.rows()).step_by(ROW_TILE) {
                    let count = ROW_TILE.min(panel.rows() - row);
                    let codes = std::array::from_fn(|r: usize| panel.row(row + r.min(count - 1)));
                    let mut token = block;
                    while token < end {
                        let left = end - token;
                        let tile = left.div_ceil(left.div_ceil(TOKEN_TILE));
                        let mut store = |sums: &[[i32; ROW_TILE]]| {
                            sums.iter().enumerate().for_each(|(t, sums)| store(row, token + t, &sums[..count]));
                        };
                        match tile {
                            1 => store(&dot::<1>(codes, x, token)),
                            2 => store(&dot::<2>(codes, x, token)),
                            3 => store(&dot::<3>(codes, x, token)),
                            _ => store(&dot::<4>(codes, x, token)),
                        }
                        token += tile;
                    }
                }
            }
        }

        /// Four rows and `T` tokens from `first`.
        #[inline]
        #[target_feature(enable = $features)]
        fn dot<const T: usize>(codes: [&[u8]; ROW_TILE], x: &Quantized, first: usize) -> [[i32; ROW_TILE]; T] {
            let blocks = codes[0].len() / 32;
            let x: [&[i8]; T] = std::array::from_fn(|t| x.row(first + t).codes);
            assert!(codes.iter().all(|row| row.len() == blocks * 32) && x.iter().all(|x| x.len() * 2 >= blocks * UNIT));
            let mask = vdupq_n_u8(3);
            let mut wide = [[vdupq_n_s32(0); ROW_TILE]; T];
            for start in (0..blocks).step_by(FLUSH) {
                let mut sums = [[none(); ROW_TILE]; T];
                for half in 2 * start..2 * start.saturating_add(FLUSH).min(blocks) {
                    let mut bits = [vdupq_n_u8(0); ROW_TILE];
                    for r in 0..ROW_TILE {
                        // SAFETY: a row has 32 bytes per block, and `half < 2 blocks`.
                        bits[r] = unsafe { vld1q_u8(codes[r].as_ptr().add(16 * half)) };
                    }
                    // Four halves of two blocks make a unit.
                    let at = half / 4 * UNIT + half % 4 * 16;
                    for chunk in (0..4).rev() {
                        let mut code = [vdupq_n_s8(0); ROW_TILE];
                        for r in 0..ROW_TILE {
                            code[r] = vreinterpretq_s8_u8(vandq_u8(bits[r], mask));
                            bits[r] = vshrq_n_u8::<2>(bits[r]);
                        }
                        for t in 0..T {
                            // SAFETY: a row has whole units of 256 columns, at least one per two blocks.
                            let q = unsafe { vld1q_s8(x[t].as_ptr().add(at + chunk * 64)) };
                            for r in 0..ROW_TILE {
                                sums[t][r] = add(sums[t][r], code[r], q);
                            }
                        }
                    }
                }
                for t in 0..T {
                    for r in 0..ROW_TILE {
                        wide[t][r] = widen(wide[t][r], sums[t][r]);
                    }
                }
            }
            let mut out = [[0; ROW_TILE]; T];
            for t in 0..T {
                // SAFETY: the store fills an array of four.
                unsafe { vst1q_s32(out[t].as_mut_ptr(), four_sums(wide[t])) };
            }
            out
        }

        /// The four sums of four vectors.
        #[inline]
        #[target_feature(enable = $features)]
        fn four_sums(v: [int32x4_t; ROW_TILE]) -> int32x4_t {
            vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]))
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
        fn four_rows(panel: GroupPanel<'_>, first: usize, count: usize, x: QuantizedRow<'_>) -> [f32; ROW_TILE] {
            let rows: [usize; ROW_TILE] = std::array::from_fn(|r| first + r.min(count - 1));
            let codes = rows.map(|row| panel.codes.row(row));
            let scales = rows.map(|row| &panel.scales[row * panel.groups..(row + 1) * panel.groups]);
            let blocks = codes[0].len() / 32;
            assert!(codes.iter().all(|row| row.len() == blocks * 32) && x.codes.len() * 2 >= blocks * UNIT);
            let mut value = vdupq_n_f32(0.0);
            let mut chunk = 0;
            for group in 0..panel.groups {
                // A group is some chunks of 32 columns.
                let end = (chunk + panel.len.div_ceil(32)).min(4 * blocks);
                let mut sums = [vdupq_n_s32(0); ROW_TILE];
                let mut correction = 0;
                for chunk in chunk..end {
                    let (block, shift) = (chunk / 4, vdupq_n_s8((chunk % 4) as i8 * 2 - 6));
                    let at = block / 2 * UNIT + block % 2 * 32 + chunk % 4 * 64;
                    // SAFETY: `at + 32` is within the unit, and there are enough units by the assertion above.
                    let q = unsafe { [vld1q_s8(x.codes.as_ptr().add(at)), vld1q_s8(x.codes.as_ptr().add(at + 16))] };
                    for r in 0..ROW_TILE {
                        let mut products = none();
                        for half in 0..2 {
                            // SAFETY: a row has 32 bytes per block, and `block < blocks`.
                            let bits = unsafe { vld1q_u8(codes[r].as_ptr().add(32 * block + 16 * half)) };
                            let code = vandq_u8(vshlq_u8(bits, shift), vdupq_n_u8(3));
                            products = add(products, vreinterpretq_s8_u8(code), q[half]);
                        }
                        sums[r] = widen(sums[r], products);
                    }
                    correction += x.sums[chunk];
                }
                chunk = end;
                let sums = vcvtq_f32_s32(vsubq_s32(four_sums(sums), vdupq_n_s32(correction)));
                let scales = scales.map(|scales| scales[group]);
                // SAFETY: the load is that of an array of four.
                value = vfmaq_f32(value, sums, unsafe { vld1q_f32(scales.as_ptr()) });
            }
            let mut out = [0.0; ROW_TILE];
            // SAFETY: the store fills an array of four.
            unsafe { vst1q_f32(out.as_mut_ptr(), value) };
            out
        }
    };
}
pub(super) use ternary_kernels;
