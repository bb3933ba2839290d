//! Classifier-free guidance by slots (Ho and Salimans 2022): training now and then without slots, sampling away from that.
//!
//! "Without slots" is a conditioning of zeros. That is our choice: the reference has no such training, and Stable Diffusion's empty
//! prompt has no counterpart among slots.

use tch::Tensor;

/// Conditioning [B, K, D] with zeros for the images that are `dropped`, bool [B].
pub fn drop_slots(conditioning: &Tensor, dropped: &Tensor) -> Tensor {
    conditioning.masked_fill(&dropped.view([-1, 1, 1]), 0.0)
}

/// Predictions that are led away from those without slots.
#[derive(Debug)]
pub struct Guidance {
    scale: f64,
    /// [B, K, D], or with guidance [2 B, K, D], whose second half has no slots.
    conditioning: Tensor,
}

impl Guidance {
    /// By `scale` 1 not at all, and then predictions without slots are not computed.
    pub fn new(scale: f64, conditioning: &Tensor) -> Self {
        let conditioning = match scale {
            1.0 => conditioning.shallow_clone(),
            _ => Tensor::cat(&[conditioning, &conditioning.zeros_like()], 0),
        };
        Self { scale, conditioning }
    }

    /// The prediction for z_t [B, C, h, w] that is `scale` times as far from the one without slots as the one with them is (eq. 6, whose w is
    /// `scale - 1`); `network(z_t, conditioning)` computes both in one pass.
    pub fn predict(&self, z_t: &Tensor, network: impl FnOnce(&Tensor, &Tensor) -> Tensor) -> Tensor {
        if self.scale == 1.0 {
            return network(z_t, &self.conditioning);
        }
        let both = network(&Tensor::cat(&[z_t, z_t], 0), &self.conditioning).chunk(2, 0);
        &both[1] + (&both[0] - &both[1]) * self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guidance_leads_away_from_no_slots() {
        let conditioning = Tensor::from_slice(&[1.0_f32, 2.0]).view([2, 1, 1]);
        let z_t = Tensor::from_slice(&[0.5_f32, 0.25]).view([2, 1, 1]);
        let predict = |scale| Guidance::new(scale, &conditioning).predict(&z_t, |z_t, conditioning| conditioning * 10.0 + z_t);
        assert_eq!(predict(1.0), Tensor::from_slice(&[10.5_f32, 20.25]).view([2, 1, 1]));
        assert_eq!(predict(1.5), Tensor::from_slice(&[15.5_f32, 30.25]).view([2, 1, 1]));
    }

    #[test]
    fn a_dropped_image_keeps_none_of_its_slots_and_the_others_all() {
        let conditioning = Tensor::ones([3, 2, 4], (tch::Kind::Float, tch::Device::Cpu));
        let kept = drop_slots(&conditioning, &Tensor::from_slice(&[false, true, false]));
        assert_eq!(kept.sum_dim_intlist([1, 2].as_slice(), false, tch::Kind::Float), Tensor::from_slice(&[8.0_f32, 0.0, 8.0]));
    }
}
