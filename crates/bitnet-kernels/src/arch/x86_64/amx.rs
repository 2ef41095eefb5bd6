//! The matrix unit (AMX): permission to use it, and its tile configuration.
//!
//! The intrinsics are not stable, so instructions stand in `asm!`. Tile registers are clobbers there, which means that
//! their contents do not outlive a block; the configuration does.

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;

/// Rows of a tile register, at most.
pub(super) const TILE_ROWS: usize = 16;
/// Bytes of a row of a tile register.
pub(super) const TILE_BYTES: usize = 64;
/// Rows and bytes of a row of a whole tile.
pub(super) const WHOLE: (usize, usize) = (TILE_ROWS, TILE_BYTES);

/// Whether processor and kernel have AMX int8 and the kernel lets this process use it. Linux grants tile registers on
/// request to the whole process, threads that already run included; so this asks, once.
#[cfg(target_os = "linux")]
pub(crate) fn is_permitted() -> bool {
    use std::sync::OnceLock;
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| is_supported() && request_permission())
}

/// Other systems have their own ways to ask, which nobody has tried yet.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_permitted() -> bool {
    false
}

/// CPUID leaf 7 has `amx-tile` and `amx-int8`, and the kernel keeps the tile registers of threads apart (XCR0).
#[cfg(target_os = "linux")]
fn is_supported() -> bool {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv};
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if !is_x86_feature_detected!("xsave") || __get_cpuid_max(0).0 < 7 {
        return false;
    }
    // SAFETY: the processor has XSAVE, and detection of it implies that the system has enabled XGETBV.
    let xcr0 = unsafe { _xgetbv(0) };
    __cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8 && xcr0 & TILE_STATE == TILE_STATE
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`; kernels before 5.16 do not know it and refuse.
#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call has two integers, touches no memory of the program, and the kernel changes only the registers
    // named here.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The tile registers of this thread, configured; released when dropped, so that the thread is light to switch again.
pub(super) struct Tiles(PhantomData<*const ()>); // stays on its thread

thread_local! {
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

impl Tiles {
    /// Tiles of so many rows and bytes in a row, at most [`TILE_ROWS`] and [`TILE_BYTES`].
    ///
    /// # Safety
    /// [`is_permitted`] must have returned true.
    ///
    /// # Panics
    /// If this thread has `Tiles`: theirs would be gone when these are dropped.
    pub(super) unsafe fn configure(shapes: [(usize, usize); 8]) -> Tiles {
        let mut config = [0u8; 64];
        config[0] = 1; // palette
        for (tile, (rows, bytes)) in shapes.into_iter().enumerate() {
            assert!((1..=TILE_ROWS).contains(&rows) && (1..=TILE_BYTES).contains(&bytes), "a tile of {rows} × {bytes}");
            config[16 + 2 * tile] = bytes as u8; // the low half of 16 bits
            config[48 + tile] = rows as u8;
        }
        assert!(!CONFIGURED.replace(true), "a product on the matrix unit within another");
        // SAFETY: reads 64 bytes; the configuration is one that palette 1 allows, and the processor has tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config.as_ptr(), options(nostack, preserves_flags, readonly)) };
        Tiles(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the processor has tiles, because `self` exists; no contents are needed any more.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
        CONFIGURED.set(false);
    }
}
