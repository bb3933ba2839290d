//! All trainable parameters in one flat tensor, all gradients in another; every variable and its `.grad` are views of them.
//!
//! Clipping, AdamW, the moving average, the all-reduce and a checkpoint's snapshot are then a handful of vector operations over memory
//! that never moves, instead of hundreds of small ones.

use std::ops::Range;
use tch::{Device, Kind, Tensor};
use thiserror::Error;
use torch_shim::{ShimError, set_grad};

/// Each variable starts at a multiple of this many elements, so that kernels see aligned memory. The padding stays zero.
const ALIGNMENT: i64 = 16;

/// Scalars that travel with the gradients in the same all-reduce, behind the last gradient.
const PASSENGERS: i64 = 4;

/// The trainable variables of one module, with the learning rate of their own.
pub struct Group {
    /// The module's name, as in the configuration: `backbone`, `slot_attention`, `unet`.
    pub name: String,
    /// Name and variable, in the order in which they lie in memory.
    pub variables: Vec<(String, Tensor)>,
}

/// Where one variable lies in the flat tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its group's name.
    pub group: String,
    /// Its name inside of the group.
    pub name: String,
    /// First element.
    pub offset: i64,
    /// Shape.
    pub shape: Vec<i64>,
    /// Strides of its dense memory layout (channels-last weights keep theirs).
    pub strides: Vec<i64>,
}

impl Entry {
    /// This variable's view of `flat`, a tensor of [`FlatParameters::len`] elements or more: values, gradients or optimizer state.
    pub fn view(&self, flat: &Tensor) -> Tensor {
        flat.as_strided(&self.shape, &self.strides, self.offset)
    }
}

/// Variables that cannot be laid out flat.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParametersError {
    /// Nothing to train.
    #[error("there is no trainable variable")]
    Empty,
    /// One variable differs from the first in kind or device.
    #[error("variable {name} is {kind:?} on {device:?}, the others are {first_kind:?} on {first_device:?}")]
    Mixed {
        /// The variable.
        name: String,
        /// Its kind.
        kind: Kind,
        /// Its device.
        device: Device,
        /// The kind of the first variable.
        first_kind: Kind,
        /// The device of the first variable.
        first_device: Device,
    },
    /// A view, an expanded or a sparse variable.
    #[error("variable {name} with shape {shape:?} and strides {strides:?} does not fill its memory densely")]
    NotDense {
        /// The variable.
        name: String,
        /// Its shape.
        shape: Vec<i64>,
        /// Its strides.
        strides: Vec<i64>,
    },
    /// libtorch does not take the view as the variable's gradient.
    #[error("the gradient of variable {name} cannot lie in flat memory: {cause}")]
    Gradient {
        /// The variable.
        name: String,
        /// What libtorch says.
        cause: String,
    },
    /// A frozen variable among the trainable.
    #[error("variable {name} does not require a gradient")]
    Frozen {
        /// The variable.
        name: String,
    },
}

/// The flat tensors and the map of what lies where.
pub struct FlatParameters {
    values: Tensor,
    /// Gradients of all variables, then the passengers.
    reduced: Tensor,
    entries: Vec<Entry>,
    variables: Vec<Tensor>,
    groups: Vec<(String, Range<i64>)>,
    length: i64,
}

impl FlatParameters {
    /// Moves the variables of `groups` into flat memory and makes them, and their gradients, views of it.
    ///
    /// # Errors
    /// No variable at all, or variables that are frozen, of different kinds or devices, or not dense in memory.
    pub fn new(groups: Vec<Group>) -> Result<Self, ParametersError> {
        let (kind, device) = match groups.iter().flat_map(|group| &group.variables).next() {
            Some((_, first)) => (first.kind(), first.device()),
            None => return Err(ParametersError::Empty),
        };
        let mut entries = Vec::new();
        let mut ranges = Vec::new();
        let mut end = 0;
        for group in &groups {
            let start = end;
            for (name, variable) in &group.variables {
                check(name, variable, kind, device)?;
                let entry = Entry {
                    group: group.name.clone(),
                    name: name.clone(),
                    offset: end,
                    shape: variable.size(),
                    strides: variable.stride(),
                };
                let filled = end + variable.numel() as i64;
                end = (filled + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
                entries.push(entry);
            }
            ranges.push((group.name.clone(), start..end));
        }
        let values = Tensor::zeros([end], (kind, device));
        let reduced = Tensor::zeros([end + PASSENGERS], (kind, device));
        let mut variables: Vec<Tensor> =
            groups.into_iter().flat_map(|group| group.variables).map(|(_, variable)| variable).collect();
        bind(&entries, &mut variables, &values, &reduced)?;
        Ok(Self { values, reduced, entries, variables, groups: ranges, length: end })
    }

    /// Number of elements of every flat tensor, padding included.
    pub fn len(&self) -> i64 {
        self.length
    }

    /// Whether there is nothing to train; never true for a value that [`FlatParameters::new`] returned.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All parameters, `[len]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// All gradients, `[len]`.
    pub fn gradients(&self) -> Tensor {
        self.reduced.narrow(0, 0, self.length)
    }

    /// The scalars that are reduced together with the gradients, `[4]`: the loss, then the wishes of the workers.
    pub fn passengers(&self) -> Tensor {
        self.reduced.narrow(0, self.length, PASSENGERS)
    }

    /// Gradients and passengers, `[len + 4]`: what one all-reduce sums over the workers.
    pub fn reduced(&self) -> &Tensor {
        &self.reduced
    }

    /// Sets all gradients and passengers to zero.
    pub fn zero_gradients(&self) {
        let _ = self.reduced.shallow_clone().zero_();
    }

    /// A flat tensor of zeros like the parameters: optimizer state.
    pub fn zeros(&self) -> Tensor {
        self.values.zeros_like()
    }

    /// Makes `variables`, which are like those here and in their order, views of `values`, a flat tensor like the parameters.
    pub fn lend<'a>(&self, values: &Tensor, variables: impl Iterator<Item = &'a Tensor>) {
        let _guard = tch::no_grad_guard();
        self.entries.iter().zip(variables).for_each(|(entry, variable)| variable.shallow_clone().set_data(&entry.view(values)));
    }

    /// Where every variable lies.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Every variable, in the order of the entries.
    pub fn variables(&self) -> &[Tensor] {
        &self.variables
    }

    /// Name and range of every group, in order.
    pub fn groups(&self) -> &[(String, Range<i64>)] {
        &self.groups
    }

    /// Number of trained scalars, padding not counted.
    pub fn count(&self) -> i64 {
        self.entries.iter().map(|entry| entry.shape.iter().product::<i64>()).sum()
    }
}

fn check(name: &str, variable: &Tensor, kind: Kind, device: Device) -> Result<(), ParametersError> {
    let name = name.to_owned();
    if variable.kind() != kind || variable.device() != device {
        let (first_kind, first_device) = (kind, device);
        return Err(ParametersError::Mixed { name, kind: variable.kind(), device: variable.device(), first_kind, first_device });
    }
    let (shape, strides) = (variable.size(), variable.stride());
    if !is_dense(&shape, &strides) {
        return Err(ParametersError::NotDense { name, shape, strides });
    }
    if !variable.requires_grad() {
        return Err(ParametersError::Frozen { name });
    }
    Ok(())
}

/// Whether shape and strides cover a block of memory without gaps or overlaps, in any order of dimensions.
fn is_dense(shape: &[i64], strides: &[i64]) -> bool {
    let mut dimensions: Vec<(i64, i64)> =
        strides.iter().copied().zip(shape.iter().copied()).filter(|(_, size)| *size != 1).collect();
    dimensions.sort_unstable();
    let mut expected = 1;
    dimensions.into_iter().all(|(stride, size)| {
        let fits = stride == expected;
        expected *= size;
        fits
    })
}

/// Makes variables and gradients views.
fn bind(entries: &[Entry], variables: &mut [Tensor], values: &Tensor, reduced: &Tensor) -> Result<(), ParametersError> {
    let _guard = tch::no_grad_guard();
    for (entry, variable) in entries.iter().zip(variables) {
        let mut home = entry.view(values);
        home.copy_(&variable.detach());
        variable.set_data(&home);
        let refused = |cause: ShimError| ParametersError::Gradient { name: entry.name.clone(), cause: cause.to_string() };
        set_grad(variable, &entry.view(reduced)).map_err(refused)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::no_grad;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn variable(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, CPU).set_requires_grad(true)
    }

    fn group(name: &str, variables: &[(&str, &Tensor)]) -> Group {
        let variables = variables.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone())).collect();
        Group { name: name.into(), variables }
    }

    #[test]
    fn variables_and_gradients_stay_views_over_several_backward_passes() {
        let (weight, bias) = (variable(&[5, 3]), variable(&[5]));
        let before = weight.copy().detach();
        let flat = FlatParameters::new(vec![group("a", &[("weight", &weight)]), group("b", &[("bias", &bias)])]).unwrap();
        assert_eq!(weight.detach(), before, "moving must not change values");
        assert_eq!(flat.groups(), &[("a".to_owned(), 0..16), ("b".to_owned(), 16..32)]);
        for pass in 1..=3 {
            let input = Tensor::randn([7, 3], CPU);
            (input.linear(&weight, Some(&bias))).square().sum(Kind::Float).backward();
            let gradients = flat.gradients();
            assert_eq!(flat.entries()[0].view(&gradients), weight.grad(), "pass {pass}");
            assert_eq!(gradients.narrow(0, 16, 5), bias.grad(), "pass {pass}");
            assert!(bias.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
            assert_eq!(gradients.narrow(0, 15, 1).double_value(&[0]), 0.0, "padding has no gradient");
            flat.zero_gradients();
            assert_eq!(weight.grad().abs().sum(Kind::Float).double_value(&[]), 0.0);
            let _ = no_grad(|| flat.values().shallow_clone().g_add_scalar_(1.0));
        }
        let moved = (weight.detach() - before - 3.0).abs().max().double_value(&[]);
        assert!(moved < 1e-5, "a change of the flat tensor is a change of the variable: {moved}");
    }

    #[test]
    fn channels_last_weights_keep_their_strides() {
        let weight = Tensor::randn([4, 3, 3, 2], CPU).permute([0, 3, 1, 2]).set_requires_grad(true);
        let strides = weight.stride();
        assert_ne!(strides, vec![18, 9, 3, 1]);
        let before = weight.copy().detach();
        let flat = FlatParameters::new(vec![group("a", &[("weight", &weight)])]).unwrap();
        assert_eq!((weight.stride(), weight.detach()), (strides.clone(), before));
        Tensor::randn([1, 2, 8, 8], CPU).conv2d(&weight, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1).sum(Kind::Float).backward();
        assert_eq!(weight.grad().stride(), strides);
        assert_eq!(flat.entries()[0].view(&flat.gradients()), weight.grad());
    }

    #[test]
    fn what_cannot_be_flat_is_refused_by_name() {
        let refused = |tensor: Tensor| match FlatParameters::new(vec![group("a", &[("first", &variable(&[2])), ("odd", &tensor)])])
        {
            Ok(_) => String::from("accepted"),
            Err(error) => error.to_string(),
        };
        assert!(refused(Tensor::zeros([2], CPU)).contains("odd does not require"));
        assert!(refused(Tensor::zeros([2], (Kind::Double, Device::Cpu)).set_requires_grad(true)).contains("odd is Double"));
        assert!(refused(Tensor::zeros([2, 2], CPU).narrow(1, 0, 1).set_requires_grad(true)).contains("does not fill"));
        assert_eq!(FlatParameters::new(vec![]).err(), Some(ParametersError::Empty));
    }
}
