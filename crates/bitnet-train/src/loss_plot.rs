//! The losses of a run as an SVG picture.

/// A picture of training and validation loss in nats per token over the steps. Training points are averaged so that
/// there are at most a few hundred.
pub(crate) fn svg(training: &[(usize, f64)], validation: &[(usize, f64)]) -> String {
    const WIDTH: f64 = 800.0;
    const HEIGHT: f64 = 480.0;
    const LEFT: f64 = 60.0;
    const BOTTOM: f64 = 40.0;
    const MARGIN: f64 = 20.0;
    let training = averaged(training, 400);
    let points = || training.iter().chain(validation);
    let last = points().map(|p| p.0).max().unwrap_or(1).max(1) as f64;
    let high = points().map(|p| p.1).fold(0.0, f64::max).max(1e-3);
    let low = points().map(|p| p.1).fold(high, f64::min);
    let (low, high) = ((low * 0.95).max(0.0), high * 1.02);
    let x = |step: usize| LEFT + step as f64 / last * (WIDTH - LEFT - MARGIN);
    let y = |loss: f64| MARGIN + (high - loss) / (high - low) * (HEIGHT - BOTTOM - MARGIN);
    let line = |points: &[(usize, f64)]| {
        points.iter().map(|&(step, loss)| format!("{:.1},{:.1}", x(step), y(loss))).collect::<Vec<_>>().join(" ")
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>Loss over steps</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for tick in 0..=5 {
        let loss = low + (high - low) * f64::from(tick) / 5.0;
        let step = (last * f64::from(tick) / 5.0) as usize;
        out += &format!(
            "<path d=\"M{LEFT} {0:.1}H{1}\" stroke=\"#ddd\"/><text x=\"{2}\" y=\"{0:.1}\" text-anchor=\"end\">{loss:.2}</text>\
             <text x=\"{3:.1}\" y=\"{4}\" text-anchor=\"middle\">{step}</text>\n",
            y(loss),
            WIDTH - MARGIN,
            LEFT - 6.0,
            x(step),
            HEIGHT - BOTTOM + 18.0,
        );
    }
    out += &format!("<polyline points=\"{}\" fill=\"none\" stroke=\"#8ab\"/>\n", line(&training));
    out += &format!("<polyline points=\"{}\" fill=\"none\" stroke=\"#c40\" stroke-width=\"2\"/>\n", line(validation));
    out += &format!(
        "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\" fill=\"#8ab\">training</text>\
         <text x=\"{0}\" y=\"{2}\" text-anchor=\"end\" fill=\"#c40\">validation, nats per token</text>\n</svg>\n",
        WIDTH - MARGIN - 4.0,
        MARGIN + 14.0,
        MARGIN + 30.0,
    );
    out
}

/// Means of consecutive points, at most `most` of them.
fn averaged(points: &[(usize, f64)], most: usize) -> Vec<(usize, f64)> {
    let size = points.len().div_ceil(most).max(1);
    let mean =
        |part: &[(usize, f64)]| (part[part.len() / 2].0, part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64);
    points.chunks(size).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_they_belong() {
        let picture = svg(&[(0, 8.0), (50, 4.0), (100, 2.0)], &[(100, 3.0)]);
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        // step 0 is at the left edge, step 100 at the right one
        assert!(picture.contains("points=\"60.0,") && picture.contains(" 780.0,"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn few_points_and_many() {
        assert!(!svg(&[], &[]).contains("NaN"));
        let many: Vec<_> = (0..1000).map(|step| (step, step as f64)).collect();
        let few = averaged(&many, 400);
        assert_eq!((few.len(), few[0]), (334, (1, 1.0)));
    }
}
