//! `exp` for probabilities.

/// `1.5 · 2^52`: adding and subtracting it rounds small numbers to whole ones.
const WHOLE: f64 = 6_755_399_441_055_744.0;
/// `ln 2` in two parts; the first has so few bits that multiples of it are exact.
const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];

/// `exp(x)` for `x ≤ 0`, within 2 ulp; 0 below −708, which no probability can tell. Nothing but IEEE additions and
/// multiplications, so the bits do not depend on the machine, and no branch, so that compilers make vectors of a loop over it.
///
/// `x = n ln 2 + r`, `exp(r)` by its Taylor series (|r| ≤ 0.35, so the 13th power is below the last bit), and `2^n` put
/// together from its bits.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    let seen = x > -708.0;
    let x = if seen { x } else { 0.0 };
    let n = (x * std::f64::consts::LOG2_E + WHOLE) - WHOLE;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut p = 1.0 / 479_001_600.0; // 1 / 12!
    for factorial in [39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = p * r + 1.0 / factorial;
    }
    let power = f64::from_bits(((n + WHOLE).to_bits() << 52).wrapping_add(1023 << 52));
    if seen { p * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn is_near_libm() {
        for i in 0..1_000_000 {
            let x = -f64::from(i) * 7.079e-4;
            let (got, want) = (exp(x), libm::exp(x));
            assert!((got - want).abs() <= 2.0 * f64::EPSILON * want, "exp({x}): {got:e}, not {want:e}");
        }
        assert_eq!((exp(0.0), exp(-0.0), exp(-708.1), exp(f64::NEG_INFINITY)), (1.0, 1.0, 0.0, 0.0));
    }
}
