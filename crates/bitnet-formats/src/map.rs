//! The memory map: the only `unsafe` of this crate.
