//! `add`: the residual sum.

use crate::{Cpu, Rows};

/// Values that one call of a thread adds.
const CHUNK: usize = 16 * 1024;

/// `x += y`.
pub(crate) fn run(cpu: &Cpu, x: &mut Rows, y: &Rows) {
    assert_eq!((x.len(), x.cols()), (y.len(), y.cols()), "shapes of a sum");
    let y = y.data();
    cpu.pool().chunks(x.data_mut(), CHUNK, 1, |chunk, x| {
        // One addition per value is the same on every tier, so this needs no tier of its own.
        for (x, y) in x.iter_mut().zip(&y[chunk * CHUNK..]) {
            *x += y;
        }
    });
}
