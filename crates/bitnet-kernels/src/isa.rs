//! Instruction-set tiers of the CPU backend.

use std::fmt;
use std::str::FromStr;

use crate::KernelError;

/// An instruction-set tier. All tiers give the same bits; they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the oracle, and the tier for processors that have nothing better.
    Scalar,
    /// x86-64 with SSE4.1.
    Sse41,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-VNNI, besides all of [`Isa::Avx2`].
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI, besides all of [`Isa::Avx2`].
    Avx512Vnni,
    /// x86-64 with AMX int8, besides GFNI and all of [`Isa::Avx512Vnni`]: ternary products of several tokens run on the
    /// matrix unit, everything else as in that tier.
    Amx,
    /// 64-bit ARM with NEON.
    Neon,
    /// 64-bit ARM with the dot product instructions of ARMv8.2, besides [`Isa::Neon`].
    Dotprod,
    /// 64-bit ARM with the int8 matrix instructions of ARMv8.6, besides [`Isa::Dotprod`]: ternary products of several
    /// tokens use them, everything else is as in that tier.
    I8mm,
    /// WebAssembly with 128-bit vectors; chosen when it is compiled.
    Simd128,
}

impl Isa {
    /// Every tier, best first.
    pub const ALL: [Isa; 10] = [
        Isa::Amx,
        Isa::Avx512Vnni,
        Isa::AvxVnni,
        Isa::Avx2,
        Isa::Sse41,
        Isa::I8mm,
        Isa::Dotprod,
        Isa::Neon,
        Isa::Simd128,
        Isa::Scalar,
    ];

    /// The name used on the command line and in `BITNET_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Sse41 => "sse41",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
            Isa::Simd128 => "simd128",
        }
    }

    /// Whether processor and operating system support this tier.
    pub fn is_available(self) -> bool {
        self.missing().is_empty()
    }

    /// What the processor or the operating system lacks for this tier, by the names that `/proc/cpuinfo` and
    /// compilers use; nothing if the tier is available.
    pub fn missing(self) -> Vec<&'static str> {
        match self {
            Isa::Scalar => Vec::new(),
            Isa::Sse41 | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => self.missing_x86_64(),
            Isa::Neon | Isa::Dotprod | Isa::I8mm => self.missing_aarch64(),
            Isa::Simd128 if cfg!(all(target_arch = "wasm32", target_feature = "simd128")) => Vec::new(),
            Isa::Simd128 => vec!["WebAssembly compiled with simd128"],
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn missing_x86_64(self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        macro_rules! need {
            ($($feature:tt),+) => {
                $(if !is_x86_feature_detected!($feature) { missing.push($feature); })+
            };
        }
        if self >= Isa::Sse41 {
            need!("sse4.1");
        }
        if self >= Isa::Avx2 {
            need!("avx2", "fma", "f16c");
        }
        if self == Isa::AvxVnni {
            need!("avxvnni");
        }
        if self >= Isa::Avx512Vnni {
            need!("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni");
        }
        if self >= Isa::Amx {
            need!("gfni");
            if !crate::arch::x86_64::amx::is_permitted() {
                missing.push("amx-int8 (in the processor, and permitted by a Linux kernel since 5.16)");
            }
        }
        missing
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn missing_x86_64(self) -> Vec<&'static str> {
        vec!["x86-64"]
    }

    #[cfg(target_arch = "aarch64")]
    fn missing_aarch64(self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        macro_rules! need {
            ($feature:tt) => {
                if !std::arch::is_aarch64_feature_detected!($feature) {
                    missing.push($feature);
                }
            };
        }
        if cfg!(target_endian = "big") {
            missing.push("little-endian bytes");
        }
        need!("neon");
        if self >= Isa::Dotprod {
            need!("dotprod");
        }
        if self >= Isa::I8mm {
            need!("i8mm");
        }
        missing
    }

    #[cfg(not(target_arch = "aarch64"))]
    fn missing_aarch64(self) -> Vec<&'static str> {
        vec!["64-bit ARM"]
    }

    /// The usable tiers, best first. Never empty: [`Isa::Scalar`] runs everywhere.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The best usable tier.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// This tier, or an error that names the usable ones.
    pub(crate) fn require(self) -> Result<Isa, KernelError> {
        if self.is_available() { Ok(self) } else { Err(unavailable(self.name())) }
    }
}

fn unavailable(wanted: &str) -> KernelError {
    let available: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
    KernelError::Isa { wanted: wanted.to_owned(), available: available.join(", ") }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    /// Parses a tier's name; whether this machine has the tier is decided by [`Cpu::new`](crate::Cpu::new).
    fn from_str(name: &str) -> Result<Isa, KernelError> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| unavailable(name))
    }
}
