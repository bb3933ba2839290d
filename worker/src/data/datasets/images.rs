//! Images without masks and labels: FFHQ, and any folder.
//!
//! ```text
//! images1024x1024/00000/00000.png          FFHQ: numbered, with or without folders of 1,000; number 60,000 and up are for validation
//! train/*.png  validation/*.png            any folder: splits by the names of folders, or else a share that is held out
//! ```

use super::clevr::base;
use super::files::{FileImporter, Files, Members, is_image};
use super::picture::decode_picture;
use super::source::Source;
use super::split::Published;
use super::{Contents, ImportError, Kept, Member, Sample};
use crate::scenes::Split;
use bytes::Bytes;

/// Where FFHQ's validation split begins (Karras et al. 2019).
const FFHQ_VALIDATION: u64 = 60_000;

/// The data set.
pub(super) struct Images {
    members: Members,
}

impl Images {
    /// FFHQ.
    pub(super) fn numbered(source: Source) -> Result<Self, ImportError> {
        let files = Files::open(source)?;
        let number = |name: &str| base(name).split_once('.')?.0.parse::<u64>().ok();
        let mut found: Vec<(u64, usize)> = images(&files).filter_map(|at| Some((number(&files.entries()[at].name)?, at))).collect();
        found.sort_unstable();
        if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = |image: usize| files.entries()[pair[image].1].name.clone();
            return Err(ImportError::Mixed { url: files.url(), one: name(0), other: name(1) });
        }
        let split = |number| Published::As(if number < FFHQ_VALIDATION { Split::Train } else { Split::Validation });
        let found = found.into_iter().map(|(number, at)| (at, split(number))).collect();
        Self::of(files, found, "images as 00000.png")
    }

    /// Any folder.
    pub(super) fn any(source: Source) -> Result<Self, ImportError> {
        let files = Files::open(source)?;
        let found = images(&files).map(|at| (at, by_folder(&files.entries()[at].name))).collect();
        Self::of(files, found, "PNG, JPEG or WebP images")
    }

    fn of(files: Files, found: Vec<(usize, Published)>, expected: &'static str) -> Result<Self, ImportError> {
        if found.is_empty() {
            return Err(ImportError::Empty { url: files.url(), expected });
        }
        let member = |(entry, published): (usize, Published)| {
            let name = files.entries()[entry].name.clone();
            (Member { group: name.clone(), name, published }, vec![entry])
        };
        let found = found.into_iter().map(member).collect();
        let (members, _) = Members::arrange(files, found);
        Ok(Self { members })
    }
}

fn images(files: &Files) -> impl Iterator<Item = usize> {
    (0..files.entries().len()).filter(|&at| is_image(&files.entries()[at].name))
}

/// The split that a folder in the path is named for.
fn by_folder(name: &str) -> Published {
    let folders = name.split('/').rev().skip(1);
    folders.filter_map(Published::by_word).last().unwrap_or(Published::Unsplit)
}

impl FileImporter for Images {
    fn members(&self) -> &Members {
        &self.members
    }

    fn contents(&self, _member: usize) -> Contents {
        Contents::of_objects(false, &[])
    }

    fn decode(&self, member: usize, bytes: &[Bytes]) -> Result<Sample, ImportError> {
        let file = self.members.file(member, 0);
        let picture = decode_picture(&bytes[0], &file)?;
        let kept = Kept { files: [Some(bytes[0].clone()), None], arrays: Vec::new() };
        Ok(Sample { file, picture, mask: None, objects: 0, visibility: Vec::new(), rows: Vec::new(), kept })
    }
}
