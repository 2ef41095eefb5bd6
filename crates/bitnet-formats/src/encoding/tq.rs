//! TQ1_0 (base 3) and TQ2_0 (2 bits) of llama.cpp (formats.md §2.5, §2.6).

use super::ternary_blocks::Layout;

/// `qs[48] qh[4] d`.
pub(super) const TQ1_0: Layout = Layout { len: 256, bytes: 54, scale_at: 52, unpack: unpack_base3, pack: pack_base3 };

/// `qs[64] d`.
pub(super) const TQ2_0: Layout = Layout { len: 256, bytes: 66, scale_at: 64, unpack: unpack_bits, pack: pack_bits };

/// The three parts of TQ1_0: first byte, bytes, trits per byte. Trit `n` of byte `m` of a part belongs to element
/// `start + n * bytes + m`.
const PARTS: [(usize, usize, usize); 3] = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];

fn unpack_base3(packed: &[u8], codes: &mut [u8]) {
    let mut start = 0;
    for (first, bytes, trits) in PARTS {
        let mut power = 1u8;
        for lane in codes[start..start + trits * bytes].chunks_exact_mut(bytes) {
            for (code, byte) in lane.iter_mut().zip(&packed[first..]) {
                *code = ((byte.wrapping_mul(power) as u16 * 3) >> 8) as u8;
            }
            power = power.wrapping_mul(3);
        }
        start += trits * bytes;
    }
}

fn pack_base3(codes: &[u8], packed: &mut [u8]) {
    let mut start = 0;
    for (first, bytes, trits) in PARTS {
        for m in 0..bytes {
            // The first trit is the most significant; a missing fifth one is 0.
            let number = (0..5)
                .fold(0u32, |number, n| number * 3 + if n < trits { codes[start + n * bytes + m] as u32 } else { 0 });
            packed[first + m] = (number * 256).div_ceil(243) as u8;
        }
        start += trits * bytes;
    }
}

fn unpack_bits(packed: &[u8], codes: &mut [u8]) {
    for (from, to) in packed.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (lane, shift) in to.chunks_exact_mut(32).zip([0, 2, 4, 6]) {
            lane.iter_mut().zip(from).for_each(|(code, byte)| *code = byte >> shift & 3);
        }
    }
}

fn pack_bits(codes: &[u8], packed: &mut [u8]) {
    for (to, from) in packed.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
        for (lane, shift) in from.chunks_exact(32).zip([0, 2, 4, 6]) {
            to.iter_mut().zip(lane).for_each(|(byte, code)| *byte |= code << shift);
        }
    }
}
