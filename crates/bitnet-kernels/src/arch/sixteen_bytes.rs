//! Integer kernels over vectors of sixteen bytes, for the tiers of 64-bit ARM and WebAssembly.
//!
//! A tier's module has vectors `V`, the functions that are called here, and its own way to add products of bytes:
//! `none` makes an empty `Sums`, `add` adds the products of all bytes to lanes of its choice, and `widen` moves them on to
//! the 32-bit lanes of a `V`.

/// Ternary products. `FLUSH` blocks of 128 columns fit into `Sums`.
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
            let mut wide = [[splat(0); ROW_TILE]; T];
            for start in (0..blocks).step_by(FLUSH) {
                let mut sums = [[none(); ROW_TILE]; T];
                for half in 2 * start..2 * start.saturating_add(FLUSH).min(blocks) {
                    let mut bits = [splat(0); ROW_TILE];
                    for r in 0..ROW_TILE {
                        // SAFETY: a row has 32 bytes per block, and `half < 2 blocks`.
                        bits[r] = unsafe { load(codes[r].as_ptr().add(16 * half)) };
                    }
                    // Four halves of two blocks make a unit.
                    let at = half / 4 * UNIT + half % 4 * 16;
                    for chunk in (0..4).rev() {
                        let mut code = [splat(0); ROW_TILE];
                        for r in 0..ROW_TILE {
                            code[r] = and(bits[r], splat(3));
                            bits[r] = shift_right::<2>(bits[r]);
                        }
                        for t in 0..T {
                            // SAFETY: a row has whole units of 256 columns, at least one per two blocks.
                            let q = unsafe { load(x[t].as_ptr().add(at + chunk * 64).cast()) };
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
                out[t] = four_sums(wide[t]);
            }
            out
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
            let mut value = [0.0; ROW_TILE];
            let mut chunk = 0;
            for group in 0..panel.groups {
                // A group is some chunks of 32 columns.
                let end = (chunk + panel.len.div_ceil(32)).min(4 * blocks);
                let mut wide = [splat(0); ROW_TILE];
                let mut correction = 0;
                for chunk in chunk..end {
                    let block = chunk / 4;
                    let at = block / 2 * UNIT + block % 2 * 32 + chunk % 4 * 64;
                    let mut sums = [none(); ROW_TILE];
                    for half in 0..2 {
                        // SAFETY: `at + 32` is within the unit, and there are enough units by the assertion above.
                        let q = unsafe { load(x.codes.as_ptr().add(at + 16 * half).cast()) };
                        for r in 0..ROW_TILE {
                            // SAFETY: a row has 32 bytes per block, and `block < blocks`.
                            let bits = unsafe { load(codes[r].as_ptr().add(32 * block + 16 * half)) };
                            let bits = match chunk % 4 {
                                0 => shift_right::<6>(bits),
                                1 => shift_right::<4>(bits),
                                2 => shift_right::<2>(bits),
                                _ => bits,
                            };
                            sums[r] = add(sums[r], and(bits, splat(3)), q);
                        }
                    }
                    for r in 0..ROW_TILE {
                        wide[r] = widen(wide[r], sums[r]);
                    }
                    correction += x.sums[chunk];
                }
                chunk = end;
                let sums = four_sums(wide).map(|sum| (sum - correction) as f32);
                value = fma(sums, scales.map(|scales| scales[group]), value);
            }
            value
        }
    };
}
pub(super) use ternary_kernels;

/// Sums over the bit planes of a head.
///
/// Codes are bytes below 32, or below 64 with the fine plane (`FINE`); activations come as two int8 halves of 16 bits, of which fine
/// codes meet the upper ones only. Four calls of `add` put at most 4 · 2 · 31 · 128 = 31744 into a 16-bit lane, two of fine codes
/// 2 · 2 · 63 · 127 = 32004; a row of 512 blocks at most 512 · 32 · 63 · 127 into a 32-bit lane.
macro_rules! plane_kernels {
    ($features:literal) => {
        use $crate::planes::{BITS, BLOCK, CodeRow, CodeRows, Look, Query};

        /// Queries that share unpacked codes.
        const QUERIES: usize = 4;

        /// See [`scalar::first_sums`]($crate::planes::scalar::first_sums).
        ///
        /// # Safety
        /// The processor must have the features of this tier.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn first_sums(
            look: Look,
            rows: CodeRows<'_>,
            queries: &[Query],
            mut store: impl FnMut(usize, usize, &[i64]),
        ) {
            for row in 0..rows.len() {
                for (block, queries) in queries.chunks(QUERIES).enumerate() {
                    let mut sums = [0; QUERIES];
                    macro_rules! of {
                        ($q:literal) => {
                            sums[..$q].copy_from_slice(&match look {
                                Look::Coarse => row_sums::<false, $q>(rows.row(row), queries),
                                Look::Fine => row_sums::<true, $q>(rows.row(row), queries),
                            })
                        };
                    }
                    match queries.len() {
                        1 => of!(1),
                        2 => of!(2),
                        3 => of!(3),
                        _ => of!(4),
                    }
                    store(row, block * QUERIES, &sums[..queries.len()]);
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn row_sums<const FINE: bool, const Q: usize>(row: CodeRow<'_>, queries: &[Query]) -> [i64; Q] {
            let x: [_; Q] = std::array::from_fn(|q| queries[q].halves());
            let mut sums = [[splat(0); 2]; Q];
            for (block, halves) in row.halves.iter().enumerate() {
                let mut codes = spread(&row.bits[block]);
                for i in 0..4 {
                    // SAFETY: four loads of sixteen bytes are an array of 64.
                    let halves = unsafe { load(halves.as_ptr().add(16 * i)) };
                    let (low, high) = (and(halves, splat(15)), shift_right::<4>(halves));
                    codes[i] = add8(codes[i], add8(low, low));
                    codes[4 + i] = add8(codes[4 + i], add8(high, high));
                }
                if FINE {
                    for (codes, bit) in codes.iter_mut().zip(spread(&row.fine[block])) {
                        *codes = add8(add8(*codes, *codes), bit);
                    }
                }
                for q in 0..Q {
                    if FINE {
                        sums[q][0] = add_block::<2>(sums[q][0], &codes, &x[q].0[block]);
                    } else {
                        sums[q][0] = add_block::<4>(sums[q][0], &codes, &x[q].0[block]);
                        sums[q][1] = add_block::<4>(sums[q][1], &codes, &x[q].1[block]);
                    }
                }
            }
            let mut out = [0; Q];
            for (out, [high, low]) in out.iter_mut().zip(sums) {
                let [high, low, ..] = four_sums([high, low, high, low]).map(i64::from);
                *out = if FINE { high } else { 256 * high + low };
            }
            out
        }

        /// `Σ bit high` of one row of the fine or the finest plane.
        ///
        /// # Safety
        /// The processor must have the features of this tier.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn bit_sum(bits: &[u8], query: &Query) -> i32 {
            let mut sums = splat(0);
            for (bits, high) in bits.as_chunks::<BITS>().0.iter().zip(query.halves().0) {
                sums = add_block::<4>(sums, &spread(bits), high);
            }
            four_sums([sums; 4])[0]
        }

        /// A byte per column: its bit.
        #[inline]
        #[target_feature(enable = $features)]
        fn spread(bits: &[u8; BITS]) -> [V; BLOCK / 16] {
            let mut out = [splat(0); BLOCK / 16];
            for (out, bits) in out.iter_mut().zip(bits.as_chunks::<2>().0) {
                *out = and(sixteen_bits(*bits), splat(1));
            }
            out
        }

        /// Adds the products of a block, `N` calls of `add` together.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_block<const N: usize>(mut wide: V, codes: &[V; BLOCK / 16], x: &[i8; BLOCK]) -> V {
            for first in (0..BLOCK / 16).step_by(N) {
                let mut sums = none();
                for i in first..first + N {
                    // SAFETY: eight loads of sixteen bytes are an array of 128.
                    sums = add(sums, codes[i], unsafe { load(x.as_ptr().add(16 * i).cast()) });
                }
                wide = widen(wide, sums);
            }
            wide
        }
    };
}
pub(super) use plane_kernels;
