//! Sixteen f32 lanes: the arithmetic every float step is written in.
//!
//! A float kernel is written once over [`Lanes`] and instantiated for each instruction-set tier. All operations are
//! single IEEE operations in a fixed order, so every tier gives the same bits; [`Scalar`] is the readable definition.
//! Sums over long rows keep lane `j` for the elements `16 i + j`, pad the tail with zeros, and end in the tree of
//! [`Lanes::sum`].

use crate::isa::Isa;

/// Lanes per vector, in every tier.
pub(crate) const LANES: usize = 16;

/// One tier's vectors of sixteen f32. A value of the implementing type proves that the processor has the tier.
pub(crate) trait Lanes: Copy {
    /// Sixteen f32.
    type V: Copy;
    /// Independent accumulators that fit the registers.
    const ACCUMULATORS: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads sixteen floats.
    fn load(self, x: &[f32; LANES]) -> Self::V;
    /// Writes sixteen floats.
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// Reads sixteen little-endian binary16 values.
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::V;
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: gives `b` when either is NaN.
    fn larger(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: gives `b` when either is NaN.
    fn smaller(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` for whole `n` in `-126..=127`.
    fn pow2(self, n: Self::V) -> Self::V;
    /// Sum of the lanes: lane `j` takes lane `j + 8`, then `j + 4`, `j + 2`, `j + 1`.
    fn sum(self, v: Self::V) -> f32;
    /// Largest lane, by [`larger`](Self::larger) in the tree of [`sum`](Self::sum).
    fn largest(self, v: Self::V) -> f32;

    /// Reads up to sixteen floats and sets the other lanes to zero.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        match x.first_chunk() {
            Some(full) => self.load(full),
            None => {
                let mut padded = [0.0; LANES];
                padded[..x.len()].copy_from_slice(x);
                self.load(&padded)
            }
        }
    }

    /// Writes the first `out.len()` lanes, at most sixteen.
    #[inline(always)]
    fn store_part(self, v: Self::V, out: &mut [f32]) {
        match out.first_chunk_mut() {
            Some(full) => self.store(v, full),
            None => {
                let mut padded = [0.0; LANES];
                self.store(v, &mut padded);
                out.copy_from_slice(&padded[..out.len()]);
            }
        }
    }
}

/// A float kernel, written once and instantiated for each tier.
///
/// `run` and everything it calls must be `#[inline(always)]`: only code that is inlined into the tier's entry function
/// is compiled with the tier's instructions. (Otherwise it would be slow, not wrong.)
pub(crate) trait Kernel {
    /// What it computes.
    type Output;
    /// The arithmetic.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs a kernel on a tier.
///
/// # Panics
/// If the processor lacks the tier: [`Cpu`](crate::Cpu) never chooses such a one.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Scalar => kernel.run(Scalar),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => crate::arch::x86_64::float_avx2::Avx2::new().expect("processor has AVX2").run(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => crate::arch::x86_64::float_avx512::Avx512::new().expect("processor has AVX-512").run(kernel),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("{isa} is never available on this architecture"),
    }
}

/// The oracle: plain arrays, plain loops.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for j in 0..LANES {
        out[j] = f(j);
    }
    out
}

#[inline(always)]
fn tree(mut v: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            v[j] = f(v[j], v[j + half]);
        }
    }
    v[0]
}

impl Lanes for Scalar {
    type V = [f32; LANES];
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::V {
        each(|j| half::f16::from_le_bytes([x[2 * j], x[2 * j + 1]]).to_f32_const())
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|j| a[j] + b[j])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|j| a[j] - b[j])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|j| a[j] * b[j])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(|j| a[j] / b[j])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|j| a[j].mul_add(b[j], c[j]))
    }
    #[inline(always)]
    fn larger(self, a: Self::V, b: Self::V) -> Self::V {
        each(|j| if a[j] > b[j] { a[j] } else { b[j] })
    }
    #[inline(always)]
    fn smaller(self, a: Self::V, b: Self::V) -> Self::V {
        each(|j| if a[j] < b[j] { a[j] } else { b[j] })
    }
    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // 2^23 + k has k in its lowest mantissa bits; the shift drops everything above the exponent field's eight.
        each(|j| f32::from_bits((n[j] + POW2_BIAS).to_bits() << 23))
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        tree(v, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        tree(v, |a, b| if a > b { a } else { b })
    }
}

/// `2^23 + 127`: puts a whole number plus the exponent bias into the lowest mantissa bits.
pub(crate) const POW2_BIAS: f32 = 8_388_608.0 + 127.0;

/// One lane-order dot product: `lane[j] = fma(a[16 i + j], b[16 i + j], lane[j])`, then the tree.
#[inline(always)]
pub(crate) fn dot<L: Lanes>(l: L, a: &[f32], b: &[f32]) -> f32 {
    let mut acc = l.splat(0.0);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        acc = l.fma(l.load_part(a), l.load_part(b), acc);
    }
    l.sum(acc)
}
