//! How sure a median is.

use bitnet::Spread;

const RESAMPLES: usize = 2000;

/// The interval in which the median lies with 95 % confidence: the bootstrap's percentiles, with the same resamples every time. A single
/// value gives no interval but itself.
pub(crate) fn of_median(values: &[f64]) -> (f64, f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut index = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % values.len().max(1) as u64) as usize
    };
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| Spread::of((0..values.len()).filter_map(|_| values.get(index()).copied()).collect()).median)
        .collect();
    medians.sort_by(f64::total_cmp);
    (medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40])
}

#[cfg(test)]
mod tests {
    use super::of_median;

    #[test]
    fn holds_the_median_and_grows_with_the_spread() {
        let near: Vec<f64> = (0..20).map(|i| 10.0 + 0.01 * f64::from(i)).collect();
        let far: Vec<f64> = (0..20).map(|i| 10.0 + f64::from(i)).collect();
        for values in [&near, &far] {
            let (low, high) = of_median(values);
            let middle = (values[9] + values[10]) / 2.0;
            assert!(values[0] <= low && low <= middle && middle <= high && high <= values[19], "{low} {high}");
            assert_eq!((low, high), of_median(values), "the same every time");
        }
        let width = |values: &[f64]| of_median(values).1 - of_median(values).0;
        assert!(width(&far) > 50.0 * width(&near));
        assert_eq!(of_median(&[3.0]), (3.0, 3.0));
        assert!(of_median(&[]).0.is_nan());
    }

    /// The interval from the binomial distribution: of 9 values, the 2nd to the 8th hold the median with 96 %.
    #[test]
    fn is_that_of_order_statistics_or_narrower() {
        let values: Vec<f64> = (1..=9).map(f64::from).collect();
        let (low, high) = of_median(&values);
        assert!((2.0..=4.0).contains(&low) && (6.0..=8.0).contains(&high), "{low} {high}");
    }
}
