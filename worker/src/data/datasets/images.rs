//! Images without masks and labels: FFHQ, and any folder.
//!
//! ```text
//! images1024x1024/00000/00000.png          FFHQ: numbered, with or without folders of 1,000; number 60,000 and up are for validation
//! train/*.png  validation/*.png            any folder: splits by the names of folders, or else a share that is held out
//! ```

use super::clevr::base;
use super::files::{Files, is_image};
use super::source::Source;
use super::split::Published;
use super::{Contents, ImportError, Importer, Member, Sample};
use crate::data::datasets::picture::decode_picture;
use crate::scenes::Split;
use bytes::Bytes;

/// Where FFHQ's validation split begins (Karras et al. 2019).
const FFHQ_VALIDATION: u64 = 60_000;

/// The data set.
pub(super) struct Images {
    files: Files,
    members: Vec<Member>,
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

    fn of(mut files: Files, found: Vec<(usize, Published)>, expected: &'static str) -> Result<Self, ImportError> {
        if found.is_empty() {
            return Err(ImportError::Empty { url: files.url(), expected });
        }
        let order = files.arrange(found.iter().map(|(at, _)| vec![*at]).collect());
        let member = |&at: &usize| {
            let (entry, published) = found[at];
            let name = files.entries()[entry].name.clone();
            Member { group: name.clone(), name, published }
        };
        let members = order.iter().map(member).collect();
        Ok(Self { files, members })
    }
}

fn images(files: &Files) -> impl Iterator<Item = usize> {
    (0..files.entries().len()).filter(|&at| is_image(&files.entries()[at].name))
}

/// The split that a folder in the path is named for.
fn by_folder(name: &str) -> Published {
    let folders = name.split('/').rev().skip(1);
    let named = folders.filter_map(|folder| match folder {
        "train" | "training" => Some(Published::As(Split::Train)),
        "val" | "valid" | "validation" => Some(Published::As(Split::Validation)),
        "test" => Some(Published::Apart),
        _ => None,
    });
    named.last().unwrap_or(Published::Unsplit)
}

impl Importer for Images {
    fn url(&self) -> String {
        self.files.url()
    }

    fn contents(&self) -> Contents {
        Contents { masks: false, labels: &[] }
    }

    fn members(&self) -> &[Member] {
        &self.members
    }

    fn fetch(&self, members: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        self.files.fetch(members)
    }

    fn decode(&self, member: usize, bytes: &[Bytes], _frame: usize) -> Result<Sample, ImportError> {
        let file = self.files.name_url(self.files.sample(member)[0]);
        let picture = decode_picture(&bytes[0], &file)?;
        Ok(Sample { file, picture, mask: None, objects: 0, visibility: Vec::new(), rows: Vec::new() })
    }
}
