//! x86-64.

pub(crate) mod float_avx2;
pub(crate) mod float_avx512;
