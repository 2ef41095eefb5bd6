//! Q2_0 of llama.cpp (groups of 64) and PQ2_0 of PrismML (groups of 128): an f16 scale, then 2-bit codes in order, low
//! bits first (formats.md §2.7).

use super::ternary_blocks::Layout;

/// `d qs[16]`.
pub(super) const GROUPS_OF_64: Layout = Layout { len: 64, bytes: 18, scale_at: 0, unpack, pack };

/// `d qs[32]`.
pub(super) const GROUPS_OF_128: Layout = Layout { len: 128, bytes: 34, scale_at: 0, unpack, pack };

fn unpack(packed: &[u8], codes: &mut [u8]) {
    for (four, byte) in codes.chunks_exact_mut(4).zip(packed) {
        four.copy_from_slice(&[0, 2, 4, 6].map(|shift| byte >> shift & 3));
    }
}

fn pack(codes: &[u8], packed: &mut [u8]) {
    for (byte, four) in packed.iter_mut().zip(codes.chunks_exact(4)) {
        *byte = four[0] | four[1] << 2 | four[2] << 4 | four[3] << 6;
    }
}
