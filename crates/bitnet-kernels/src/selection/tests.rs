use super::*;
use crate::planes::tests::{cpu, head};

#[test]
fn largest_values() {
    let mut best = Vec::new();
    let values: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 - 500.0).collect();
    for count in [1, 2, 7, 100] {
        largest(&values, count, &mut best);
        assert_eq!(best.len(), count);
        assert!(best.iter().all(|&(value, i)| values[i as usize] == value && value >= 500.0 - count as f32));
    }
    largest(&[f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY], 2, &mut best);
    assert_eq!(best, [(2.0, 1)]);
    largest(&[3.0; 100], 5, &mut best);
    assert_eq!(best.len(), 5);
}

/// A row whose logit exceeds its approximation by all that Cauchy and Schwarz allow, against one that lies between: the bound
/// keeps it, and a smaller bound would lose it.
#[test]
fn the_bound_is_reached() {
    let cols = 256;
    for isa in Isa::available() {
        let cpu = cpu(isa);
        for (look, plane) in [(Look::Coarse, 0), (Look::Coarse, 1), (Look::Coarse, 2), (Look::Fine, 1), (Look::Fine, 2)]
        {
            let mut rows = vec![vec![0.0; cols]; 40];
            rows[17] = (0..cols).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.03).collect();
            let mut planes = Planes::reserve(rows.len(), cols).expect("memory");
            planes.fill(&cpu, &head(&cpu, &rows));
            // activations in the direction of what the codes leave out
            let mut x: Vec<f32> = (0..cols).map(|i| rows[17][i] - planes.approximations(17)[plane][i] as f32).collect();
            if look == Look::Fine {
                // of which the upper halves leave out nothing
                let unit = x.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0;
                x.iter_mut().for_each(|x| *x = (*x / unit).round() * unit);
            }
            let product = |row: &[f64]| row.iter().zip(&x).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
            let (approximation, logit) = (
                product(&planes.approximations(17)[plane]),
                product(&rows[17].iter().map(|w| f64::from(*w)).collect::<Vec<_>>()),
            );
            let between = approximation + 0.7 * (logit - approximation);
            let squares: f32 = x.iter().map(|x| x * x).sum();
            rows[30] = x.iter().map(|x| x * (between as f32 / squares)).collect();

            let head = head(&cpu, &rows);
            let mut out = Rows::new(1, rows.len()).expect("memory");
            let top = Top { count: 1, margin: 0.0, ids: &[] };
            let mut selection = head.selection().expect("memory for it");
            out.set_len(1);
            assert_eq!(selection.run(&cpu, &x, &head, &[top], &mut out), None, "the first step takes the full head");
            assert!(selection.run(&cpu, &x, &head, &[top], &mut out).is_some());
            let logits = out.row(0);
            assert!(logits[17] > logits[30] || logits[30] == f32::NEG_INFINITY, "{isa}");
            assert!(
                (f64::from(logits[17]) - logit).abs() < 1e-6 * logit.abs() + 1e-9,
                "{isa}: {}, not {logit}",
                logits[17]
            );

            for (part, kept) in [(1.0, true), (0.8, true), (0.6, false), (0.0, false)] {
                let mut first = selection.approximate(&cpu, look, &mut out);
                first.bounds[0].error *= part;
                selection.select(&cpu, first, &x, &head, &[top], &mut out).expect("finite logits");
                assert_eq!(
                    out.row(0)[17] > f32::NEG_INFINITY,
                    kept,
                    "{isa}, {look:?}, plane {plane}, {part} of the bound"
                );
            }
        }
    }
}
