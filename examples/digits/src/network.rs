//! A chain of layers: RMSNorm over an image, windows, BitLinear over each window, ReLU. A BitConv is a BitLinear over windows. The last
//! layer stays in floats, as the head of a BitNet does.

use crate::dataset::Dataset;
use crate::linear::Linear;
use crate::random::Random;

/// Images per step.
const BATCH: usize = 64;
/// Learning rate at the start; it falls to zero.
const RATE: f32 = 4e-3;

/// What a layer sees at once.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Window {
    /// The whole image.
    Whole,
    /// 3 × 3 pixels with zeros around the image, every second one in both directions.
    Three,
}

/// A layer and the images that it gets: `[size, size, channels]`.
pub(crate) struct Layer {
    pub(crate) window: Window,
    pub(crate) size: usize,
    pub(crate) channels: usize,
    pub(crate) linear: Linear,
}

/// What a layer keeps for its gradient.
struct Kept {
    /// After the norm, and what the norm multiplied each image with.
    normed: Vec<f32>,
    factors: Vec<f32>,
    /// Rounded windows.
    windows: Vec<f32>,
    /// After the ReLU.
    out: Vec<f32>,
}

/// A network.
pub(crate) struct Network {
    pub(crate) layers: Vec<Layer>,
}

impl Layer {
    fn image(&self) -> usize {
        self.size * self.size * self.channels
    }

    /// Pixels per side of what comes out.
    fn out_size(&self) -> usize {
        if self.window == Window::Whole { 1 } else { self.size.div_ceil(2) }
    }

    /// RMSNorm over each image, in place; gives the factors.
    pub(crate) fn norm(&self, x: &mut [f32]) -> Vec<f32> {
        let norm = |x: &mut [f32]| {
            let factor = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32 + 1e-5).sqrt();
            x.iter_mut().for_each(|x| *x *= factor);
            factor
        };
        x.chunks_exact_mut(self.image()).map(norm).collect()
    }

    /// Calls `each(position in the windows, position in the images)` for everything that windows see.
    fn each(&self, images: usize, mut each: impl FnMut(usize, usize)) {
        let (size, channels, out) = (self.size, self.channels, self.out_size());
        for image in 0..images {
            for (y, x) in (0..out).flat_map(|y| (0..out).map(move |x| (y, x))) {
                let window = ((image * out + y) * out + x) * self.linear.inputs;
                for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                    let (row, column) = ((2 * y + dy).wrapping_sub(1), (2 * x + dx).wrapping_sub(1));
                    if row < size && column < size {
                        let from = ((image * size + row) * size + column) * channels;
                        (0..channels).for_each(|c| each(window + (dy * 3 + dx) * channels + c, from + c));
                    }
                }
            }
        }
    }

    /// `[windows, inputs]` of images.
    pub(crate) fn windows(&self, x: &[f32]) -> Vec<f32> {
        if self.window == Window::Whole {
            return x.to_vec();
        }
        let images = x.len() / self.image();
        let mut windows = vec![0.0; images * self.out_size().pow(2) * self.linear.inputs];
        self.each(images, |to, from| windows[to] = x[from]);
        windows
    }

    fn forward(&self, mut x: Vec<f32>, last: bool) -> Kept {
        let factors = self.norm(&mut x);
        let mut windows = self.windows(&x);
        self.linear.round(&mut windows);
        let mut out = self.linear.forward(&windows);
        if !last {
            out.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        Kept { normed: x, factors, windows, out }
    }

    /// The gradient of the images, from that of what came out.
    fn backward(&mut self, kept: &Kept, mut dy: Vec<f32>, last: bool) -> Vec<f32> {
        if !last {
            dy.iter_mut().zip(&kept.out).filter(|(_, out)| **out <= 0.0).for_each(|(dy, _)| *dy = 0.0);
        }
        let dwindows = self.linear.backward(&kept.windows, &dy);
        let image = self.image();
        let mut dx = match self.window {
            Window::Whole => dwindows,
            Window::Three => {
                let mut dx = vec![0.0; kept.normed.len()];
                self.each(kept.factors.len(), |from, to| dx[to] += dwindows[from]);
                dx
            }
        };
        for ((dx, normed), factor) in dx.chunks_exact_mut(image).zip(kept.normed.chunks_exact(image)).zip(&kept.factors)
        {
            let mean = dx.iter().zip(normed).map(|(d, x)| d * x).sum::<f32>() / image as f32;
            dx.iter_mut().zip(normed).for_each(|(d, x)| *d = factor * (*d - x * mean));
        }
        dx
    }
}

impl Network {
    /// Random weights: a function of the seed. `shape` are windows and outputs of the layers.
    pub(crate) fn new(
        mut size: usize,
        mut channels: usize,
        shape: &[(Window, usize)],
        ternary: bool,
        seed: u64,
    ) -> Network {
        let mut random = Random(seed);
        let mut layers = Vec::new();
        for (index, &(window, outputs)) in shape.iter().enumerate() {
            let inputs = if window == Window::Whole { size * size * channels } else { 9 * channels };
            let linear = Linear::new(inputs, outputs, ternary && index + 1 < shape.len(), &mut random);
            let layer = Layer { window, size, channels, linear };
            (size, channels) = (layer.out_size(), outputs);
            layers.push(layer);
        }
        Network { layers }
    }

    fn forward(&self, images: Vec<f32>) -> Vec<Kept> {
        let mut kept: Vec<Kept> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let x = kept.last().map_or_else(|| images.clone(), |kept| kept.out.clone());
            kept.push(layer.forward(x, index + 1 == self.layers.len()));
        }
        kept
    }

    /// Trains with cross-entropy over `epochs` shuffled passes. Stops with an error when a weight is no number any more.
    pub(crate) fn train(&mut self, data: &Dataset, epochs: usize, seed: u64) -> anyhow::Result<()> {
        let mut images: Vec<(&[f32], u8)> = data.images().collect();
        let mut random = Random(seed);
        let steps = epochs * images.len() / BATCH;
        let mut step = 0;
        for _ in 0..epochs {
            random.shuffle(&mut images);
            for batch in images.chunks_exact(BATCH) {
                let kept = self.forward(batch.iter().flat_map(|(image, _)| *image).copied().collect());
                let mut dy = kept.last().map(|kept| kept.out.clone()).unwrap_or_default();
                for (logits, (_, class)) in dy.chunks_exact_mut(10).zip(batch) {
                    let top = logits.iter().fold(f32::MIN, |m, x| m.max(*x));
                    logits.iter_mut().for_each(|x| *x = (*x - top).exp());
                    let total: f32 = logits.iter().sum();
                    logits.iter_mut().for_each(|x| *x /= total * BATCH as f32);
                    logits[usize::from(*class)] -= 1.0 / BATCH as f32;
                }
                let last = self.layers.len() - 1;
                for (index, (layer, kept)) in self.layers.iter_mut().zip(&kept).enumerate().rev() {
                    dy = layer.backward(kept, dy, index == last);
                }
                step += 1;
                let rate = RATE * (1.0 - step as f32 / (steps + 1) as f32);
                self.layers.iter_mut().for_each(|layer| layer.linear.step(step, rate));
                let finite = |layer: &Layer| layer.linear.weights.iter().all(|w| w.is_finite());
                anyhow::ensure!(self.layers.iter().all(finite), "diverged in step {step} of {steps}");
            }
        }
        Ok(())
    }

    /// The likeliest class of every image.
    pub(crate) fn answers(&self, data: &Dataset) -> Vec<u8> {
        let image = data.size * data.size * data.channels;
        let parts = data.pixels.chunks(256 * image).map(|part| self.forward(part.to_vec()));
        parts.flat_map(|kept| classes(kept.last().map_or(&[][..], |kept| &kept.out))).collect()
    }
}

/// The largest of every ten logits.
pub(crate) fn classes(logits: &[f32]) -> Vec<u8> {
    let best =
        |row: &[f32]| (0..10u8).max_by(|&i, &j| row[usize::from(i)].total_cmp(&row[usize::from(j)])).unwrap_or(0);
    logits.chunks_exact(10).map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gradients of the float network against differences of its loss, `Σ out · direction`.
    #[test]
    fn gradients() {
        let mut network = Network::new(6, 2, &[(Window::Three, 4), (Window::Three, 5), (Window::Whole, 3)], false, 3);
        let mut random = Random(9);
        let images: Vec<f32> = (0..2 * 72).map(|_| random.signed()).collect();
        let direction: Vec<f32> = (0..6).map(|_| random.signed()).collect();
        let loss = |network: &Network| -> f64 {
            let kept = network.forward(images.clone());
            kept[2].out.iter().zip(&direction).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let kept = network.forward(images.clone());
        let mut dy = direction.clone();
        for index in (0..3).rev() {
            dy = network.layers[index].backward(&kept[index], dy, index == 2);
        }
        for index in 0..3 {
            let gradient = network.layers[index].linear.gradient().to_vec();
            for at in (0..gradient.len()).step_by(7) {
                let start = network.layers[index].linear.weights[at];
                let mut moved = |x: f32| {
                    network.layers[index].linear.weights[at] = x;
                    loss(&network)
                };
                let slope = (moved(start + 1e-3) - moved(start - 1e-3)) / 2e-3;
                moved(start);
                let found = f64::from(gradient[at]);
                assert!(
                    (found - slope).abs() < 2e-2 * (1.0 + slope.abs()),
                    "layer {index} [{at}]: {found}, not {slope}"
                );
            }
        }
    }

    #[test]
    fn windows_by_hand() {
        let layer = &Network::new(3, 1, &[(Window::Three, 1)], true, 0).layers[0];
        // 1 2 3 / 4 5 6 / 7 8 9: the first window stands over the upper left corner
        let windows = layer.windows(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(windows.len(), 4 * 9);
        assert_eq!(windows[..9], [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 4.0, 5.0]);
        assert_eq!(windows[27..], [5.0, 6.0, 0.0, 8.0, 9.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
