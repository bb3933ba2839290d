//! The assignment problem: which slot stands for which object.

/// Gives every row its own column such that the total cost is least, by the Hungarian method with shortest augmenting paths
/// (O(rows^2 * columns)). `cost` is row-major, `[rows, columns]`, finite. With more rows than columns some rows get none.
pub fn assign(cost: &[f64], rows: usize, columns: usize) -> Vec<Option<usize>> {
    if rows > columns {
        let transposed: Vec<f64> = (0..columns * rows).map(|i| cost[i % rows * columns + i / rows]).collect();
        let mut assignment = vec![None; rows];
        for (column, row) in assign(&transposed, columns, rows).into_iter().enumerate() {
            if let Some(row) = row {
                assignment[row] = Some(column);
            }
        }
        return assignment;
    }
    let mut matching = Matching { potentials: (vec![0.0; rows], vec![0.0; columns]), row_of: vec![None; columns] };
    for row in 0..rows {
        matching.augment(cost, row);
    }
    let mut assignment = vec![None; rows];
    for (column, row) in matching.row_of.into_iter().enumerate() {
        if let Some(row) = row {
            assignment[row] = Some(column);
        }
    }
    assignment
}

/// An optimal matching of the rows seen so far. `cost - row potential - column potential` is never negative, and 0 on matched pairs.
struct Matching {
    potentials: (Vec<f64>, Vec<f64>),
    row_of: Vec<Option<usize>>,
}

impl Matching {
    /// Brings in `start`, moving matched rows along the shortest path to a free column.
    fn augment(&mut self, cost: &[f64], start: usize) {
        let columns = self.row_of.len();
        let mut distance = vec![f64::INFINITY; columns];
        let mut came_from = vec![None; columns];
        let mut done = vec![false; columns];
        let (mut row, mut reached, mut last) = (start, 0.0, None);
        let end = loop {
            for column in (0..columns).filter(|&column| !done[column]) {
                let slack = cost[row * columns + column] - self.potentials.0[row] - self.potentials.1[column];
                if reached + slack < distance[column] {
                    distance[column] = reached + slack;
                    came_from[column] = last;
                }
            }
            let open = (0..columns).filter(|&column| !done[column]);
            let Some(column) = open.min_by(|&a, &b| distance[a].total_cmp(&distance[b])) else { return };
            reached = distance[column];
            done[column] = true;
            match self.row_of[column] {
                Some(next) => (row, last) = (next, Some(column)),
                None => break column,
            }
        };
        for column in (0..columns).filter(|&column| done[column]) {
            self.potentials.1[column] -= reached - distance[column];
            if let Some(row) = self.row_of[column] {
                self.potentials.0[row] += reached - distance[column];
            }
        }
        self.potentials.0[start] += reached;
        let mut column = end;
        while let Some(previous) = came_from[column] {
            self.row_of[column] = self.row_of[previous];
            column = previous;
        }
        self.row_of[column] = Some(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The least total cost over all assignments, by trying them all.
    fn least(cost: &[f64], rows: usize, columns: usize, row: usize, taken: u32, to_skip: usize) -> f64 {
        if row == rows {
            return 0.0;
        }
        let skip = if to_skip > 0 { least(cost, rows, columns, row + 1, taken, to_skip - 1) } else { f64::INFINITY };
        let free = (0..columns).filter(|column| taken & (1 << column) == 0);
        free.map(|c| cost[row * columns + c] + least(cost, rows, columns, row + 1, taken | 1 << c, to_skip)).fold(skip, f64::min)
    }

    proptest! {
        #[test]
        fn no_other_assignment_costs_less(rows in 1usize..6, columns in 1usize..6, values in prop::collection::vec(-9i32..9, 36)) {
            let cost: Vec<f64> = values[..rows * columns].iter().map(|&value| f64::from(value) / 4.0).collect();
            let assignment = assign(&cost, rows, columns);
            let mut used: Vec<usize> = assignment.iter().flatten().copied().collect();
            let total: f64 = assignment.iter().enumerate().filter_map(|(row, column)| Some(cost[row * columns + (*column)?])).sum();
            used.sort_unstable();
            used.dedup();
            prop_assert_eq!(used.len(), rows.min(columns));
            prop_assert!((total - least(&cost, rows, columns, 0, 0, rows.saturating_sub(columns))).abs() < 1e-9);
        }
    }
}
