//! Images with their classes, from the files of the two sets.

use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Images `[images, size, size, channels]` from 0 to 1, and their classes.
pub(crate) struct Dataset {
    pub(crate) size: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<f32>,
    pub(crate) classes: Vec<u8>,
}

impl Dataset {
    /// UCI optical digits: a line per image, 64 values from 0 to 16 and the class.
    pub(crate) fn optdigits(path: &Path) -> anyhow::Result<Dataset> {
        let text = String::from_utf8(unpack(path)?).with_context(|| format!("{} is no text", path.display()))?;
        let (mut pixels, mut classes) = (Vec::new(), Vec::new());
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            let wrong = || format!("{}, line {}", path.display(), number + 1);
            let values: Vec<u8> = line.split(',').map(str::parse).collect::<Result<_, _>>().with_context(wrong)?;
            let Some((&class, image)) = values.split_last().filter(|(_, image)| image.len() == 64) else {
                anyhow::bail!("{}: {} values, expected 65", wrong(), values.len());
            };
            ensure!(class < 10, "{}: class {class}", wrong());
            pixels.extend(image.iter().map(|&x| f32::from(x) / 16.0));
            classes.push(class);
        }
        ensure!(!classes.is_empty(), "{} has no images", path.display());
        Ok(Dataset { size: 8, channels: 1, pixels, classes })
    }

    /// MNIST's IDX files.
    pub(crate) fn mnist(images: &Path, classes: &Path) -> anyhow::Result<Dataset> {
        let (image_bytes, class_bytes) = (unpack(images)?, unpack(classes)?);
        let header = |bytes: &[u8], magic: u32, path: &Path| {
            let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
            ensure!(word(0) == Some(magic), "{} is no IDX file of the kind {magic}", path.display());
            word(4).with_context(|| format!("{} is cut off", path.display()))
        };
        let count = header(&image_bytes, 2051, images)? as usize;
        ensure!(header(&class_bytes, 2049, classes)? as usize == count, "{} has other images", classes.display());
        let (pixels, classes) = (image_bytes.get(16..), class_bytes.get(8..));
        let (Some(pixels), Some(classes)) = (pixels, classes) else { anyhow::bail!("{} is cut off", images.display()) };
        ensure!(
            Some(pixels.len()) == count.checked_mul(784) && classes.len() == count,
            "{} is cut off",
            images.display()
        );
        ensure!(classes.iter().all(|&class| class < 10), "a class above 9");
        let pixels = pixels.iter().map(|&x| f32::from(x) / 255.0).collect();
        Ok(Dataset { size: 28, channels: 1, pixels, classes: classes.to_vec() })
    }

    /// The first `images`, and the rest.
    pub(crate) fn split(mut self, images: usize) -> (Dataset, Dataset) {
        let images = images.min(self.classes.len());
        let (size, channels) = (self.size, self.channels);
        let pixels = self.pixels.split_off(images * size * size * channels);
        let classes = self.classes.split_off(images);
        (self, Dataset { size, channels, pixels, classes })
    }

    /// Images with their classes.
    pub(crate) fn images(&self) -> impl Iterator<Item = (&[f32], u8)> {
        self.pixels.chunks_exact(self.size * self.size * self.channels).zip(self.classes.iter().copied())
    }

    /// Share of right answers.
    pub(crate) fn accuracy(&self, answers: &[u8]) -> f64 {
        answers.iter().zip(&self.classes).filter(|(a, b)| a == b).count() as f64 / self.classes.len() as f64
    }
}

fn unpack(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut bytes = Vec::new();
    // the larger of the files has 8 MB
    GzDecoder::new(file).take(64 << 20).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    Ok(bytes)
}
