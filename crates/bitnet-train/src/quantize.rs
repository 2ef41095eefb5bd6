//! A dense model as a ternary one without training: projections are rounded block by block, each for the inputs that the blocks
//! before it, rounded already, give it.

use crate::compensation::Compensation;
use crate::low_rank::nearest;
use crate::matmul::{Operand, Packed, Store, Values, matmul};
use crate::measure::measure;
use crate::network::{Block, Network, Weights};
use crate::ops::Input;
use crate::pass::Pass;
use crate::tokenizer::Vocabulary;
use crate::tokens::{Tokens, Windows};
use crate::{LoraRecipe, ModelRecipe, Source, TrainError, Validation, export};
use bitnet_formats::{Scales, Ternary};
use std::path::{Path, PathBuf};

/// Windows of calibration that are computed together.
const BATCH: usize = 8;

/// What is quantised, and by which texts.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// Hugging Face directory of the dense model.
    pub model: PathBuf,
    /// Texts that the damage is measured on.
    pub validation: Vec<Source>,
    /// Positions of a window.
    pub context: usize,
    /// Decides which windows of the calibration text are taken.
    pub seed: u64,
    /// Rank of a side-car that takes up most of what rounding changes; 0 = none.
    pub residual: usize,
}

/// A dense model that is to become ternary.
pub struct Quantizer {
    options: QuantizeOptions,
    network: Network,
    vocabulary: Vocabulary,
    validation: Tokens,
    pass: Pass,
}

impl Quantizer {
    /// Opens a dense model.
    ///
    /// # Errors
    /// A model that the trainer does not have, or that is ternary already; texts that cannot be read.
    pub fn new(options: QuantizeOptions) -> Result<Quantizer, TrainError> {
        let path = &options.model;
        let error = |reason: String| Err(TrainError::Model { path: path.clone(), reason });
        let mut shape = ModelRecipe::of(path)?;
        if shape.ternary {
            return error("is ternary already: convert and export do not round it".into());
        }
        if !(2..=shape.context).contains(&options.context) {
            return error(format!(
                "was trained for {} positions; a window of {} does not fit",
                shape.context, options.context
            ));
        }
        let vocabulary = Vocabulary::read(&path.join("tokenizer.json"), Some(path), None)?;
        let validation = Tokens::read(&options.validation, &vocabulary)?;
        let context = std::mem::replace(&mut shape.context, options.context);
        let mut network = Network::new(&shape, vocabulary.len(), 0);
        network.take(path)?;
        network.recipe.context = context; // what is exported
        if options.residual > 0 {
            if options.residual > network.recipe.hidden {
                return error(format!(
                    "has {} channels; a residual of rank {} is none",
                    network.recipe.hidden, options.residual
                ));
            }
            // A and B are both zero until a projection is rounded
            network.adapt(&LoraRecipe { rank: options.residual, alpha: options.residual as f64 }, options.seed);
            network.trained_mut().iter_mut().for_each(|param| param.values.fill(0.0));
        }
        Ok(Quantizer { options, network, vocabulary, validation, pass: Pass::default() })
    }

    /// The model as it is now, on the validation text.
    ///
    /// # Errors
    /// Weights that are not finite.
    pub fn measure(&mut self) -> Result<Validation, TrainError> {
        measure(&mut self.pass, &self.network, &self.validation, self.options.context)
    }

    /// The model rounded by absmean as it is, which nobody should use, on the validation text.
    ///
    /// # Errors
    /// Weights that are not finite.
    pub fn measure_uncalibrated(&mut self) -> Result<Validation, TrainError> {
        self.network.recipe.ternary = true;
        let result = self.measure();
        self.network.recipe.ternary = false;
        result
    }

    /// Rounds all projections for `windows` windows of the calibration texts. `progress` hears how many of the blocks are done;
    /// when it returns false, nothing more is done and the result is false. Afterwards the model is ternary, with int8
    /// activations.
    ///
    /// # Errors
    /// Texts that are too short or cannot be read.
    pub fn calibrate(
        &mut self,
        texts: &[Source],
        windows: usize,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<bool, TrainError> {
        let tokens = Tokens::read(texts, &self.vocabulary)?;
        let mut drawn = Windows::new(&tokens, self.options.context, self.options.seed)?;
        let windows: Vec<&[u32]> = (0..windows as u64).map(|index| drawn.get(index)).collect();
        let layers = self.network.blocks.len();
        let mut masters = Vec::new();
        for layer in 0..layers {
            if !progress(layer, layers) {
                return Ok(false);
            }
            let Block { query, key, value, output, gate, up, down, .. } = self.network.blocks[layer];
            // the four inputs of a block one after the other: each is computed with what is rounded already
            for (input, params) in [&[query, key, value][..], &[output], &[gate, up], &[down]].into_iter().enumerate() {
                let cols = self.network.params[params[0]].dims[1];
                let hessian = self.hessian(&windows, layer, input, cols)?;
                let compensation = Compensation::new(&hessian, cols);
                for &index in params {
                    let param = &mut self.network.params[index];
                    let (codes, scale) = compensation.round(&param.values);
                    let rounded: Vec<f32> = codes.iter().map(|&code| scale * f32::from(code)).collect();
                    let dense = std::mem::replace(&mut param.values, rounded);
                    if let Some(beside) = self.network.lora.as_ref().and_then(|lora| lora.beside(index)) {
                        let rest: Vec<f32> =
                            dense.iter().zip(&self.network.params[index].values).map(|(w, q)| w - q).collect();
                        let (a, b) = nearest(&rest, &hessian, cols, self.options.residual);
                        (self.network.params[beside].values, self.network.params[beside + 1].values) = (a, b);
                    }
                    masters.push((index, master(&codes, scale, cols)?));
                }
            }
        }
        for (index, values) in masters {
            self.network.params[index].values = values;
        }
        self.network.recipe.ternary = true;
        Ok(progress(layers, layers))
    }

    /// `Σ x xᵀ` over the inputs of a layer.
    fn hessian(&mut self, windows: &[&[u32]], layer: usize, input: usize, cols: usize) -> Result<Vec<f32>, TrainError> {
        let weights = Weights::new(&self.network, 1.0)?;
        let (mut hessian, mut packed) = (vec![0.0; cols * cols], Packed::default());
        for part in windows.chunks(BATCH) {
            let Input { values, factors } = self.pass.input(&self.network, &weights, part, layer, input);
            let columns = Operand::columns(Values::Bf16(values), factors.len(), cols);
            packed.pack(&columns);
            matmul(&columns, &packed, Store::ADD, &mut hessian);
        }
        Ok(hessian)
    }

    /// Writes the model as a Hugging Face directory, and the side-car into its `adapter/`.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn export(mut self, dir: &Path) -> Result<(), TrainError> {
        std::fs::create_dir_all(dir).map_err(TrainError::file(dir))?;
        if let Some(first) = self.network.lora.as_ref().map(|lora| lora.first) {
            export::write(&self.network, &self.vocabulary, &dir.join("adapter"))?;
            self.network.params.truncate(first);
            self.network.lora = None;
        }
        export::write(&self.network, &self.vocabulary, dir)
    }
}

/// Master weights that absmean makes these codes and this scale of: with a share `d` of codes that are not zero, `±scale / d`, whose
/// mean magnitude is the scale.
fn master(codes: &[i8], scale: f32, cols: usize) -> Result<Vec<f32>, TrainError> {
    let some = codes.iter().filter(|&&code| code != 0).count();
    let magnitude = (f64::from(scale) * codes.len() as f64 / some.max(1) as f64) as f32;
    let values: Vec<f32> = codes.iter().map(|&code| magnitude * f32::from(code)).collect();
    let error = |reason: String| TrainError::Weights { name: "a rounded projection".into(), reason };
    let back = Ternary::absmean(&values, codes.len() / cols, cols).map_err(|e| error(e.to_string()))?;
    let close = matches!(back.scales, Scales::Tensor(found) if some == 0 || (found / scale - 1.0).abs() < 1e-5);
    match back.codes == codes && close {
        true => Ok(values),
        false => Err(error("does not come back from master weights as it was".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_come_back() {
        for codes in [&[1i8, 0, 0, -1, 0, 0, 0, 0][..], &[1, 1, -1, -1, 1, -1, 1, 0], &[0; 8]] {
            let values = master(codes, 0.03, 8).unwrap();
            assert_eq!(Ternary::absmean(&values, 1, 8).unwrap().codes, codes);
        }
    }
}
