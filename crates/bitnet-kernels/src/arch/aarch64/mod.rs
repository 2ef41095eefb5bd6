//! Tiers of 64-bit ARM.
//!
//! Ternary products and plane sums differ only in how products of bytes are added: [`neon`] and [`dotprod`] say how, and
//! the macros of `ternary` and `planes` write the loops around it for each.

pub(crate) mod dotprod;
pub(crate) mod float_neon;
pub(crate) mod i8mm;
pub(crate) mod neon;
mod planes;
mod ternary;
