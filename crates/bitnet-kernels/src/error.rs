//! What can go wrong when weights are handed to a backend.

/// Errors of a backend. Verbs themselves cannot fail: shapes are checked when weights and buffers are made.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Byte length, shape or scale count do not belong together.
    #[error("{what}: {found}, expected {expected}")]
    Shape {
        /// What was looked at, for example "ternary weight bytes".
        what: &'static str,
        /// What was found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The 2-bit code 3 stands in the weights: a damaged file or a foreign layout.
    #[error(
        "ternary weights hold the illegal code 3 in byte {byte}: damaged file, or a layout other than the declared one"
    )]
    IllegalCode {
        /// Offset of the first byte that holds it.
        byte: usize,
    },
    /// A scale is NaN, infinite or not positive.
    #[error("scale {value} at index {index} is not a finite number above zero")]
    Scale {
        /// Index of the scale.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The wanted instruction-set tier is unknown or the processor lacks it.
    #[error("instruction set {wanted:?} is not available here; available: {available}")]
    Isa {
        /// What was asked for.
        wanted: String,
        /// Names of the usable tiers, best first.
        available: String,
    },
    /// The planned memory does not fit.
    #[error("cannot reserve {bytes} bytes for {what}")]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// How much was asked for.
        bytes: usize,
    },
    /// The operating system gave no threads.
    #[error("cannot start {threads} threads: {source}")]
    Threads {
        /// How many were wanted.
        threads: usize,
        /// Why not.
        source: std::io::Error,
    },
    /// A tier's kernels do not give the scalar results: a broken processor, emulator or build.
    #[error("instruction set {isa} fails its self-test in {what}; choose another with BITNET_ISA")]
    SelfTest {
        /// The tier.
        isa: crate::Isa,
        /// The kernel that differs.
        what: &'static str,
    },
}
