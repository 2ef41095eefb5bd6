use super::*;
use crate::{CpuOptions, DenseFormat, DenseWeights, Isa};

fn random(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    move || (0..4).map(|_| next()).sum() // nearly normal
}

pub(crate) fn cpu(isa: Isa) -> Cpu {
    Cpu::new(CpuOptions { threads: Some(2), isa: Some(isa) }).expect("an available tier")
}

pub(crate) fn head(cpu: &Cpu, rows: &[Vec<f32>]) -> Dense {
    let bytes = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into();
    let weights = DenseWeights { rows: rows.len(), cols: rows[0].len(), format: DenseFormat::F32, bytes };
    crate::Backend::head(cpu, weights).expect("a head")
}

/// Rows of every kind.
fn rows(cols: usize) -> Vec<Vec<f32>> {
    let mut random = random(7);
    let mut normal = |scale: f32| (0..cols).map(|_| random() * scale).collect::<Vec<f32>>();
    let mut rows = vec![normal(0.02), normal(1e11), normal(1e-11), normal(3e-16), normal(1e-40), vec![0.0; cols]];
    rows.push(vec![-0.5; cols]);
    for outlier in [0.3, 100.0, -1e6] {
        let mut row = normal(0.02);
        row[cols / 2] = outlier;
        rows.push(row);
    }
    rows.push(normal(0.1).iter().map(|x| x * x * x).collect());
    rows
}

/// Filled planes.
fn planes(cpu: &Cpu, rows: &[Vec<f32>]) -> Planes {
    let head = head(cpu, rows);
    let mut planes = Planes::reserve(head.rows(), head.cols()).expect("memory");
    planes.fill(cpu, &head);
    planes
}

impl Planes {
    /// What the codes of a row stand for: the coarse ones, with the fine plane, and with the finest.
    pub(crate) fn approximations(&self, row: usize) -> [Vec<f64>; 3] {
        let step = f64::from(self.facts[row].step);
        let CodeRow { halves, bits, fine } = self.rows(row..row + 1).row(0);
        let finest = self.finest(row).as_chunks::<BITS>().0;
        let code = |column: usize| {
            let (block, p) = (column / BLOCK, column % BLOCK);
            let half = halves[block][p % HALVES] >> (p / HALVES * 4) & 15;
            let bit = |bits: &[[u8; BITS]]| bits[block][p / 8] >> (p % 8) & 1;
            [f64::from(2 * half + bit(bits)), f64::from(bit(fine)), f64::from(bit(finest))]
        };
        let columns = 0..self.blocks * BLOCK;
        let all = |value: fn([f64; 3]) -> f64| columns.clone().map(|c| step * value(code(c))).collect();
        [
            all(|[coarse, _, _]| 4.0 * coarse - 62.0),
            all(|[coarse, fine, _]| 4.0 * coarse + 2.0 * fine - 63.0),
            all(|[coarse, fine, finest]| 4.0 * coarse + 2.0 * fine + finest - 63.5),
        ]
    }
}

/// The errors that are promised are not below the true ones, and not much above.
#[test]
fn errors_are_bounds() {
    for cols in [16, 48, 128, 272, 640] {
        let rows = rows(cols);
        let planes = planes(&cpu(Isa::best()), &rows);
        for (i, (row, facts)) in rows.iter().zip(planes.facts()).enumerate() {
            let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
            let left_out = |codes: &[f64]| length(&mut row.iter().zip(codes).map(|(w, c)| f64::from(*w) - c));
            let [coarse, fine, finest] = planes.approximations(i);
            let true_length = length(&mut row.iter().map(|w| f64::from(*w)));
            let loose = if facts.step == 0.0 { 20.0 } else { 1.009 };
            for (what, stated, real) in [
                ("length", facts.length.into(), true_length),
                ("coarse", facts.coarse_error.into(), left_out(&coarse)),
                ("fine", facts.fine_error.into(), left_out(&fine)),
                ("finest", facts.finest_error.into(), left_out(&finest)),
            ] {
                let stated: f64 = stated;
                assert!(real <= stated, "{what} of row {i}, {cols} columns: {real} above {stated}");
                assert!(stated <= real * loose + 1e-15, "{what} of row {i}, {cols} columns: {stated}, really {real}");
            }
            if facts.step != 0.0 && i != 6 {
                let errors: [f64; 3] = [facts.finest_error.into(), facts.fine_error.into(), facts.coarse_error.into()];
                assert!(errors.is_sorted_by(|a, b| a < b), "{errors:?}");
            }
        }
        // as good as five, six and seven bits are for normal distributions (0.059, 0.033, 0.019), or nearly: the step suits the first
        let facts = planes.facts()[0];
        if cols == 640 {
            let errors: [f64; 3] = [facts.coarse_error.into(), facts.fine_error.into(), facts.finest_error.into()];
            let errors = errors.map(|error| error / f64::from(facts.length));
            assert!(errors[0] < 0.065 && errors[1] < 0.036 && errors[2] < 0.023, "{errors:?}");
        }
    }
}

#[test]
fn what_is_not_finite_is_never_left_out() {
    let mut rows = rows(64);
    let count = rows.len();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let mut row = rows[0].clone();
        row[5] = value;
        rows.push(row);
    }
    let planes = planes(&cpu(Isa::Scalar), &rows);
    for facts in &planes.facts()[count..] {
        assert_eq!(facts.step, 0.0);
        let errors: [f64; 3] = [facts.coarse_error.into(), facts.fine_error.into(), facts.finest_error.into()];
        assert_eq!(errors, [f64::INFINITY; 3]);
    }
    let mut query = Query::new(64).expect("memory");
    assert!(query.set(&[0.25; 64], &planes));
    for x in [f32::NAN, f32::INFINITY, 1e30] {
        let mut activations = [0.25; 64];
        activations[63] = x;
        assert!(!query.set(&activations, &planes), "{x}");
    }
    assert!(!query.set(&[0.0; 64], &planes));
}

/// The same codes and sums in every tier; sums by the definition.
#[test]
fn tiers_agree() {
    for cols in [16, 128, 400, 2560] {
        let rows = [rows(cols), rows(cols)].concat(); // more than a tile of them
        let mut random = random(3);
        let x: Vec<f32> = (0..cols).map(|_| random()).collect();
        let oracle = planes(&cpu(Isa::Scalar), &rows);
        let queries = |x: &[f32]| -> Vec<Query> {
            // one and the same at first, others behind it
            let mut queries: Vec<Query> = (0..11).map(|_| Query::new(cols).expect("memory")).collect();
            for (i, query) in queries.iter_mut().enumerate() {
                let x: Vec<f32> = x.iter().map(|x| x + i as f32).collect();
                assert!(query.set(&x, &oracle));
            }
            queries
        };
        let mut query = Query::new(cols).expect("memory");
        assert!(query.set(&x, &oracle));
        let integers: Vec<f64> = (0..cols).map(|i| (f64::from(x[i]) / query.scale).round()).collect();
        for isa in Isa::available() {
            let mut planes = planes(&cpu(isa), &rows);
            assert!(*planes.coarse == *oracle.coarse, "codes of {isa}");
            assert!(*planes.fine == *oracle.fine && *planes.finest == *oracle.finest, "codes of {isa}");
            let facts = |p: &Planes| p.facts().iter().map(|f| format!("{f:?}")).collect::<Vec<_>>();
            assert_eq!(facts(&planes), facts(&oracle), "{isa}");
            let sums = |isa, look, planes: &Planes, queries: &[Query]| {
                let mut sums = vec![None; queries.len() * rows.len()];
                crate::arch::first_sums(isa, look, planes.rows(0..rows.len()), queries, |row, query, of_row| {
                    for (query, &sum) in (query..).zip(of_row) {
                        assert_eq!(sums[query * rows.len() + row].replace(sum), None, "{isa}");
                    }
                });
                sums.into_iter().map(|sum| sum.expect("a sum of every row and query")).collect::<Vec<i64>>()
            };
            let queries = queries(&x);
            for look in [Look::Coarse, Look::Fine] {
                for count in 1..=queries.len() {
                    let of_all = sums(isa, look, &planes, &queries[..count]);
                    assert_eq!(
                        of_all,
                        sums(Isa::Scalar, look, &planes, &queries[..count]),
                        "{isa}, {look:?}, {count} queries"
                    );
                }
                let first = sums(isa, look, &planes, std::slice::from_ref(&query));
                for (row, facts) in planes.facts().iter().enumerate() {
                    let [coarse, fine, finest] = planes
                        .approximations(row)
                        .map(|codes| codes.iter().zip(&integers).map(|(c, x)| c * x * query.scale).sum::<f64>());
                    let size = f64::from(facts.length) * query.bounds[0].error;
                    let size = if size.is_finite() { size } else { 0.0 };
                    let low = f64::from(facts.step) * query.bounds[0].step; // what the closer planes leave out
                    let got = query.first(look, facts, first[row]);
                    let got = match look {
                        Look::Coarse => {
                            assert!(
                                (f64::from(got) - coarse).abs() <= 1e-7 * size,
                                "{isa}, row {row}: {got}, not {coarse}"
                            );
                            query.fine(facts, got, crate::arch::bit_sum(isa, planes.fine(row), &query))
                        }
                        Look::Fine => f64::from(got),
                    };
                    // codes of a fine look meet no lower halves: at most 63 steps of them are left out
                    let low = if look == Look::Fine { 63.0 * low } else { low };
                    assert!((got - fine).abs() <= 1e-7 * size + low, "{isa}, {look:?}, row {row}: {got}, not {fine}");
                    let got = query.finest(facts, got as f32, crate::arch::bit_sum(isa, planes.finest(row), &query));
                    assert!(
                        (got - finest).abs() <= 2e-7 * size + 1.5 * low,
                        "{isa}, {look:?}, row {row}: {got}, not {finest}"
                    );
                }
            }
            // the largest codes and activations there are
            planes.coarse.fill(0xff);
            planes.fine.fill(0xff);
            planes.finest.fill(0xff);
            for extreme in [-128, 127] {
                query.high.fill(if extreme < 0 { -127 } else { 127 });
                query.low.fill(extreme);
                let (high, low) = (i64::from(query.high[0]), i64::from(extreme));
                let padded = cols.next_multiple_of(BLOCK) as i64;
                for (look, sum) in [(Look::Coarse, 31 * (256 * high + low)), (Look::Fine, 63 * high)] {
                    let queries = std::slice::from_ref(&query);
                    assert_eq!(sums(isa, look, &planes, queries), vec![sum * padded; rows.len()], "{isa}, {look:?}");
                }
                let bits = i64::from(crate::arch::bit_sum(isa, planes.fine(0), &query));
                assert_eq!(bits, high * padded, "{isa}");
            }
            assert!(query.set(&x, &oracle));
        }
    }
}
