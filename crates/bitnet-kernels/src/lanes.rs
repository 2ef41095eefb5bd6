//! Sixteen f32 lanes: the arithmetic every float step is written in.
//!
//! A float kernel is written once over [`Lanes`] and instantiated for each instruction-set tier. All operations are
//! single IEEE operations in a fixed order, so every tier gives the same bits; [`Scalar`] is the readable definition.
//! Sums over long rows keep lane `j` for the elements `16 i + j`, pad the tail with zeros, and end in the tree of
//! [`Lanes::sum`].

use crate::ahead::Ahead;
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
    /// Reads sixteen little-endian binary32 values.
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Self::V;
    /// Reads sixteen little-endian binary16 values.
    fn load_f16(self, x: &[u8; 2 * LANES]) -> Self::V;
    /// Reads sixteen little-endian bfloat16 values.
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::V;
    /// Sixteen i8, the first in the lowest byte. (Byte arrays on the stack would be written in pieces and read as one,
    /// which stalls.)
    fn i8_lanes(self, x: u128) -> Self::V;
    /// Writes the lowest byte of every lane's bits. (Left to itself the compiler takes them out one by one.)
    #[inline(always)]
    fn store_lowest_bytes(self, v: Self::V, out: &mut [i8; LANES]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        for j in 0..LANES {
            out[j] = lanes[j].to_bits() as i8;
        }
    }
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
    /// `v · 2^n`, rounded once, for whole `n` in `-252..=254`: in two factors, so that neither leaves the normal range.
    #[inline(always)]
    fn times_pow2(self, v: Self::V, n: Self::V) -> Self::V {
        let whole = self.splat(12_582_912.0); // 1.5 · 2^23: adding it rounds to a whole number
        let half = self.sub(self.fma(n, self.splat(0.5), whole), whole);
        self.mul(self.mul(v, self.pow2(half)), self.pow2(self.sub(n, half)))
    }
    /// Sum of the lanes: lane `j` takes lane `j + 8`, then `j + 4`, `j + 2`, `j + 1`.
    fn sum(self, v: Self::V) -> f32;
    /// Largest lane, by [`larger`](Self::larger) in the tree of [`sum`](Self::sum).
    fn largest(self, v: Self::V) -> f32;

    /// [`sum`](Self::sum) of every vector in the lane of its number, at most eight; 0 in the other lanes.
    #[inline(always)]
    fn sum_of_each<const N: usize>(self, v: &[Self::V; N]) -> Self::V {
        let mut lanes = [0.0; LANES];
        for i in 0..N {
            lanes[i] = self.sum(v[i]);
        }
        self.load(&lanes)
    }

    /// [`largest`](Self::largest) of every vector in the lane of its number, at most eight; negative infinity in the other lanes.
    #[inline(always)]
    fn largest_of_each<const N: usize>(self, v: &[Self::V; N]) -> Self::V {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for i in 0..N {
            lanes[i] = self.largest(v[i]);
        }
        self.load(&lanes)
    }

    /// Products of bytes and int8 codes, four at a time: lane `j` of `[h][w]` is
    /// `Σ_g Σ_b x[g · stride + w][4 j + b] · y[h][g][b] - offset[h]`, as a float. Callers keep the sums below 2^24, so
    /// all of it is exact. Meanwhile `ahead` is fetched.
    #[inline(always)]
    fn byte_products<const H: usize, const W: usize>(
        self,
        x: &[[u8; 4 * LANES]],
        stride: usize,
        y: [&[[i8; 4]]; H],
        offset: [i32; H],
        _ahead: &mut Ahead,
    ) -> [[Self::V; W]; H] {
        let mut sums = [[[0i32; LANES]; W]; H];
        for h in 0..H {
            for (g, y) in y[h].iter().enumerate() {
                for (w, x) in x[g * stride..][..W].iter().enumerate() {
                    for (sum, x) in sums[h][w].iter_mut().zip(x.as_chunks::<4>().0) {
                        for b in 0..4 {
                            *sum += i32::from(x[b]) * i32::from(y[b]);
                        }
                    }
                }
            }
        }
        std::array::from_fn(|h| std::array::from_fn(|w| self.load(&sums[h][w].map(|sum| (sum - offset[h]) as f32))))
    }

    /// `x - offset` of sixteen i32, rounded to f32.
    #[inline(always)]
    fn i32_lanes(self, x: &[i32; LANES], offset: i32) -> Self::V {
        self.load(&x.map(|x| (x - offset) as f32))
    }

    /// Has the cache line at `address`, if there is one, brought into the nearest cache.
    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}

    /// Reads up to sixteen floats and sets the other lanes to zero. For the tail of a row, outside of its loop: the
    /// copy is a call, and no register survives a call.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mut padded = [0.0; LANES];
        padded[..x.len()].copy_from_slice(x);
        self.load(&padded)
    }

    /// Writes the first `out.len()` lanes, at most sixteen.
    #[inline(always)]
    fn store_part(self, v: Self::V, out: &mut [f32]) {
        let mut padded = [0.0; LANES];
        self.store(v, &mut padded);
        out.copy_from_slice(&padded[..out.len()]);
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
        Isa::Sse41 => crate::arch::x86_64::float_sse41::Sse41::new().expect("processor has SSE4.1").run(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => {
            crate::arch::x86_64::float_avx2::Avx2::new().expect("processor has AVX2").run(kernel)
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni | Isa::Amx => {
            crate::arch::x86_64::float_avx512::Avx512::new().expect("processor has AVX-512").run(kernel)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => {
            crate::arch::aarch64::float_neon::Neon::new().expect("processor has NEON").run(kernel)
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => kernel.run(crate::arch::wasm32::float_simd128::Simd128),
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
    fn load_f32(self, x: &[u8; 4 * LANES]) -> Self::V {
        each(|j| f32::from_le_bytes([x[4 * j], x[4 * j + 1], x[4 * j + 2], x[4 * j + 3]]))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 2 * LANES]) -> Self::V {
        each(|j| f32::from_le_bytes([0, 0, x[2 * j], x[2 * j + 1]]))
    }
    #[inline(always)]
    fn i8_lanes(self, x: u128) -> Self::V {
        each(|j| f32::from(x.to_le_bytes()[j] as i8))
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
        each(|j| fma(a[j], b[j], c[j]))
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

/// `a b + c`, rounded once. `f32::mul_add` asks the C library where the processor is not known to have it, and MinGW's rounds twice.
///
/// The product is exact in binary64; the sum there is rounded *to odd* before it is rounded to binary32 (Boldo and Melquiond,
/// "Emulation of FMA and correctly rounded sums", 2008).
#[inline(never)] // a call, as the library's was: more code in one place moves what is inlined in others
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // What the sum lacks, exactly (Knuth). NaN if the sum is not finite.
    let c_part = sum - product;
    let lack = (product - (sum - c_part)) + (c - c_part);
    let bits = sum.to_bits();
    // The exact sum lies between this one and a neighbour; one of both is odd.
    let odd = match bits % 2 == 1 || lack == 0.0 || lack.is_nan() {
        true => bits,
        false if (lack > 0.0) == (sum > 0.0) => bits + 1,
        false => bits - 1,
    };
    f64::from_bits(odd) as f32
}

/// `2^23 + 127`: puts a whole number plus the exponent bias into the lowest mantissa bits.
pub(crate) const POW2_BIAS: f32 = 8_388_608.0 + 127.0;

/// Dot product in lane order: `lane[j] = fma(a[16 i + j], b[16 i + j], lane[j])`, then the tree.
#[inline(always)]
pub(crate) fn dot<L: Lanes>(l: L, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = a.as_chunks();
    let (b, b_tail) = b.as_chunks();
    let mut acc = l.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        acc = l.fma(l.load(a), l.load(b), acc);
    }
    if !a_tail.is_empty() {
        acc = l.fma(l.load_part(a_tail), l.load_part(b_tail), acc);
    }
    l.sum(acc)
}

/// A function of two vectors. A trait and not a closure, because only what is `#[inline(always)]` is compiled for the tier.
pub(crate) trait Map: Copy {
    /// The function.
    fn apply<L: Lanes>(self, l: L, x: L::V, y: L::V) -> L::V;
}

/// `x[i] = f(x[i], y[i])`
#[inline(always)]
pub(crate) fn update<L: Lanes>(l: L, x: &mut [f32], y: &[f32], f: impl Map) {
    let (x, x_tail) = x.as_chunks_mut();
    let (y, y_tail) = y.as_chunks();
    for (x, y) in x.iter_mut().zip(y) {
        l.store(f.apply(l, l.load(x), l.load(y)), x);
    }
    if !x_tail.is_empty() {
        l.store_part(f.apply(l, l.load_part(x_tail), l.load_part(y_tail)), x_tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Every conversion of sixteen values at a time.
    struct Conversions;

    impl Kernel for Conversions {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> Vec<f32> {
            let mut out = Vec::new();
            let mut lanes = [0.0; LANES];
            for first in (0..=u16::MAX).step_by(LANES) {
                let mut bytes = [0; 2 * LANES];
                for j in 0..LANES {
                    bytes[2 * j..2 * j + 2].copy_from_slice(&(first + j as u16).to_le_bytes());
                }
                l.store(l.load_f16(&bytes), &mut lanes);
                out.extend(lanes);
                l.store(l.load_bf16(&bytes), &mut lanes);
                out.extend(lanes);
                l.store(l.i8_lanes(u128::from_le_bytes(bytes[..LANES].try_into().unwrap())), &mut lanes);
                out.extend(lanes);
                let mut lowest = [0; LANES];
                l.store_lowest_bytes(
                    l.load(&std::array::from_fn(|j| f32::from_bits(first as u32 * 7919 + j as u32))),
                    &mut lowest,
                );
                out.extend(lowest.map(f32::from));
            }
            for n in -126..=127 {
                l.store(l.pow2(l.splat(n as f32)), &mut lanes);
                out.extend(lanes);
            }
            out
        }
    }

    #[test]
    fn conversions_are_exact() {
        let mut want = Vec::new();
        for first in (0..=u16::MAX).step_by(LANES) {
            let values = first..=first + (LANES as u16 - 1);
            want.extend(values.clone().map(|x| f16::from_bits(x).to_f32()));
            want.extend(values.clone().map(|x| bf16::from_bits(x).to_f32()));
            want.extend(values.clone().take(LANES / 2).flat_map(u16::to_le_bytes).map(|x| f32::from(x as i8)));
            want.extend((0..LANES as u32).map(|j| f32::from((u32::from(first) * 7919 + j) as i8)));
        }
        want.extend((-126..=127).flat_map(|n| [2f64.powi(n) as f32; LANES]));
        for isa in Isa::available() {
            let got = dispatch(isa, Conversions);
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(&want) {
                assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{isa}: {got}, not {want}");
            }
        }
    }

    /// Sums and largest lanes of `N` vectors at once, beside those of each.
    struct OfEach<'a>(&'a [[f32; LANES]; 8]);

    impl OfEach<'_> {
        #[inline(always)]
        fn check<L: Lanes, const N: usize>(&self, l: L) {
            let mut v = [l.splat(0.0); N];
            let mut want = [[0.0; LANES], [f32::NEG_INFINITY; LANES]];
            for i in 0..N {
                v[i] = l.load(&self.0[i]);
                (want[0][i], want[1][i]) = (l.sum(v[i]), l.largest(v[i]));
            }
            let mut got = [[0.0; LANES]; 2];
            l.store(l.sum_of_each(&v), &mut got[0]);
            l.store(l.largest_of_each(&v), &mut got[1]);
            assert_eq!(got.map(|lanes| lanes.map(f32::to_bits)), want.map(|lanes| lanes.map(f32::to_bits)), "{N}");
        }
    }

    impl Kernel for OfEach<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            self.check::<L, 1>(l);
            self.check::<L, 2>(l);
            self.check::<L, 3>(l);
            self.check::<L, 4>(l);
            self.check::<L, 7>(l);
            self.check::<L, 8>(l);
        }
    }

    /// Magnitudes differ, so that every other order of additions gives other bits.
    #[test]
    fn vectors_are_folded_together_as_alone() {
        let mut random = 1u64;
        for _ in 0..1000 {
            let vectors = [(); 8].map(|()| {
                [(); LANES].map(|()| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((random >> 40) as f32 - 8_388_608.0) * 2f32.powi((random >> 32) as i32 & 15)
                })
            });
            Isa::available().into_iter().for_each(|isa| dispatch(isa, OfEach(&vectors)));
        }
    }

    /// Sixteen products and sums at a time.
    struct Fma<'a>(&'a [[f32; 3]]);

    impl Kernel for Fma<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> Vec<f32> {
            let mut out = vec![0.0; self.0.len()];
            for (x, out) in self.0.as_chunks::<LANES>().0.iter().zip(out.as_chunks_mut().0) {
                let [a, b, c] = [0, 1, 2].map(|i| l.load(&x.map(|x| x[i])));
                l.store(l.fma(a, b, c), out);
            }
            out
        }
    }

    /// Where rounding twice would show: sums that lie at, or next to, the middle between two floats, of all magnitudes,
    /// besides any bits at all.
    #[test]
    fn fma_rounds_once() {
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 32) as u32
        };
        let mut cases = Vec::new();
        for _ in 0..200_000 {
            let [a, b, c] = [0; 3].map(|_| f32::from_bits(next()));
            // Few bits, so that sums are often exact or ties.
            let [short, other] = [0; 2].map(|_| f32::from_bits(next() & 0x807f_8000 | 0x3000_0000));
            // Half a unit of a number in 1..2 and of a subnormal one, less so little that binary64 does not see it:
            // (1 + d) (1 - d).
            let d = next() & 7;
            let [more, less] = [0x3f80_0000 + d, 0x3f80_0000 - 2 * d].map(f32::from_bits);
            let sign = if next().is_multiple_of(2) { 1.0 } else { -1.0 };
            let one = f32::from_bits(0x3f80_0000 | next() & 0x807f_ffff);
            let small = f32::from_bits(next() & 0x807f_ffff);
            cases.extend([
                [a, b, c],
                [short, other, short * other],
                [short, other, c],
                [more * 2f32.powi(-24), less * sign, one],
                [more * 2f32.powi(-75), less * sign * 2f32.powi(-75), small],
                [a, 1.0 / a, -1.0],
                [small, short, small],
            ]);
        }
        let mut twice = 0;
        for isa in Isa::available() {
            for (&[a, b, c], got) in cases.iter().zip(dispatch(isa, Fma(&cases))) {
                let want = libm::fmaf(a, b, c);
                assert!(
                    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                    "{isa}: {a:e} · {b:e} + {c:e} is {want:e}, not {got:e}"
                );
                let naive = (f64::from(a) * f64::from(b) + f64::from(c)) as f32;
                twice += usize::from(naive.to_bits() != want.to_bits() && !want.is_nan());
            }
        }
        assert!(twice > 1000, "only {twice} cases tell one rounding from two");
    }

    struct Reductions(Vec<f32>);

    impl Kernel for Reductions {
        type Output = [u32; 4];

        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> [u32; 4] {
            let v = l.load_part(&self.0[..13]);
            let mut part = [0.0; 7];
            l.store_part(v, &mut part);
            [dot(l, &self.0, &self.0), l.sum(v), l.largest(v), part[6]].map(f32::to_bits)
        }
    }

    #[test]
    fn sums_have_one_order() {
        for len in [13, 16, 17, 250] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 1.7 + 0.3).sin() * 10f32.powi(i % 7 - 3)).collect();
            // By hand: sixteen lanes, then 8, 4, 2, 1.
            let mut lanes = [0f32; LANES];
            for (i, x) in x.iter().enumerate() {
                lanes[i % LANES] = fma(*x, *x, lanes[i % LANES]);
            }
            for half in [8, 4, 2, 1] {
                for j in 0..half {
                    lanes[j] += lanes[j + half];
                }
            }
            let want = dispatch(Isa::Scalar, Reductions(x.clone()));
            assert_eq!(want[0], lanes[0].to_bits());
            assert_eq!(f32::from_bits(want[2]), x[..13].iter().fold(0f32, |m, x| m.max(*x)));
            assert_eq!(want[3], x[6].to_bits());
            for isa in Isa::available() {
                assert_eq!(dispatch(isa, Reductions(x.clone())), want, "{isa}");
            }
        }
    }
}
