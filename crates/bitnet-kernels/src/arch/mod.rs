//! Instruction-set tiers: the same results as the scalar bodies, faster. The only place with intrinsics.

#![allow(unsafe_code)]
