//! The exponential moving average of the parameters, which evaluation prefers to the last iterate.

use super::parameters::FlatParameters;
use tch::{Tensor, no_grad};

/// A slowly following copy of all parameters.
pub struct MovingAverage {
    decay: f64,
    values: Tensor,
}

impl MovingAverage {
    /// An average that starts at the parameters themselves; none for a decay of 0.
    pub fn new(parameters: &FlatParameters, decay: f64) -> Option<Self> {
        (decay > 0.0).then(|| Self { decay, values: no_grad(|| parameters.values().copy()) })
    }

    /// The averages, `[len]`, in the layout of the parameters.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The weight of the parameters after update number `update` (from 1). Early on the decay is smaller, `(1 + update) / (10 + update)`,
    /// so that the random start is soon forgotten.
    pub fn weight(&self, update: u64) -> f64 {
        1.0 - self.decay.min((1.0 + update as f64) / (10.0 + update as f64))
    }

    /// Follows the parameters, which get `weight`. `skip` is 1 if there was no update. Both are tensors of one element, which the host does
    /// not read.
    pub fn follow(&mut self, parameters: &FlatParameters, weight: &Tensor, skip: Option<&Tensor>) {
        let _ = no_grad(|| {
            let weight = weight.to_kind(self.values.kind());
            self.values
                .lerp_tensor_(parameters.values(), &skip.map_or_else(|| weight.shallow_clone(), |skip| (1.0 - skip) * &weight))
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::training::parameters::Group;
    use tch::Kind;

    #[test]
    fn follows_with_the_smaller_of_both_decays() {
        let variable = Tensor::from_slice(&[1.0_f64]).set_requires_grad(true);
        let group = Group { name: "g".into(), variables: vec![("v".into(), variable.shallow_clone())] };
        let flat = FlatParameters::new(vec![group]).unwrap();
        assert!(MovingAverage::new(&flat, 0.0).is_none());
        let mut average = MovingAverage::new(&flat, 0.5).unwrap();
        let _ = no_grad(|| flat.values().shallow_clone().g_add_scalar_(1.0));
        let weight = |average: &MovingAverage, update| Tensor::from_slice(&[average.weight(update)]);
        average.follow(&flat, &weight(&average, 1), None);
        let early = 2.0 / 11.0;
        assert!((average.values().double_value(&[0]) - (early + 2.0 * (1.0 - early))).abs() < 1e-12);
        let before = average.values().double_value(&[0]);
        let late = weight(&average, 1000);
        average.follow(&flat, &late, Some(&Tensor::from(1.0)));
        average.follow(&flat, &late, Some(&Tensor::from(0.0)));
        assert!((average.values().double_value(&[0]) - (0.5 * before + 1.0)).abs() < 1e-12);
        assert_eq!(average.values().kind(), Kind::Double);
    }
}
