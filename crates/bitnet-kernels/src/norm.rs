//! `norm`: RMSNorm of rows, or of chunks of rows.

use crate::lanes::{self, Kernel, Lanes, Map, dispatch};
use crate::threads::grain;
use crate::{Cpu, Isa, NormWeight, Rows};

/// `out = RMSNorm(x)`, per chunk of the weight's length.
pub(crate) fn run(cpu: &Cpu, x: &Rows, norm: &NormWeight, out: &mut Rows) {
    assert_eq!(x.cols(), out.cols(), "row length of norm");
    let len = norm.weight.len();
    assert!(len > 0 && x.cols().is_multiple_of(len), "a norm of {len} channels for rows of {}", x.cols());
    out.set_len(x.len());
    let x = x.data();
    cpu.pool().chunks(out.data_mut(), len, grain(len), |chunk, out| {
        row(cpu.isa(), &x[chunk * len..][..len], norm, out);
    });
}

/// `out = x * (1 / sqrt(mean(x²) + eps)) * weight` for one row, multiplied in that order, as transformers does.
pub(crate) fn row(isa: Isa, x: &[f32], norm: &NormWeight, out: &mut [f32]) {
    dispatch(isa, Norm { x, norm, out });
}

/// `1 / sqrt(mean(x²) + eps)` of one row. A normed value is `(x * inverse_rms) * weight`.
pub(crate) fn inverse_rms(isa: Isa, x: &[f32], eps: f32) -> f32 {
    dispatch(isa, InverseRms { x, eps })
}

struct InverseRms<'a> {
    x: &'a [f32],
    eps: f32,
}

impl Kernel for InverseRms<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        // The squares are summed in lane order.
        1.0 / (lanes::dot(l, self.x, self.x) / self.x.len() as f32 + self.eps).sqrt()
    }
}

struct Norm<'a> {
    x: &'a [f32],
    norm: &'a NormWeight,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Norm { x, norm, out } = self;
        out.copy_from_slice(x);
        lanes::update(l, out, &norm.weight, Scale(InverseRms { x, eps: norm.eps }.run(l)));
    }
}

/// `x * factor * weight`
#[derive(Clone, Copy)]
struct Scale(f32);

impl Map for Scale {
    #[inline(always)]
    fn apply<L: Lanes>(self, l: L, x: L::V, weight: L::V) -> L::V {
        l.mul(l.mul(x, l.splat(self.0)), weight)
    }
}
