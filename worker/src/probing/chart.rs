//! A picture of what a probe says beside what is right.

use super::targets::{Answer, Target};
use crate::evaluation::{Picture, captioned, colour};
use crate::inference::to_vec;
use tch::{Kind, TchError, Tensor};

/// Side of the picture; what is below the plot belongs to the caption.
const SIDE: usize = 112;
/// Side of the plot.
const PLOT: usize = 100;
/// Figures from -RANGE to RANGE are shown: those said may leave [-1, 1].
const RANGE: f32 = 1.1;
/// The line on which right answers lie.
const GUIDE: [u8; 3] = [200, 202, 208];
/// All objects of a class.
const FULL: [f32; 3] = [24.0, 64.0, 160.0];
/// None of them.
const EMPTY: [f32; 3] = [236.0, 238.0, 242.0];

/// A plot of what a probe says, [N, width], about the objects of `target`. A category: said classes across, true classes down, as shares of each
/// true class. Figures: the true one across, the said one up, each figure of the label in a colour of its own.
///
/// # Errors
/// Tensors that cannot be read.
pub fn chart(target: &Target, said: &Tensor, caption: &str) -> Result<Picture, TchError> {
    let mut picture = Picture::blank(SIDE);
    let left = (SIDE - PLOT) / 2;
    match &target.answer {
        Answer::Category { codes, classes } => {
            let (right, said) = (to_vec::<i64>(codes)?, to_vec::<i64>(&said.argmax(1, false))?);
            let shares = confusion(&right, &said, *classes as usize);
            for (x, y) in (0..PLOT).flat_map(|x| (0..PLOT).map(move |y| (x, y))) {
                let class = |place: usize| place * *classes as usize / PLOT;
                let share = shares[class(y)][class(x)];
                let blend = |channel: usize| (EMPTY[channel] + share * (FULL[channel] - EMPTY[channel])) as u8;
                picture.set(left + x, y, [0, 1, 2].map(blend));
            }
        }
        Answer::Figures { values, known, .. } => {
            let place = |value: f32| ((value.clamp(-RANGE, RANGE) / RANGE + 1.0) / 2.0 * (PLOT - 2) as f32) as usize;
            (0..PLOT).for_each(|step| picture.set(left + step, PLOT - 1 - step, GUIDE));
            let known = known.gt(0.0);
            for figure in 0..values.size()[1] {
                let of = |all: &Tensor| to_vec::<f32>(&all.narrow(1, figure, 1).masked_select(&known).to_kind(Kind::Float));
                for (right, said) in of(values)?.into_iter().zip(of(said)?) {
                    let (x, y) = (left + place(right), PLOT - 2 - place(said));
                    for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                        picture.set(x + dx, y + dy, colour(1 + figure as usize));
                    }
                }
            }
        }
    }
    Ok(captioned(&picture, caption))
}

/// Of the objects of every class, the share that is said to be of each, `[true class][said class]`.
fn confusion(right: &[i64], said: &[i64], classes: usize) -> Vec<Vec<f32>> {
    let mut counts = vec![vec![0.0; classes]; classes];
    let known = right.iter().zip(said).filter_map(|(&right, &said)| Some((usize::try_from(right).ok()?, said as usize)));
    known.for_each(|(right, said)| counts[right][said] += 1.0);
    for row in &mut counts {
        let all: f32 = row.iter().sum();
        row.iter_mut().for_each(|count| *count /= all.max(1.0));
    }
    counts
}
