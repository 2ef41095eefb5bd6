//! Tiers of 64-bit ARM.

mod bytes;
pub(crate) mod dotprod;
pub(crate) mod float_neon;
pub(crate) mod i8mm;
pub(crate) mod neon;
