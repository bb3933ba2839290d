//! What data sets say about their objects: tables with one row per object.

/// One table.
pub(super) struct Label {
    /// Name of its column.
    pub(super) name: &'static str,
    /// What is in a row.
    pub(super) kind: Kind,
}

/// What is in the row of an object.
pub(super) enum Kind {
    /// One of these names, stored as its index, i64; -1 where there is no object or another name. Without names, the codes are those of
    /// the data set.
    Category(&'static [&'static str]),
    /// Figures of this shape, f32, as published; NaN where there is no object.
    Figures(&'static [usize]),
}

impl Label {
    /// A table of names.
    pub(super) const fn category(name: &'static str, names: &'static [&'static str]) -> Self {
        Self { name, kind: Kind::Category(names) }
    }

    /// A table of figures.
    pub(super) const fn figures(name: &'static str, shape: &'static [usize]) -> Self {
        Self { name, kind: Kind::Figures(shape) }
    }

    /// Figures per object.
    pub(super) fn width(&self) -> usize {
        match self.kind {
            Kind::Category(_) => 1,
            Kind::Figures(shape) => shape.iter().product(),
        }
    }
}

/// The rows of one image's objects, in the order of their instances.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rows {
    /// Of a [`Kind::Category`].
    Codes(Vec<i64>),
    /// Of a [`Kind::Figures`].
    Figures(Vec<f32>),
}

impl Rows {
    /// Codes of names; -1 for a name that is not among them.
    pub(super) fn named<'n>(names: &[&str], found: impl Iterator<Item = Option<&'n str>>) -> Self {
        let code = |found: Option<&str>| {
            let place = found.and_then(|found| names.iter().position(|name| name.eq_ignore_ascii_case(found)));
            place.map_or(-1, |place| place as i64)
        };
        Self::Codes(found.map(code).collect())
    }
}
