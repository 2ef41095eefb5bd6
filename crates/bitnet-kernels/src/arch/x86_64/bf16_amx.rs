//! bf16 products on the matrix unit (AMX). `tdpbf16ps` takes 16 clocks for 16 × 16 sums of 32 products: 1024 operations
//! per clock, when operands come from the nearest cache.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
use std::sync::OnceLock;

use super::amx::{Tiles, WHOLE, is_permitted};
use crate::bf16::{Bf16Sums, Bf16Tile};

/// AMX with bf16 (CPUID leaf 7, `amx-bf16`), and the kernel's permission. Asked once: in a virtual machine CPUID takes a
/// microsecond and more.
pub(crate) fn has_unit() -> bool {
    const BF16: u32 = 1 << 22;
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| __get_cpuid_max(0).0 >= 7 && __cpuid_count(7, 0).edx & BF16 == BF16 && is_permitted())
}

/// Sums of every strip of `left` with every strip of `right`; a strip is a multiple of two tiles long.
///
/// # Safety
/// [`has_unit`] must have returned true.
pub(crate) unsafe fn products(
    left: &[Bf16Tile],
    right: &[Bf16Tile],
    strip: usize,
    store: &mut dyn FnMut(usize, usize, &Bf16Sums),
) {
    // SAFETY: the caller's promise.
    let _configured = unsafe { Tiles::configure([WHOLE; 8]) };
    let mut sums = Bf16Sums([[0.0; 32]; 32]);
    for (i, left) in left.chunks_exact(strip).enumerate() {
        for (j, right) in right.chunks_exact(strip).enumerate() {
            // SAFETY: the tiles have 16 rows, the processor has the unit.
            unsafe { product(left, right, &mut sums) };
            store(i, j, &sums);
        }
    }
}

/// # Safety
/// The tiles of this thread must be configured for 16 rows, and the processor have the unit.
#[inline]
unsafe fn product(left: &[Bf16Tile], right: &[Bf16Tile], sums: &mut Bf16Sums) {
    assert!(left.len() == right.len() && left.len() >= 2 && left.len().is_multiple_of(2));
    // SAFETY: every step reads two tiles of 1024 bytes of each operand; there are `len / 2` steps. Four tiles of 16 × 16
    // sums are written into 32 rows of 128 bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{left} + {line}]",
            "tileloadd tmm6, [{right} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{left} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 2048",
            "add {right}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {line} * 2], tmm0",
            "tilestored [{sums} + {line} * 2 + 64], tmm1",
            "tilestored [{sums} + {line} * 2 + 2048], tmm2",
            "tilestored [{sums} + {line} * 2 + 2112], tmm3",
            left = inout(reg) left.as_ptr() => _,
            right = inout(reg) right.as_ptr() => _,
            steps = inout(reg) left.len() / 2 => _,
            sums = in(reg) sums.0.as_mut_ptr(),
            line = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
