//! `gated_activation`: the gate's non-linearity times the up projection.

use crate::exp::{gelu_tanh, silu};
use crate::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::{Activation, Cpu, Rows};

/// Values that one call of a thread computes.
const CHUNK: usize = 4 * 1024;

/// `gate = activation(gate) * up`.
pub(crate) fn run(cpu: &Cpu, activation: Activation, gate: &mut Rows, up: &Rows) {
    assert_eq!((gate.len(), gate.cols()), (up.len(), up.cols()), "shapes of gate and up");
    let up = up.data();
    cpu.pool().chunks(gate.data_mut(), CHUNK, 1, |chunk, gate| {
        let up = &up[chunk * CHUNK..][..gate.len()];
        dispatch(cpu.isa(), Gate { activation, gate, up });
    });
}

struct Gate<'a> {
    activation: Activation,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match self.activation {
            Activation::Relu2 => self.each(l, |x| {
                let x = l.larger(l.splat(0.0), x); // in this order a NaN stays NaN
                l.mul(x, x)
            }),
            Activation::Silu => self.each(l, |x| silu(l, x)),
            Activation::GeluTanh => self.each(l, |x| gelu_tanh(l, x)),
        }
    }
}

impl Gate<'_> {
    #[inline(always)]
    fn each<L: Lanes>(self, l: L, f: impl Fn(L::V) -> L::V) {
        for (gate, up) in self.gate.chunks_mut(LANES).zip(self.up.chunks(LANES)) {
            l.store_part(l.mul(f(l.load_part(gate)), l.load_part(up)), gate);
        }
    }
}
