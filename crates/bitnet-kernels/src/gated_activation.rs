//! `gated_activation`: the gate's non-linearity times the up projection.

use crate::exp::exp;
use crate::lanes::{self, Kernel, Lanes, Map, dispatch};
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
        let Gate { activation, gate, up } = self;
        match activation {
            Activation::Relu2 => lanes::update(l, gate, up, Relu2),
            Activation::Silu => lanes::update(l, gate, up, Silu),
            Activation::GeluTanh => lanes::update(l, gate, up, GeluTanh),
        }
    }
}

/// `max(x, 0)²`
#[derive(Clone, Copy)]
pub(crate) struct Relu2;

impl Map for Relu2 {
    #[inline(always)]
    fn apply<L: Lanes>(self, l: L, x: L::V, up: L::V) -> L::V {
        let x = l.larger(l.splat(0.0), x); // in this order a NaN stays NaN
        l.mul(l.mul(x, x), up)
    }
}

/// `x / (1 + exp(-x))`, which is `x · sigmoid(x)`.
#[derive(Clone, Copy)]
pub(crate) struct Silu;

impl Map for Silu {
    #[inline(always)]
    fn apply<L: Lanes>(self, l: L, x: L::V, up: L::V) -> L::V {
        let e = exp(l, l.sub(l.splat(0.0), x));
        l.mul(l.div(x, l.add(l.splat(1.0), e)), up)
    }
}

/// GELU in its tanh form. `(1 + tanh z) / 2 = 1 / (1 + exp(-2z))`, which loses no digits where tanh is near −1.
#[derive(Clone, Copy)]
pub(crate) struct GeluTanh;

impl Map for GeluTanh {
    #[inline(always)]
    fn apply<L: Lanes>(self, l: L, x: L::V, up: L::V) -> L::V {
        // z = √(2/π) (x + 0.044715 x³)
        let inner = l.fma(l.mul(x, x), l.splat(0.044715), l.splat(1.0));
        let e = exp(l, l.mul(l.mul(x, l.splat(-2.0 * 0.797_884_6)), inner));
        l.mul(l.div(x, l.add(l.splat(1.0), e)), up)
    }
}
