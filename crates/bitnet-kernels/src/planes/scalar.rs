//! Sums over the bit planes by their definition: the oracle of the tiers under `arch`.

use super::{BITS, BLOCK, CodeRow, CodeRows, HALVES, Look, Query};

/// Of all rows and queries `Σ (u / 4) x̂`, or `Σ (u / 2) high` for [`Look::Fine`]: `store(row, query, sums)` takes those of a row
/// and of some queries from `query` on.
pub(crate) fn first_sums(
    look: Look,
    rows: CodeRows<'_>,
    queries: &[Query],
    mut store: impl FnMut(usize, usize, &[i64]),
) {
    for row in 0..rows.len() {
        let CodeRow { halves, bits, fine } = rows.row(row);
        for (q, query) in queries.iter().enumerate() {
            let (high, low) = query.halves();
            let (mut highs, mut lows) = (0, 0);
            for block in 0..halves.len() {
                let (bits, fine, halves) = (spread(&bits[block]), spread(&fine[block]), halves[block]);
                for p in 0..BLOCK {
                    let coarse = bits[p] + 2 * (halves[p % HALVES] >> (p / HALVES * 4) & 15);
                    let code = i64::from(if look == Look::Fine { 2 * coarse + fine[p] } else { coarse });
                    highs += code * i64::from(high[block][p]);
                    lows += code * i64::from(low[block][p]);
                }
            }
            store(row, q, &[if look == Look::Fine { highs } else { 256 * highs + lows }]);
        }
    }
}

/// `Σ bit high` of one row of the fine or the finest plane.
pub(crate) fn bit_sum(bits: &[u8], query: &Query) -> i32 {
    let blocks = bits.as_chunks().0.iter().map(spread).zip(query.halves().0);
    blocks.flat_map(|(bits, high)| (0..BLOCK).map(move |p| i32::from(bits[p]) * i32::from(high[p]))).sum()
}

/// The bits of a block as bytes.
fn spread(bits: &[u8; BITS]) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    for (out, bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(bits) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = bits >> i & 1;
        }
    }
    out
}
