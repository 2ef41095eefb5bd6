//! The tier of WebAssembly with 128-bit vectors. A module is refused as a whole where its instructions are missing, so the
//! tier is chosen when it is compiled (`-C target-feature=+simd128`).

pub(crate) mod float_simd128;
pub(crate) mod simd128;
