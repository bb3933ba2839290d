//! A segmentation that never looks at the image: what figures position alone is worth.

use crate::collectives::Solo;
use crate::concepts::{Clustering, ConceptsError, Points};
use crate::inference::to_vec;
use tch::{Device, Tensor};

/// Pixels that the cells are fitted to.
const PIXELS: usize = 20_000;

/// Cuts the picture into `cells` fixed cells, the same for every image: the Voronoi cells of the k-means centres of where the pixels of
/// objects lie in `masks`, each of `side * side` instance labels. A model that only divides the picture by position scores about as much.
/// Returns the label of every pixel.
///
/// # Errors
/// No memory.
pub fn position_cells(masks: &[Vec<u8>], side: usize, cells: usize) -> Result<Vec<u8>, ConceptsError> {
    let objects: usize = masks.iter().flatten().filter(|&&label| label > 0).count();
    let place = |pixel: usize| [(pixel % side) as f32, (pixel / side) as f32];
    let foreground = masks.iter().flat_map(|mask| mask.iter().enumerate().filter(|(_, label)| **label > 0));
    let points: Vec<f32> = foreground.step_by(objects.div_ceil(PIXELS).max(1)).flat_map(|(pixel, _)| place(pixel)).collect();
    if points.len() / 2 < cells {
        return Ok(vec![0; side * side]);
    }
    let places = Tensor::from_slice(&points).view([-1, 2]);
    let points = Points { rows: &places, first: 0, total: places.size()[0].unsigned_abs(), device: Device::Cpu };
    let clustering = Clustering { clusters: cells, restarts: 4, batch: 0, seed: 0 };
    let centres: Vec<f32> = to_vec(&clustering.run(&points, &mut Solo, |_| ())?.centres)?;
    let nearest = |pixel: usize| {
        let [x, y] = place(pixel);
        let distances = centres.chunks_exact(2).map(|centre| (x - centre[0]).powi(2) + (y - centre[1]).powi(2)).enumerate();
        distances.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(cell, _)| cell as u8)
    };
    Ok((0..side * side).map(nearest).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_where_objects_are_and_cover_the_picture() {
        // Objects always stand in the four corners of a picture of 16 x 16.
        let corner = |pixel: usize| if (pixel % 16).abs_diff(7) > 4 && (pixel / 16).abs_diff(7) > 4 { 1 } else { 0 };
        let masks = vec![(0..256).map(corner).collect::<Vec<u8>>(); 3];
        let cells = position_cells(&masks, 16, 4).unwrap();
        let corners = [cells[0], cells[15], cells[240], cells[255]];
        let mut distinct = corners.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "{corners:?}");
        assert_eq!(position_cells(&[vec![0; 256]], 16, 4).unwrap(), vec![0; 256]);
    }
}
