//! Which timesteps the fast samplers visit: those of diffusers' schedulers with the reference's `timestep_spacing = "leading"` and
//! `steps_offset = 1`.

/// The reference's `steps_offset`: the last step is taken at timestep 1, as Stable Diffusion's samplers do.
const OFFSET: usize = 1;

/// The `steps` timesteps of DDIM, falling, each `total / steps` (rounded down) below the one before.
pub(super) fn ddim(total: usize, steps: usize) -> Vec<usize> {
    let steps = steps.clamp(1, total);
    falling(total, total / steps, 0..steps)
}

/// The `steps` timesteps of DPM-Solver++, falling, as if there were one more, which the solver reaches without asking the network.
pub(super) fn dpm_solver(total: usize, steps: usize) -> Vec<usize> {
    let steps = steps.min(total - 1).max(1);
    falling(total, total / (steps + 1), 1..steps + 1)
}

/// The multiples of `stride`, moved up by the offset where that leaves the noisiest of them below `total`.
fn falling(total: usize, stride: usize, multiples: std::ops::Range<usize>) -> Vec<usize> {
    let noisiest = (multiples.end - 1) * stride;
    let offset = OFFSET.min(total - 1 - noisiest);
    multiples.rev().map(|i| i * stride + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_are_those_of_diffusers() {
        assert_eq!(ddim(1000, 4), [751, 501, 251, 1]);
        assert_eq!(ddim(1000, 7), [853, 711, 569, 427, 285, 143, 1]);
        let reference = dpm_solver(1000, 25);
        assert_eq!((reference.len(), &reference[..2], &reference[23..]), (25, &[951, 913][..], &[77, 39][..]));
        assert_eq!(dpm_solver(1000, 1), [501]);
    }

    #[test]
    fn any_number_of_steps_stays_on_the_schedule() {
        for total in 1..40 {
            for steps in 1..=total {
                for timesteps in [ddim(total, steps), dpm_solver(total, steps)] {
                    assert!(timesteps.iter().all(|&t| t < total), "{steps} of {total}: {timesteps:?}");
                    assert!(timesteps.is_sorted_by(|a, b| a > b), "{steps} of {total}: {timesteps:?}");
                }
            }
        }
        assert_eq!(ddim(3, 10), [2, 1, 0]);
    }
}
