//! Tiers of x86-64.

pub(crate) mod amx;
pub(crate) mod bf16_amx;
pub(crate) mod float_avx2;
pub(crate) mod float_avx512;
pub(crate) mod planes;
pub(crate) mod quantize;
pub(crate) mod ternary_amx;
pub(crate) mod ternary_avx2;
pub(crate) mod ternary_avx512vnni;
mod ternary_groups;
