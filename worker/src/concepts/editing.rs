//! Editing a scene by its slots: the denoiser attends to whatever slots it is given, in any number.

use tch::Tensor;

/// Conditioning [B, K, D] without the `removed` slots.
pub fn without(conditioning: &Tensor, removed: &[usize]) -> Tensor {
    let kept: Vec<i64> = (0..conditioning.size()[1]).filter(|slot| !removed.contains(&(*slot as usize))).collect();
    conditioning.index_select(1, &Tensor::from_slice(&kept).to_device(conditioning.device()))
}

/// Conditioning [B, K, D] with `share` (0..1) of `other` [B, D] in one slot, and the rest of what is there. Exact at both ends.
pub fn mixed(conditioning: &Tensor, slot: usize, other: &Tensor, share: f64) -> Tensor {
    let mixed = conditioning.copy();
    let own = conditioning.select(1, slot as i64);
    mixed.select(1, slot as i64).copy_(&(own * (1.0 - share) + other * share));
    mixed
}

/// Share of the pixels that each of the slots wins.
pub fn shares(labels: &[u8], slots: usize) -> Vec<f32> {
    let pixels = |slot| labels.iter().filter(|label| usize::from(**label) == slot).count();
    (0..slots).map(|slot| pixels(slot) as f32 / labels.len().max(1) as f32).collect()
}

/// The slot of the background: the one that wins most pixels, the first of equals.
pub fn background(shares: &[f32]) -> usize {
    (0..shares.len()).rev().max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn scene() -> Tensor {
        Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).view([1, 3, 2]) / 7.0
    }

    #[test]
    fn removed_slots_are_gone_and_the_others_as_they_were() {
        assert_eq!(without(&scene(), &[1]), Tensor::stack(&[scene().select(1, 0), scene().select(1, 2)], 1));
    }

    #[test]
    fn mixing_ends_at_either_slot_and_leaves_the_others() {
        let other = Tensor::from_slice(&[9.0_f32, -0.3]).view([1, 2]);
        assert_eq!(mixed(&scene(), 1, &other, 0.0), scene());
        let replaced = mixed(&scene(), 1, &other, 1.0);
        assert_eq!(replaced, Tensor::stack(&[scene().select(1, 0), other.shallow_clone(), scene().select(1, 2)], 1));
        // Back again: what was swapped twice is as before.
        assert_eq!(mixed(&replaced, 1, &scene().select(1, 1), 1.0), scene());
        let half = mixed(&scene(), 1, &other, 0.5).select(1, 1);
        assert!((half - (scene().select(1, 1) + other) / 2.0).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn the_background_is_the_largest_slot() {
        let shares = shares(&[2, 2, 0, 1, 1, 3, 3, 3], 5);
        assert_eq!(shares, [0.125, 0.25, 0.25, 0.375, 0.0]);
        assert_eq!((background(&shares), background(&[0.5, 0.5])), (3, 0));
    }
}
