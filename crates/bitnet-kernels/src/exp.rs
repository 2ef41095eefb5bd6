//! `exp`, the same bits on every tier and platform.

use crate::lanes::Lanes;

/// `exp(x)` within 1 ulp: 0 below about −104, ∞ above about 88.7, gradual underflow, NaN stays NaN.
///
/// `x = n ln 2 + r` with `ln 2` in two parts (Cody–Waite), and `exp(r)` by the degree-6 polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    let c = |x: f32| l.splat(x);
    // The bound stands first: a NaN in the second operand passes.
    let x = l.larger(c(-104.0), l.smaller(c(89.0), x));
    // Adding 1.5 · 2^23 rounds to a whole number, ties to even.
    let n = l.sub(l.fma(x, c(std::f32::consts::LOG2_E), c(12_582_912.0)), c(12_582_912.0));
    let r = l.fma(n, c(-0.693_359_4), x);
    let r = l.fma(n, c(2.121_944_4e-4), r);
    let mut p = c(1.987_569_1e-4);
    p = l.fma(p, r, c(1.398_199_9e-3));
    p = l.fma(p, r, c(8.333_452e-3));
    p = l.fma(p, r, c(4.166_579_6e-2));
    p = l.fma(p, r, c(1.666_666_5e-1));
    p = l.fma(p, r, c(0.5));
    p = l.fma(l.mul(p, r), r, r);
    p = l.add(p, c(1.0));
    l.times_pow2(p, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::lanes::{Kernel, LANES, dispatch};

    struct Exp<'a>(&'a [f32]);

    impl Kernel for Exp<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> Vec<f32> {
            let mut out = vec![0.0; self.0.len()];
            for (x, out) in self.0.chunks(LANES).zip(out.chunks_mut(LANES)) {
                l.store_part(exp(l, l.load_part(x)), out);
            }
            out
        }
    }

    #[test]
    fn is_within_one_ulp_and_the_same_on_every_tier() {
        // Every 1009th float from −104 to 89 and from tiny to large.
        let mut x: Vec<f32> = (0..=u32::MAX).step_by(1009).map(f32::from_bits).collect();
        x.retain(|x| (-104.5..89.5).contains(x));
        let scalar = dispatch(Isa::Scalar, Exp(&x));
        let mut worst = 0f64;
        for (x, got) in x.iter().zip(&scalar) {
            let want = f64::from(*x).exp();
            if want > f64::from(f32::MAX) {
                // Between the largest float and the next power of two rounding may go either way only at the edge.
                assert!(*got == f32::INFINITY || *got == f32::MAX, "exp({x}) = {got}");
                continue;
            }
            let rounded = want as f32;
            let ulp =
                f64::from(f32::from_bits((rounded.to_bits() & 0x7f80_0000).max(0x0c00_0000))) * f64::from(f32::EPSILON);
            worst = worst.max((f64::from(*got) - want).abs() / ulp);
        }
        assert!(worst < 1.0, "{worst} ulp");
        for isa in Isa::available() {
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&dispatch(isa, Exp(&x))) == bits(&scalar), "{isa} differs from scalar");
        }
    }

    #[test]
    fn limits() {
        let x = [f32::NEG_INFINITY, -1e30, -104.0, -0.0, 0.0, 88.8, 1e30, f32::INFINITY, f32::NAN];
        let inf = f32::INFINITY;
        for isa in Isa::available() {
            let got = dispatch(isa, Exp(&x));
            assert_eq!(got[..8], [0.0, 0.0, 0.0, 1.0, 1.0, inf, inf, inf], "{isa}");
            assert!(got[8].is_nan());
        }
    }
}
