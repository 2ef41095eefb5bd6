//! The int8 products of each tier from registers alone: what no kernel can exceed.

use std::arch::asm;

use super::amx::{Tiles, WHOLE};

/// Operations of a round of `pmaddubsw` and `paddw` on eight accumulators.
pub(crate) const SSE_ROUND: u64 = 8 * 2 * 16;
/// The same of 32 bytes.
pub(crate) const AVX2_ROUND: u64 = 8 * 2 * 32;
/// Twelve `vpdpbusd` of 32 bytes.
pub(crate) const AVX_VNNI_ROUND: u64 = 12 * 2 * 32;
/// Twelve `vpdpbusd` of 64 bytes.
pub(crate) const AVX512_ROUND: u64 = 12 * 2 * 64;
/// Four `tdpbssd` of 16 × 16 × 64.
pub(crate) const AMX_ROUND: u64 = 4 * 2 * 16 * 16 * 64;

/// # Safety
/// The processor must have SSE4.1. `rounds` must not be 0, here and below.
#[target_feature(enable = "sse4.1")]
pub(crate) unsafe fn sse41(rounds: u64) {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:",
            "movdqa xmm8, xmm14", "pmaddubsw xmm8, xmm15", "paddw xmm0, xmm8",
            "movdqa xmm9, xmm14", "pmaddubsw xmm9, xmm15", "paddw xmm1, xmm9",
            "movdqa xmm10, xmm14", "pmaddubsw xmm10, xmm15", "paddw xmm2, xmm10",
            "movdqa xmm11, xmm14", "pmaddubsw xmm11, xmm15", "paddw xmm3, xmm11",
            "movdqa xmm8, xmm14", "pmaddubsw xmm8, xmm15", "paddw xmm4, xmm8",
            "movdqa xmm9, xmm14", "pmaddubsw xmm9, xmm15", "paddw xmm5, xmm9",
            "movdqa xmm10, xmm14", "pmaddubsw xmm10, xmm15", "paddw xmm6, xmm10",
            "movdqa xmm11, xmm14", "pmaddubsw xmm11, xmm15", "paddw xmm7, xmm11",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            options(nostack, nomem),
        );
    }
}

/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn avx2(rounds: u64) {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:",
            "vpmaddubsw ymm8, ymm14, ymm15", "vpaddw ymm0, ymm0, ymm8",
            "vpmaddubsw ymm9, ymm14, ymm15", "vpaddw ymm1, ymm1, ymm9",
            "vpmaddubsw ymm10, ymm14, ymm15", "vpaddw ymm2, ymm2, ymm10",
            "vpmaddubsw ymm11, ymm14, ymm15", "vpaddw ymm3, ymm3, ymm11",
            "vpmaddubsw ymm8, ymm14, ymm15", "vpaddw ymm4, ymm4, ymm8",
            "vpmaddubsw ymm9, ymm14, ymm15", "vpaddw ymm5, ymm5, ymm9",
            "vpmaddubsw ymm10, ymm14, ymm15", "vpaddw ymm6, ymm6, ymm10",
            "vpmaddubsw ymm11, ymm14, ymm15", "vpaddw ymm7, ymm7, ymm11",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
            out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            options(nostack, nomem),
        );
    }
}

/// # Safety
/// The processor must have AVX2 and AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
pub(crate) unsafe fn avxvnni(rounds: u64) {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:",
            "{{vex}} vpdpbusd ymm0, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm1, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm2, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm3, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm4, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm5, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm6, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm7, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm8, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm9, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm10, ymm14, ymm15",
            "{{vex}} vpdpbusd ymm11, ymm14, ymm15",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
            out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            options(nostack, nomem),
        );
    }
}

/// # Safety
/// The processor must have AVX-512 F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn avx512vnni(rounds: u64) {
    // SAFETY: registers only.
    unsafe {
        asm!(
            "2:",
            "vpdpbusd zmm0, zmm14, zmm15",
            "vpdpbusd zmm1, zmm14, zmm15",
            "vpdpbusd zmm2, zmm14, zmm15",
            "vpdpbusd zmm3, zmm14, zmm15",
            "vpdpbusd zmm4, zmm14, zmm15",
            "vpdpbusd zmm5, zmm14, zmm15",
            "vpdpbusd zmm6, zmm14, zmm15",
            "vpdpbusd zmm7, zmm14, zmm15",
            "vpdpbusd zmm8, zmm14, zmm15",
            "vpdpbusd zmm9, zmm14, zmm15",
            "vpdpbusd zmm10, zmm14, zmm15",
            "vpdpbusd zmm11, zmm14, zmm15",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            options(nostack, nomem),
        );
    }
}

/// # Safety
/// `amx::is_permitted()` must have returned true.
pub(crate) unsafe fn amx(rounds: u64) {
    // SAFETY: the caller's promise; nothing else configures tiles in between.
    let _configured = unsafe { Tiles::configure([WHOLE; 8]) };
    // SAFETY: registers only; the tiles are configured.
    unsafe {
        asm!(
            "2:",
            "tdpbssd tmm0, tmm6, tmm4",
            "tdpbssd tmm1, tmm6, tmm5",
            "tdpbssd tmm2, tmm7, tmm4",
            "tdpbssd tmm3, tmm7, tmm5",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
}
