//! Classifier-free guidance by slots (Ho and Salimans 2022): training now and then without slots, sampling away from that.
//!
//! "Without slots" is a conditioning of zeros. That is our choice: the reference has no such training, and Stable Diffusion's empty
//! prompt has no counterpart among slots.

use tch::Tensor;

/// Conditioning [B, K, D] with zeros for the images that are `dropped`, bool [B].
pub fn drop_slots(conditioning: &Tensor, dropped: &Tensor) -> Tensor {
    conditioning.masked_fill(&dropped.view([-1, 1, 1]), 0.0)
}

/// The prediction that is `scale` times as far from the one without slots as the one with them is (eq. 6, whose w is `scale - 1`);
/// `predict(conditioning)` is the network. With a scale of 1 it is asked once only.
pub fn guided(scale: f64, conditioning: &Tensor, predict: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let with_slots = predict(conditioning);
    if scale == 1.0 {
        return with_slots;
    }
    let without_slots = predict(&conditioning.zeros_like());
    &without_slots + (with_slots - &without_slots) * scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn only_guidance_costs_a_second_pass_and_it_leads_away_from_no_slots() {
        let conditioning = Tensor::from_slice(&[1.0_f32, 2.0]).view([2, 1, 1]);
        let passes = Cell::new(0);
        let predict = |conditioning: &Tensor| {
            passes.set(passes.get() + 1);
            conditioning * 10.0 + 1.0
        };
        assert_eq!(guided(1.0, &conditioning, predict), Tensor::from_slice(&[11.0_f32, 21.0]).view([2, 1, 1]));
        assert_eq!(passes.get(), 1);
        assert_eq!(guided(1.5, &conditioning, predict), Tensor::from_slice(&[16.0_f32, 31.0]).view([2, 1, 1]));
        assert_eq!(passes.get(), 3);
    }

    #[test]
    fn a_dropped_image_keeps_none_of_its_slots_and_the_others_all() {
        let conditioning = Tensor::ones([3, 2, 4], (tch::Kind::Float, tch::Device::Cpu));
        let kept = drop_slots(&conditioning, &Tensor::from_slice(&[false, true, false]));
        assert_eq!(kept.sum_dim_intlist([1, 2].as_slice(), false, tch::Kind::Float), Tensor::from_slice(&[8.0_f32, 0.0, 8.0]));
    }
}
