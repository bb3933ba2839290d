//! A segmentation that never looks at the image: what figures position alone is worth.

use crate::concepts::k_means;

/// Pixels that the cells are fitted to.
const PIXELS: usize = 20_000;

/// Cuts the picture into `cells` fixed cells, the same for every image: the Voronoi cells of the k-means centres of where the pixels of
/// objects lie in `masks`, each of `side * side` instance labels. A model that only divides the picture by position scores about as much.
/// Returns the label of every pixel.
pub fn position_cells(masks: &[Vec<u8>], side: usize, cells: usize) -> Vec<u8> {
    let objects: usize = masks.iter().flatten().filter(|&&label| label > 0).count();
    let place = |pixel: usize| [(pixel % side) as f32, (pixel / side) as f32];
    let foreground = masks.iter().flat_map(|mask| mask.iter().enumerate().filter(|(_, label)| **label > 0));
    let points: Vec<f32> = foreground.step_by(objects.div_ceil(PIXELS).max(1)).flat_map(|(pixel, _)| place(pixel)).collect();
    if points.len() / 2 < cells {
        return vec![0; side * side];
    }
    let clusters = k_means(&points, 2, cells, 0);
    let centres: Vec<[f32; 2]> = clusters.members.iter().map(|members| mean(&points, members)).collect();
    let nearest = |pixel: usize| {
        let [x, y] = place(pixel);
        let distances = centres.iter().map(|[cx, cy]| (x - cx).powi(2) + (y - cy).powi(2)).enumerate();
        distances.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(cell, _)| cell as u8)
    };
    (0..side * side).map(nearest).collect()
}

fn mean(points: &[f32], members: &[usize]) -> [f32; 2] {
    let sum = |axis: usize| members.iter().map(|&member| f64::from(points[2 * member + axis])).sum::<f64>();
    [0, 1].map(|axis| (sum(axis) / members.len() as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_where_objects_are_and_cover_the_picture() {
        // Objects always stand in the four corners of a picture of 16 x 16.
        let corner = |pixel: usize| if (pixel % 16).abs_diff(7) > 4 && (pixel / 16).abs_diff(7) > 4 { 1 } else { 0 };
        let masks = vec![(0..256).map(corner).collect::<Vec<u8>>(); 3];
        let cells = position_cells(&masks, 16, 4);
        let corners = [cells[0], cells[15], cells[240], cells[255]];
        let mut distinct = corners.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "{corners:?}");
        assert_eq!(position_cells(&[vec![0; 256]], 16, 4), vec![0; 256]);
    }
}
