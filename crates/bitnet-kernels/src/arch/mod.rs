//! Instruction-set tiers: the same results as the scalar bodies, faster. The only place with intrinsics.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
