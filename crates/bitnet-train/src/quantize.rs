//! A dense model as a ternary one without training: projections are rounded block by block, each for the inputs that the blocks
//! before it, rounded already, give it.

use crate::compensation::Compensation;
use crate::low_rank::nearest;
use crate::matmul::{Operand, Packed, Store, Values, matmul};
use crate::measure::measure;
use crate::network::{Network, Weights};
use crate::ops::Input;
use crate::pass::Pass;
use crate::tokenizer::Vocabulary;
use crate::tokens::{Tokens, Windows};
use crate::{LoraRecipe, ModelRecipe, Source, TrainError, Validation, export};
use bitnet_formats::{Scales, Ternary};
use serde::Serialize;
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

/// What rounding projections that share an input costs.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivity {
    /// Names of the projections, as in the model's directory.
    pub modules: Vec<String>,
    /// Their weights.
    pub weights: usize,
    /// Bits per byte that the validation text costs more when they alone are rounded.
    pub damage: f64,
    /// They stay floats.
    pub float: bool,
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

    /// Decides which projections stay floats, so that all projections of the exported model (2 bits per ternary weight, 8.5 of Q8_0 per
    /// other one) take at most `budget` bytes. Those that are fed with the same input are rounded alone, as
    /// [`calibrate`](Self::calibrate) rounds, and the loss on the validation text is measured: what costs most per byte stays,
    /// as far as it fits. `progress` hears how many are measured; when it returns false, the result is empty and all is as before.
    ///
    /// # Errors
    /// A budget that ternary projections alone exceed; texts that are too short or cannot be read.
    pub fn plan(
        &mut self,
        texts: &[Source],
        windows: usize,
        budget: u64,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Vec<Sensitivity>, TrainError> {
        let tokens = Tokens::read(texts, &self.vocabulary)?;
        let windows = self.windows(&tokens, windows)?;
        let units: Vec<_> =
            (0..self.network.blocks.len()).flat_map(|layer| (0..4).map(move |input| (layer, input))).collect();
        let dense = self.measure()?.bits_per_byte;
        let mut plan = Vec::with_capacity(units.len());
        for (done, &(layer, input)) in units.iter().enumerate() {
            if !progress(done, units.len()) {
                return Ok(Vec::new());
            }
            let hessian = self.hessian(&windows, layer, input)?;
            let params = &self.network.blocks[layer].by_input()[input];
            let compensation = Compensation::new(&hessian, self.network.params[params[0]].dims[1]);
            let mut kept = Vec::with_capacity(params.len());
            for &index in params {
                let values = &mut self.network.params[index].values;
                let (codes, scale) = compensation.round(values);
                let rounded = codes.iter().map(|&code| scale * f32::from(code)).collect();
                kept.push(std::mem::replace(values, rounded));
            }
            let damage = self.measure();
            for (&index, values) in params.iter().zip(kept) {
                self.network.params[index].values = values;
            }
            let weights: usize = params.iter().map(|&index| self.network.params[index].values.len()).sum();
            let modules = params.iter().map(|&index| self.network.params[index].module().to_owned()).collect();
            plan.push(Sensitivity { modules, weights, damage: damage?.bits_per_byte - dense, float: false });
        }
        let floats = choose(&mut plan, budget)?;
        let params = floats.into_iter().flat_map(|unit| {
            let (layer, input) = units[unit];
            self.network.blocks[layer].by_input()[input].clone()
        });
        self.network.floats = params.collect();
        progress(units.len(), units.len());
        Ok(plan)
    }

    /// Rounds all projections for `windows` windows of the calibration texts, but those that a [`plan`](Self::plan) leaves. `progress` hears how many of the blocks are done;
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
        let windows = self.windows(&tokens, windows)?;
        let layers = self.network.blocks.len();
        let mut masters = Vec::new();
        for layer in 0..layers {
            if !progress(layer, layers) {
                return Ok(false);
            }
            // the four inputs of a block one after the other: each is computed with what is rounded already
            for (input, params) in self.network.blocks[layer].by_input().into_iter().enumerate() {
                if params.iter().any(|index| self.network.floats.contains(index)) {
                    continue;
                }
                let cols = self.network.params[params[0]].dims[1];
                let hessian = self.hessian(&windows, layer, input)?;
                let compensation = Compensation::new(&hessian, cols);
                for index in params {
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

    fn windows<'t>(&self, tokens: &'t Tokens, count: usize) -> Result<Vec<&'t [u32]>, TrainError> {
        let mut drawn = Windows::new(tokens, self.options.context, self.options.seed)?;
        Ok((0..count as u64).map(|index| drawn.get(index)).collect())
    }

    /// `Σ x xᵀ` over an input of a block.
    fn hessian(&mut self, windows: &[&[u32]], layer: usize, input: usize) -> Result<Vec<f32>, TrainError> {
        let cols = self.network.params[self.network.blocks[layer].by_input()[input][0]].dims[1];
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

/// Bytes of ternary weights in I2_S.
fn ternary_bytes(weights: usize) -> u64 {
    weights as u64 / 4
}

/// Bytes of weights in Q8_0: 34 for 32.
fn float_bytes(weights: usize) -> u64 {
    weights as u64 * 34 / 32
}

/// Marks what stays float, most damage per byte first, and says which those are.
fn choose(plan: &mut [Sensitivity], budget: u64) -> Result<Vec<usize>, TrainError> {
    let mut bytes: u64 = plan.iter().map(|unit| ternary_bytes(unit.weights)).sum();
    if bytes > budget {
        let reason =
            format!("the projections take {bytes} bytes when all are ternary, more than the {budget} of the budget");
        return Err(TrainError::Recipe(reason));
    }
    let more = |unit: &Sensitivity| float_bytes(unit.weights) - ternary_bytes(unit.weights);
    let mut order: Vec<usize> = (0..plan.len()).filter(|&unit| plan[unit].damage > 0.0).collect();
    let worth = |unit: &usize| plan[*unit].damage / more(&plan[*unit]).max(1) as f64;
    order.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
    order.retain(|&unit| {
        let fits = bytes + more(&plan[unit]) <= budget;
        if fits {
            bytes += more(&plan[unit]);
        }
        fits
    });
    order.iter().for_each(|&unit| plan[unit].float = true);
    Ok(order)
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
    fn what_costs_most_per_byte_stays() {
        let unit = |weights, damage| Sensitivity { modules: Vec::new(), weights, damage, float: false };
        // 1.0625 bytes per weight instead of 0.25: 26,624 more for 32,768 weights
        let mut plan = [unit(32_768, 0.3), unit(65_536, 0.4), unit(32_768, 0.1), unit(32_768, -0.01)];
        let ternary = (3 * 32_768 + 65_536) / 4;
        assert!(choose(&mut plan, ternary - 1).is_err());
        assert!(choose(&mut plan, ternary).unwrap().is_empty());
        // the second is worth 0.2 per unit of 26,624 bytes, but does not fit beside the first
        assert_eq!(choose(&mut plan, ternary + 2 * 26_624).unwrap(), [0, 2]);
        assert_eq!(plan.each_ref().map(|unit| unit.float), [true, false, true, false]);
        // what gets better by rounding is rounded at any budget
        assert_eq!(choose(&mut plan, u64::MAX).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn masters_come_back() {
        for codes in [&[1i8, 0, 0, -1, 0, 0, 0, 0][..], &[1, 1, -1, -1, 1, -1, 1, 0], &[0; 8]] {
            let values = master(codes, 0.03, 8).unwrap();
            assert_eq!(Ternary::absmean(&values, 1, 8).unwrap().codes, codes);
        }
    }
}
