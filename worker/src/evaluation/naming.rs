//! Names of found segments: those of the objects that they match.

use super::match_labels;

/// The predicted labels renamed to the true labels they match, so that a found object has its colour; the others get further names.
pub fn in_colours_of_truth<'a>(truth: &[u8], predicted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let matches = match_labels(truth, predicted);
    let mut names: Vec<Option<usize>> = vec![None; 256];
    for (label, slot) in matches.iter().enumerate() {
        if let Some(slot) = slot {
            names[*slot] = Some(label);
        }
    }
    let mut next = matches.len();
    let names: Vec<usize> = names
        .into_iter()
        .map(|name| {
            name.unwrap_or_else(|| {
                next += 1;
                next - 1
            })
        })
        .collect();
    predicted.iter().map(move |&slot| names[usize::from(slot)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_objects_have_the_colours_of_the_truth_and_others_have_none_of_them() {
        let renamed: Vec<usize> = in_colours_of_truth(&[0, 0, 0, 1, 1, 2, 2, 0], &[4, 4, 4, 0, 0, 2, 2, 3]).collect();
        assert_eq!(renamed[..7], [0, 0, 0, 1, 1, 2, 2]);
        assert!(renamed[7] > 2);
    }
}
