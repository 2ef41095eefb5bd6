//! Products of bf16 matrices with float sums on the matrix unit (AMX), for training.
//!
//! The forward pass of the engine never uses them: the unit rounds in an order of its own, and its results are not those of
//! other tiers.

use crate::arch;

/// A tile of an operand: 16 × 32 bf16 values.
///
/// Of a left operand, row by row: 16 rows of 32 consecutive columns. Of a right operand, in pairs of rows: 16 pairs, and of
/// each 16 columns with the values of both rows side by side.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Bf16Tile(pub [[u32; 16]; 16]);

impl Bf16Tile {
    /// Zeros.
    pub const ZERO: Bf16Tile = Bf16Tile([[0; 16]; 16]);
}

/// Sums of 32 rows and 32 columns.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Bf16Sums(pub [[f32; 32]; 32]);

/// Proof that this processor has a matrix unit for bf16 and the system lets us use it.
#[derive(Clone, Copy, Debug)]
pub struct Bf16Unit(());

impl Bf16Unit {
    /// The unit, where there is one.
    pub fn new() -> Option<Bf16Unit> {
        arch::has_bf16_unit().then_some(Bf16Unit(()))
    }

    /// Products of 32 rows with 32 columns, of each pair of strips of `steps` × 2 tiles: strip `i` of `left` holds rows
    /// `32 i..32 i + 32`, strip `j` of `right` columns `32 j..32 j + 32`; step `s` has the tiles of both halves for depth
    /// `32 s..32 s + 32`. Calls `store(i, j, sums)` for all pairs, `j` running faster.
    ///
    /// # Panics
    /// If the operands are not whole strips, or if `store` multiplies on the matrix unit itself.
    pub fn multiply(
        self,
        left: &[Bf16Tile],
        right: &[Bf16Tile],
        steps: usize,
        mut store: impl FnMut(usize, usize, &Bf16Sums),
    ) {
        let strip = 2 * steps;
        assert!(steps > 0 && left.len().is_multiple_of(strip) && right.len().is_multiple_of(strip), "whole strips");
        arch::bf16_products(self, left, right, strip, &mut store);
    }
}
