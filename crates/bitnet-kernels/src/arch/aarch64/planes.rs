//! Sums over the bit planes of a head, see [`neon`](super::neon).
//!
//! Codes are bytes below 32, activations come as two int8 halves of 16 bits. Four calls of `add` put at most
//! 4 · 2 · 31 · 128 = 31744 into a 16-bit lane; a row of 512 blocks at most 512 · 32 · 31 · 128 into a 32-bit lane.

/// The loops around `Sums`, `none`, `add` and `widen` of a tier.
macro_rules! plane_kernels {
    ($features:literal) => {
        use $crate::planes::{BITS, BLOCK, CoarseRows, HALVES, Query};

        /// Queries that share unpacked codes.
        const QUERIES: usize = 4;

        /// `store(row, query, Σ (u / 2) x̂)` for all rows and queries.
        ///
        /// # Safety
        /// The processor must have the features of this tier.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn coarse_sums(
            rows: CoarseRows<'_>,
            queries: &[Query],
            mut store: impl FnMut(usize, usize, i64),
        ) {
            for row in 0..rows.len() {
                for (block, queries) in queries.chunks(QUERIES).enumerate() {
                    let mut store = |sums: &[i64]| {
                        sums.iter().enumerate().for_each(|(q, &sum)| store(row, block * QUERIES + q, sum));
                    };
                    match queries.len() {
                        1 => store(&coarse::<1>(rows.row(row), queries)),
                        2 => store(&coarse::<2>(rows.row(row), queries)),
                        3 => store(&coarse::<3>(rows.row(row), queries)),
                        _ => store(&coarse::<4>(rows.row(row), queries)),
                    }
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn coarse<const Q: usize>(row: (&[[u8; HALVES]], &[[u8; BITS]]), queries: &[Query]) -> [i64; Q] {
            let x: [_; Q] = std::array::from_fn(|q| queries[q].halves());
            let mut sums = [[vdupq_n_s32(0); 2]; Q];
            for (block, (halves, bits)) in row.0.iter().zip(row.1).enumerate() {
                let mut codes = spread(bits);
                for i in 0..4 {
                    // SAFETY: four loads of sixteen bytes are an array of 64.
                    let halves = unsafe { vld1q_u8(halves.as_ptr().add(16 * i)) };
                    let (low, high) = (vandq_u8(halves, vdupq_n_u8(15)), vshrq_n_u8::<4>(halves));
                    codes[i] = vaddq_s8(codes[i], vreinterpretq_s8_u8(vaddq_u8(low, low)));
                    codes[4 + i] = vaddq_s8(codes[4 + i], vreinterpretq_s8_u8(vaddq_u8(high, high)));
                }
                for q in 0..Q {
                    sums[q][0] = add_block(sums[q][0], &codes, &x[q].0[block]);
                    sums[q][1] = add_block(sums[q][1], &codes, &x[q].1[block]);
                }
            }
            sums.map(|sums| whole(sums))
        }

        /// `Σ (u % 2) x̂` of one row.
        ///
        /// # Safety
        /// The processor must have the features of this tier.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn fine_sum(fine: &[u8], query: &Query) -> i64 {
            let (high, low) = query.halves();
            let mut sums = [vdupq_n_s32(0); 2];
            for ((bits, high), low) in fine.as_chunks::<BITS>().0.iter().zip(high).zip(low) {
                let codes = spread(bits);
                sums = [add_block(sums[0], &codes, high), add_block(sums[1], &codes, low)];
            }
            whole(sums)
        }

        /// A byte per column: its bit.
        #[inline]
        #[target_feature(enable = $features)]
        fn spread(bits: &[u8; BITS]) -> [int8x16_t; 8] {
            let place = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let mut out = [vdupq_n_s8(0); 8];
            for (out, bits) in out.iter_mut().zip(bits.as_chunks::<2>().0) {
                let copies = vcombine_u8(vdup_n_u8(bits[0]), vdup_n_u8(bits[1]));
                *out = vreinterpretq_s8_u8(vandq_u8(vtstq_u8(copies, place), vdupq_n_u8(1)));
            }
            out
        }

        /// Adds the products of a block.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_block(mut wide: int32x4_t, codes: &[int8x16_t; 8], x: &[i8; BLOCK]) -> int32x4_t {
            for half in 0..2 {
                let mut sums = none();
                for i in 4 * half..4 * half + 4 {
                    // SAFETY: eight loads of sixteen bytes are an array of 128.
                    sums = add(sums, codes[i], unsafe { vld1q_s8(x.as_ptr().add(16 * i)) });
                }
                wide = widen(wide, sums);
            }
            wide
        }

        /// `256 Σ high + Σ low`
        #[inline]
        #[target_feature(enable = $features)]
        fn whole(sums: [int32x4_t; 2]) -> i64 {
            256 * i64::from(vaddvq_s32(sums[0])) + i64::from(vaddvq_s32(sums[1]))
        }
    };
}
pub(super) use plane_kernels;
