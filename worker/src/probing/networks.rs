//! The probes: one small network per label, all trained together.

use super::targets::{Answer, Target};
use crate::model::layers::{Linear, fused_linear};
use crate::model::variables::Variables;
use crate::model::{Initial, Variable};
use crate::training::optimizer::{AdamW, rate_kind};
use crate::training::parameters::{FlatParameters, Group, ParametersError};
use common::config::{OptimizerConfig, ProbeConfig};
use tch::{Device, Kind, Reduction, Tensor, no_grad};
use torch_shim::ShimError;

/// Steps between two reports of the loss, for which the host waits.
const REPORT_EVERY: u64 = 200;

/// Why probes cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is nothing to train.
    #[error("the probes: {0}")]
    Parameters(#[from] ParametersError),
    /// libtorch does not take the step.
    #[error("the step of the probes: {0}")]
    Step(#[from] ShimError),
}

/// The networks of several labels. None of them has anything to do with another: they share a pass over the slots, and no weight.
pub struct Probe {
    networks: Vec<Network>,
    variables: Vec<Variable>,
    parameters: FlatParameters,
}

/// A linear layer for classes; for figures another one behind a ReLU.
struct Network {
    first: Linear,
    second: Option<Linear>,
}

impl Probe {
    /// Networks that read `targets` off slots of `size` channels. Their initial weights depend on seed and name of the label alone.
    ///
    /// # Errors
    /// There is no target.
    pub fn new(targets: &[Target], size: i64, seed: u64, device: Device) -> Result<Self, ProbeError> {
        let variables = Variables::new("probe", Initial::Seed(seed), device);
        let network = |target: &Target| {
            let scope = &variables.root() / &target.name;
            match target.answer {
                Answer::Category { classes, .. } => Network { first: Linear::new(&(&scope / 0), size, classes), second: None },
                Answer::Figures { .. } => {
                    let second = Linear::new(&(&scope / 2), size, target.width());
                    Network { first: Linear::new(&(&scope / 0), size, size), second: Some(second) }
                }
            }
        };
        let networks = targets.iter().map(network).collect();
        let variables = variables.into_module().variables;
        let named = variables.iter().map(|variable| (variable.name.clone(), variable.tensor.shallow_clone())).collect();
        let parameters = FlatParameters::new(vec![Group { name: "probe".into(), variables: named }])?;
        Ok(Self { networks, variables, parameters })
    }

    /// The weights, named by label and layer as in a sequence of layers: `shape.0.weight`.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Learns from slots [N, D] and the targets it was made for. `report` gets the number of steps done and the loss from time to time.
    ///
    /// # Errors
    /// libtorch refuses a step.
    pub fn train(
        &self,
        slots: &Tensor,
        targets: &[Target],
        recipe: &ProbeConfig,
        mut report: impl FnMut(u64, f64),
    ) -> Result<(), ProbeError> {
        let (objects, device) = (slots.size()[0] as f64, slots.device());
        let number = |value| Tensor::full([1], value, (rate_kind(device), device));
        let rate = number(recipe.learning_rate);
        let mut adamw = AdamW::new(&self.parameters, OptimizerConfig::default());
        for step in 0..recipe.steps {
            self.parameters.zero_gradients();
            let losses = self.forward(slots).iter().zip(targets).map(|(output, target)| loss(output, target)).collect::<Vec<_>>();
            let total = Tensor::stack(&losses, 0).sum(Kind::Float);
            // As in the official code. It decides how the gradients compare with AdamW's epsilon.
            (&total / objects).backward();
            adamw.step(&self.parameters, &rate, &number(step as f64), None, None)?;
            if (step + 1) % REPORT_EVERY == 0 || step + 1 == recipe.steps {
                report(step + 1, total.double_value(&[]));
            }
        }
        Ok(())
    }

    /// What the networks say about slots [N, D]: for each label [N, width], of which the largest is the class.
    pub fn predict(&self, slots: &Tensor) -> Vec<Tensor> {
        no_grad(|| self.forward(slots))
    }

    fn forward(&self, slots: &Tensor) -> Vec<Tensor> {
        let first: Vec<&Linear> = self.networks.iter().map(|network| &network.first).collect();
        let widths: Vec<i64> = first.iter().map(|layer| layer.weight.size()[0]).collect();
        let outputs = fused_linear(slots, &first).split_with_sizes(widths, 1);
        let finish = |(network, output): (&Network, Tensor)| match &network.second {
            Some(second) => second.forward(&output.relu()),
            None => output,
        };
        self.networks.iter().zip(outputs).map(finish).collect()
    }
}

/// Mean over the objects of which the label is known: cross-entropy, or squared error.
fn loss(output: &Tensor, target: &Target) -> Tensor {
    match &target.answer {
        Answer::Category { codes, .. } => output.cross_entropy_loss(codes, None::<Tensor>, Reduction::Mean, -1, 0.0),
        Answer::Figures { values, known, .. } => {
            let count = known.sum(Kind::Float) * values.size()[1];
            ((output - values).square() * known).sum(Kind::Float) / count
        }
    }
}
